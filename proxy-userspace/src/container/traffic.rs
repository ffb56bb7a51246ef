//! What was moved for a container.

use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Counts of requests and of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Traffic {
    /// Requests, and upgraded connections.
    pub requests: u64,
    /// Bytes from controllers to the container.
    pub bytes_up: u64,
    /// Bytes from the container to controllers.
    pub bytes_down: u64,
    /// Of those, the ones that the kernel carried past the daemon.
    pub bytes_fast: u64,
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            bytes_up: self.bytes_up + other.bytes_up,
            bytes_down: self.bytes_down + other.bytes_down,
            bytes_fast: self.bytes_fast + other.bytes_fast,
        }
    }
}

/// What has come since `before`. Counts that are read while they change may be a moment apart, so none goes below zero.
impl Sub for Traffic {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(before.requests),
            bytes_up: self.bytes_up.saturating_sub(before.bytes_up),
            bytes_down: self.bytes_down.saturating_sub(before.bytes_down),
            bytes_fast: self.bytes_fast.saturating_sub(before.bytes_fast),
        }
    }
}

/// The same, counted by many threads.
#[derive(Debug, Default)]
pub(super) struct Totals([AtomicU64; 4]);

impl Totals {
    pub(super) fn add(&self, Traffic { requests, bytes_up, bytes_down, bytes_fast }: Traffic) {
        for (total, n) in self.0.iter().zip([requests, bytes_up, bytes_down, bytes_fast]) {
            if n > 0 {
                total.fetch_add(n, Relaxed);
            }
        }
    }

    pub(super) fn sum(&self) -> Traffic {
        let [requests, bytes_up, bytes_down, bytes_fast] = [0, 1, 2, 3].map(|n: usize| self.0[n].load(Relaxed));
        Traffic { requests, bytes_up, bytes_down, bytes_fast }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_is_summed_and_no_difference_is_negative() {
        let (one, two) = (
            Traffic { requests: 1, bytes_up: 2, bytes_down: 3, bytes_fast: 0 },
            Traffic { requests: 0, bytes_up: 10, bytes_down: 20, bytes_fast: 15 },
        );
        let totals = Totals::default();
        totals.add(one);
        totals.add(two);
        assert_eq!(totals.sum(), one + two);
        assert_eq!(one + two - one, two);
        assert_eq!(one - two, Traffic { requests: 1, ..Traffic::default() });
    }
}
