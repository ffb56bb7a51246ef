//! One line per request, with target `portsplice::access` at level info.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::download::ResponseStats;
use super::request::RequestInfo;
use crate::logging::ACCESS_TARGET;
use crate::metrics::Path;

/// What the line says, beside what was read of the request.
pub(super) struct AccessLogEntry<'a> {
    pub(super) client: SocketAddr,
    pub(super) info: &'a RequestInfo,
    pub(super) stats: &'a ResponseStats,
    pub(super) began: Instant,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) path: Path,
    /// Of `bytes_down`, those that the kernel carried past the daemon.
    pub(super) bytes_fast: u64,
    /// The gateway error's label, or why the connection was cut.
    pub(super) note: Option<&'a str>,
}

impl AccessLogEntry<'_> {
    pub(super) fn write(&self) {
        let milliseconds = |at: Instant| milliseconds(at.duration_since(self.began));
        tracing::info!(
            target: ACCESS_TARGET,
            client = %self.client,
            container = %self.info.container,
            port = self.info.port,
            method = %self.info.method,
            request_target = %self.info.target,
            status = self.stats.status.unwrap_or(0),
            bytes_up = self.bytes_up,
            bytes_down = self.bytes_down,
            first_byte_ms = self.stats.first_byte.map(milliseconds),
            duration_ms = milliseconds(Instant::now()),
            path = self.path.label(),
            fast_percent = (self.path == Path::Fast).then(|| fast_percent(self.bytes_fast, self.bytes_down)),
            note = self.note,
        );
    }
}

/// Milliseconds to the microsecond. Dividing whole microseconds gives the number that is nearest to three decimals, which is
/// printed with three; a product of fractions would show its rounding in a dozen more.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// The share of the fast path in what went down, rounded down: 100 means all of it.
fn fast_percent(fast: u64, all: u64) -> u64 {
    (u128::from(fast) * 100).checked_div(u128::from(all)).map_or(0, |percent| percent as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_decimals_at_most() {
        for (nanoseconds, shown) in
            [(60_063_409_737, "60063.409"), (1_100_000, "1.1"), (999, "0"), (86_399_999_999_999, "86399999.999")]
        {
            assert_eq!(milliseconds(Duration::from_nanos(nanoseconds)).to_string(), shown);
        }
        for microseconds in (1..100_000_000).step_by(997) {
            let shown = milliseconds(Duration::from_micros(microseconds)).to_string();
            assert!(shown.split('.').nth(1).is_none_or(|decimals| decimals.len() <= 3), "{shown}");
        }
    }
}
