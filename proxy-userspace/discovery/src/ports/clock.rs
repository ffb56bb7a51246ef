//! Two clocks read together: the kernel tells when something happened in the time since the machine started.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

use portsplice_model::Timestamp;

/// A moment by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// `CLOCK_MONOTONIC` in nanoseconds, which `bpf_ktime_get_ns` counts too.
    pub(super) monotonic: u64,
    /// The time of day.
    pub(super) wall: SystemTime,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { monotonic: monotonic(), wall: SystemTime::now() }
    }

    /// The time of day of a moment that the kernel told; this one for moments to come.
    pub(super) fn at(&self, monotonic: u64) -> Timestamp {
        let ago = Duration::from_nanos(self.monotonic.saturating_sub(monotonic));
        self.wall.checked_sub(ago).unwrap_or(self.wall).into()
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(super) fn monotonic() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// How long the calling thread has computed. What it costs is known by this: on a busy machine, most of the time that passes
/// is others'.
pub(super) fn computed() -> Duration {
    Duration::from_nanos(nanoseconds(ClockId::ThreadCPUTime))
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
