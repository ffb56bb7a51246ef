//! A server that has too much to do says for how long it wants to be left alone.

use std::time::Duration;

use hyper::Response;
use hyper::header::RETRY_AFTER;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Until when a server is left alone.
#[derive(Debug)]
pub(super) struct Pause {
    until: Mutex<Option<Instant>>,
    /// What is waited when it does not say how long.
    unsaid: Duration,
    longest: Duration,
}

impl Pause {
    pub(super) fn new(unsaid: Duration, longest: Duration) -> Self {
        Self { until: Mutex::new(None), unsaid, longest }
    }

    /// Begins, for as long as an answer with the status 429 or 503 says (RFC 9110 10.2.3). A date is taken for no answer,
    /// since clocks differ.
    pub(super) fn begin<B>(&self, answer: &Response<B>) {
        let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let pause = seconds.map_or(self.unsaid, Duration::from_secs).min(self.longest);
        *self.until.lock() = Some(Instant::now() + pause);
    }

    /// The seconds that are left of it, rounded up.
    pub(super) fn left(&self) -> Option<u64> {
        let until = (*self.until.lock())?;
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        Some(left.as_secs() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lasts_as_long_as_the_server_says_within_bounds() {
        let answer = |after: &str| Response::builder().header(RETRY_AFTER, after).body(()).unwrap();
        let pause = Pause::new(Duration::from_secs(2), Duration::from_secs(20));
        assert_eq!(pause.left(), None);
        for (answer, seconds) in [(answer("7"), 7), (answer("9999"), 20), (answer("soon"), 2), (Response::new(()), 2)] {
            pause.begin(&answer);
            assert!(pause.left().is_some_and(|left| (seconds..=seconds + 1).contains(&left)), "{answer:?}");
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert_eq!(pause.left(), None, "{answer:?}");
        }
        pause.begin(&answer("0"));
        assert_eq!(pause.left(), None);
    }
}
