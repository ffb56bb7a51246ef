//! Counting what is moved for a container.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use portsplice_model::Traffic;

/// [`Traffic`], counted by many threads.
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
