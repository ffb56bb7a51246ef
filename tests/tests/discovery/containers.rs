//! The resolvers and the dialler against a real Docker Engine, real namespaces and real processes.
//!
//! Needs root, Debian's `docker.io`, `podman`, `iproute2` and `busybox`. Each engine is private: its own socket, data and
//! containers below a temporary directory. A test that cannot run fails, unless PORTSPLICE_SKIP_PRIVILEGED=1.

#![allow(clippy::print_stderr)] // that a test is skipped is for whoever runs it

mod docker;
mod engine;
mod pids;
mod podman;
mod registered;
mod sick;
mod support;
