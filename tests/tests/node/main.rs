//! `portsplice node`, end to end, in network namespaces: one module for each promise.
//!
//! One binary, so that all of it shares the test runner's threads. Needs root; see `portsplice_tests::privileged`.

mod activation;
mod addresses;
mod autobahn;
mod bad_answers;
mod bulk;
mod cancelled;
mod cli;
mod config;
mod credentials;
mod daemon;
mod databases;
mod drain;
mod early;
mod endings;
mod framing;
mod heads;
mod idle;
mod idle_origins;
mod keep_alive;
mod lifecycle;
mod limits;
mod names;
mod observing;
mod pacing;
mod paused;
mod pauses;
mod process;
mod refusals;
mod reload;
mod repeated;
mod resets;
mod servers;
mod source_ports;
mod tunnels;
mod unwatched;
mod urgent;
mod websocket;
