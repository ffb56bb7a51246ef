//! The memory of heads that are not whole yet: whoever sends them has proved nothing.
//!
//! A head that comes in one piece, or nearly so, costs nothing here. What is kept of one until the rest comes is kept in
//! as little memory as it takes, and beyond [`FREE`] it counts against one budget of the node. A head that does not fit is
//! refused; those that are kept end by the head timeout. What was used is given back to the system.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// So much of each unfinished head is not counted: the cap on connections bounds it, and nobody can use up what an
/// ordinary head needs.
const FREE: usize = 4096;

/// When so many octets more than now were kept since the last time, free memory is given back to the system.
const WORTH_GIVING_BACK: usize = 8 * 1024 * 1024;

/// How long that waits, so that it finds free what goes at the same time.
const GIVING_BACK_WAITS: Duration = Duration::from_secs(1);

/// What the unfinished heads of a node hold together.
#[derive(Debug, Default)]
pub(super) struct UnfinishedHeads {
    /// Octets of memory beyond what is free to each.
    counted: AtomicUsize,
    /// All octets of memory.
    held: AtomicUsize,
    /// Most of these since memory was given back.
    peak: AtomicUsize,
}

/// What one head holds; given back when dropped.
#[derive(Debug)]
pub(super) struct Held<'h> {
    heads: &'h UnfinishedHeads,
    octets: usize,
}

impl UnfinishedHeads {
    /// A head that holds nothing yet.
    pub(super) fn begin(&self) -> Held<'_> {
        Held { heads: self, octets: 0 }
    }

    /// Octets of memory that they hold now.
    pub(super) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Whether it is time to give memory back; says so once.
    fn has_shrunk(&self) -> bool {
        let held = self.held.load(Relaxed);
        let peak = self.peak.load(Relaxed);
        peak.saturating_sub(held) >= WORTH_GIVING_BACK
            && held < peak / 4
            && self.peak.compare_exchange(peak, held, Relaxed, Relaxed).is_ok()
    }
}

impl Held<'_> {
    /// The head holds `octets` of memory now; whether all heads together keep within `most`. One that does not must end.
    pub(super) fn keep(&mut self, octets: usize, most: usize) -> bool {
        // Nearly always, and the counters are every connection's.
        if octets == self.octets {
            return true;
        }
        let beyond = |octets: usize| octets.saturating_sub(FREE);
        let (before, after) = (beyond(self.octets), beyond(octets));
        if after > before {
            let more = after - before;
            let fits = |counted: usize| counted.checked_add(more).filter(|&sum| sum <= most);
            if self.heads.counted.fetch_update(Relaxed, Relaxed, fits).is_err() {
                return false;
            }
        } else {
            self.heads.counted.fetch_sub(before - after, Relaxed);
        }
        let held = if octets >= self.octets {
            self.heads.held.fetch_add(octets - self.octets, Relaxed) + (octets - self.octets)
        } else {
            self.heads.held.fetch_sub(self.octets - octets, Relaxed) - (self.octets - octets)
        };
        self.heads.peak.fetch_max(held, Relaxed);
        self.octets = octets;
        true
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if self.octets == 0 {
            return;
        }
        self.keep(0, usize::MAX);
        if self.heads.has_shrunk() {
            tokio::spawn(async {
                // Heads that ended together are still being freed.
                tokio::time::sleep(GIVING_BACK_WAITS).await;
                // Goes through all of the heap, which takes milliseconds when that is large.
                tokio::task::spawn_blocking(crate::memory::give_back);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_comes_back() {
        let heads = UnfinishedHeads::default();
        let mut small: Vec<_> = (0..100).map(|_| heads.begin()).collect();
        assert!(small.iter_mut().all(|head| head.keep(FREE, 0)), "so much is free");
        let (mut first, mut second) = (heads.begin(), heads.begin());
        assert!(first.keep(FREE + 600, 1000));
        assert!(second.keep(FREE + 400, 1000));
        assert!(!second.keep(FREE + 401, 1000), "no more than all of it");
        assert!(first.keep(FREE, 1000));
        assert!(second.keep(FREE + 401, 1000));
        drop((first, second, small));
        assert_eq!((heads.counted.into_inner(), heads.held.into_inner()), (0, 0));
    }

    #[test]
    fn memory_is_given_back_once_after_much_was_kept() {
        let heads = UnfinishedHeads::default();
        assert!(heads.begin().keep(WORTH_GIVING_BACK - 1, usize::MAX));
        assert!(!heads.has_shrunk(), "too little");
    }
}
