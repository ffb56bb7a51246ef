//! What was moved for a container.

use std::ops::{Add, Sub};

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
