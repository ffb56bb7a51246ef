//! `portsplice node`, end to end, in network namespaces: one module for each promise.
//!
//! One binary, so that all of it shares the test runner's threads. Needs root; see `portsplice_tests::privileged`.

mod bulk;
mod framing;
mod keep_alive;
mod pacing;
mod resets;
mod tunnels;
