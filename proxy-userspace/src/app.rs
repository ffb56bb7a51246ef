//! The composition root: the skeleton of the daemons, and for each role the parts that it is made of.
//!
//! - [`daemon`]: start, readiness, signals, watchdog, reload, log level, admin server, drain and end, once for all roles.
//! - [`node`] and [`edge`]: what is a role's own.

mod control;
pub(crate) mod daemon;
pub(crate) mod edge;
mod host;
mod listeners;
pub(crate) mod node;
mod node_settings;
mod observe;
mod ports;
mod registry;
mod secrets;
mod service;
mod signals;

use std::io::Write;

use portsplice_registry::StoreError;

pub use ports::KernelNews;

/// The text of docs/metrics.md: every metric that a node or an edge can have.
pub(crate) fn metrics_document() -> String {
    observe::metrics_document()
}

/// An error of a store as one of the start. Its text says what its source says, which would be read twice in a chain.
fn store_error(error: StoreError) -> anyhow::Error {
    anyhow::Error::msg(error.to_string())
}

/// Tells people and tests what stands, on standard output. Nobody has to listen.
fn announce(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
