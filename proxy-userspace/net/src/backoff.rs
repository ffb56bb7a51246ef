//! Pauses that grow, and pauses of many that do not end together.

use std::ops::Range;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

/// Doubles from 0.1 s to 5 s, each shortened by up to a quarter at random, so that many nodes do not act in step.
#[derive(Debug)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// How long to wait now.
    pub fn pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(LONGEST);
        jittered(pause, 0.75..1.0)
    }
}

/// `pause` times a random number of `part`, so that those that wait for the same do not act in step.
pub fn jittered(pause: Duration, part: Range<f64>) -> Duration {
    pause.mul_f64(rand::random_range(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_a_bound() {
        let mut backoff = Backoff::default();
        let mut expected = FIRST;
        for _ in 0..12 {
            let pause = backoff.pause();
            assert!(pause <= expected && pause >= expected.mul_f64(0.74), "{pause:?} for {expected:?}");
            expected = (expected * 2).min(LONGEST);
        }
        assert_eq!(expected, LONGEST);
    }
}
