//! The load: what is done to a system, and what is measured while it is done.
//!
//! Everything here runs on threads inside the controller's namespace.

pub(crate) mod bulk;
pub(crate) mod echo;
pub(crate) mod idle;
pub(crate) mod requests;
pub(crate) mod sse;
pub(crate) mod streams;
pub(crate) mod tls;

use std::time::Duration;

/// How much of each is done in one round.
#[derive(Clone, Copy)]
pub(crate) struct Amounts {
    /// Bytes of one bulk transfer, at most.
    pub(crate) bulk_bytes: u64,
    /// Seconds that a bulk transfer should take the direct way.
    pub(crate) bulk_seconds: f64,
    /// Round trips of 64 bytes.
    pub(crate) round_trips: usize,
    /// Requests for 1 KiB over 32 connections.
    pub(crate) requests: usize,
    /// Connections opened for one request each.
    pub(crate) connections: usize,
    /// Events a stream, see [`sse`].
    pub(crate) events: u64,
    /// Events in each of a thousand streams, see [`streams`].
    pub(crate) thousand: u64,
    /// Connections kept open and idle.
    pub(crate) idle: usize,
}

impl Amounts {
    /// For results that are kept.
    pub(crate) const FULL: Self = Self {
        bulk_bytes: 4_000_000_000,
        bulk_seconds: 0.8,
        round_trips: 15_000,
        requests: 40_000,
        connections: 4_000,
        events: 300,
        thousand: 100,
        idle: 2_000,
    };
    /// For a look, and for CI.
    pub(crate) const QUICK: Self = Self {
        bulk_bytes: 400_000_000,
        bulk_seconds: 0.1,
        round_trips: 2_000,
        requests: 6_000,
        connections: 600,
        events: 60,
        thousand: 20,
        idle: 1_000,
    };
}

/// The least that a bulk transfer is worth: below it, opening and probing the path weigh too much.
const LEAST_BULK: u64 = 100_000_000;

impl Amounts {
    /// Fits the bulk transfers to this machine, given how long `probed` bytes took the direct way.
    pub(crate) fn fit(&mut self, probed: u64, took: Duration) {
        let fitting = probed as f64 / took.as_secs_f64().max(1e-6) * self.bulk_seconds;
        self.bulk_bytes = (fitting as u64).clamp(LEAST_BULK, self.bulk_bytes);
    }

    /// The size of the transfer to probe with.
    pub(crate) const PROBE: u64 = LEAST_BULK;
}
