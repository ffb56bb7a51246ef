//! The load: what is done to a system, and what is measured while it is done.
//!
//! Everything here runs on threads inside the controller's namespace.

pub(crate) mod bulk;
pub(crate) mod conn;
pub(crate) mod echo;
pub(crate) mod idle;
pub(crate) mod requests;
pub(crate) mod sse;

/// How much of each is done in one round.
#[derive(Clone, Copy)]
pub(crate) struct Amounts {
    /// Bytes of one bulk transfer.
    pub(crate) bulk_bytes: u64,
    /// Round trips of 64 bytes.
    pub(crate) round_trips: usize,
    /// Requests for 1 KiB over 32 connections.
    pub(crate) requests: usize,
    /// Connections opened for one request each.
    pub(crate) connections: usize,
    /// Events a stream, see [`sse`].
    pub(crate) events: u64,
    /// Connections kept open and idle.
    pub(crate) idle: usize,
}

impl Amounts {
    /// For results that are kept.
    pub(crate) const FULL: Self = Self {
        bulk_bytes: 2_000_000_000,
        round_trips: 15_000,
        requests: 40_000,
        connections: 4_000,
        events: 300,
        idle: 2_000,
    };
    /// For a look, and for CI.
    pub(crate) const QUICK: Self = Self {
        bulk_bytes: 200_000_000,
        round_trips: 2_000,
        requests: 6_000,
        connections: 600,
        events: 60,
        idle: 1_000,
    };
}
