//! Timeouts whose zero means "off".

use std::time::Duration;

use tokio::time::Instant;

/// The moment at which `timeout` will have passed; one that is far enough away when it is zero, which stands for "off".
pub fn deadline(timeout: Duration) -> Instant {
    after(Instant::now(), timeout)
}

/// The same, counted from `began`.
pub fn after(began: Instant, timeout: Duration) -> Instant {
    const OFF: Duration = Duration::from_secs(365 * 24 * 3600);
    began + if timeout.is_zero() { OFF } else { timeout.min(OFF) }
}
