//! When to look at which namespace. It has no clock and does no I/O.
//!
//! Each namespace is scanned when it comes, when there is doubt, and once an interval in any case. Where the kernel may
//! not tell of an end (the socket listened before the daemon knew its namespace) or tells nothing at all, it is scanned
//! as often as a share of one processor allows.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use portsplice_net::netns::NetnsId;

/// Looks without doubt come together at times so far apart. The kernel's table of listeners is the same for all namespaces, so
/// the first look brings it into the processor's caches for the others; one by one they cost up to twice as much.
const TICK: Duration = Duration::from_secs(1);
/// The shortest time between two looks without doubt, and between two that doubt brings about: a container that raises doubt
/// all the time costs no more than this.
const SHORTEST: Duration = Duration::from_secs(1);
/// The part of one processor that looking without doubt and before the interval is over may take: one two-hundredth.
const SHARE: u32 = 200;

/// The namespaces, and when each is due.
#[derive(Debug)]
pub(super) struct Schedule {
    start: Instant,
    rescan: Duration,
    entries: HashMap<NetnsId, Entry>,
    due: BTreeSet<(Instant, NetnsId)>,
    /// How many are scanned often.
    often: u32,
    /// What a look costs of a processor, smoothed.
    cost: Duration,
}

#[derive(Debug)]
struct Entry {
    due: Instant,
    scanned: Option<Instant>,
    /// When the interval is over.
    slow: Instant,
    often: bool,
}

impl Schedule {
    pub(super) fn new(rescan: Duration, start: Instant) -> Self {
        let (entries, due) = (HashMap::new(), BTreeSet::new());
        Self { start, rescan, entries, due, often: 0, cost: Duration::ZERO }
    }

    /// A namespace has come: it is due at once. Afterwards its interval begins at a place of its own, `spread` of the whole
    /// (0 to 1), so that not all are due together.
    pub(super) fn add(&mut self, id: NetnsId, now: Instant, spread: f64) {
        self.remove(id);
        let slow = now + self.rescan.mul_f64(spread.clamp(0.0, 1.0)).max(SHORTEST.min(self.rescan));
        self.entries.insert(id, Entry { due: now, scanned: None, slow, often: false });
        self.due.insert((now, id));
    }

    pub(super) fn remove(&mut self, id: NetnsId) {
        if let Some(entry) = self.entries.remove(&id) {
            self.due.remove(&(entry.due, id));
            self.often -= u32::from(entry.often);
        }
    }

    /// What is known of a namespace may be wrong. Whether it is due earlier now.
    pub(super) fn mark_stale(&mut self, id: NetnsId, now: Instant) -> bool {
        let Some(entry) = self.entries.get(&id) else { return false };
        let soonest = entry.scanned.map_or(now, |scanned| now.max(scanned + SHORTEST));
        if entry.due <= soonest {
            return false;
        }
        self.set(id, soonest);
        true
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|&(due, _)| due)
    }

    /// One that is due now. It is not due again before [`Schedule::scanned`] says that it was looked at.
    pub(super) fn take(&mut self, now: Instant) -> Option<NetnsId> {
        let &(due, id) = self.due.first().filter(|&&(due, _)| due <= now)?;
        self.due.remove(&(due, id));
        let entry = self.entries.get_mut(&id)?;
        entry.scanned = Some(now);
        // In case nobody says so; and doubt that comes meanwhile wants another look.
        entry.due = now + self.rescan;
        self.due.insert((entry.due, id));
        Some(id)
    }

    /// A namespace was looked at, which began at `began`, was over `now`, and took `cost` of a processor. `often`: the kernel may
    /// not tell all that happens there.
    pub(super) fn scanned(&mut self, id: NetnsId, began: Instant, now: Instant, cost: Duration, often: bool) {
        self.cost = if self.cost.is_zero() { cost } else { (self.cost * 7 + cost) / 8 };
        let Some(entry) = self.entries.get_mut(&id) else { return };
        self.often = self.often + u32::from(often) - u32::from(entry.often);
        entry.often = often;
        while entry.slow <= now {
            entry.slow += self.rescan.max(SHORTEST);
        }
        let slow = entry.slow;
        let doubted = Some(entry.due).filter(|&due| due < began + self.rescan);
        let soon = often.then(|| now + self.often_interval());
        let due = self.tick(soon.map_or(slow, |soon| soon.min(slow)));
        self.set(id, doubted.map_or(due, |doubted| doubted.min(due)));
    }

    /// How often those are scanned of which the kernel may not tell all.
    fn often_interval(&self) -> Duration {
        self.cost.saturating_mul(SHARE).saturating_mul(self.often).max(SHORTEST)
    }

    /// The first tick at or after a moment.
    fn tick(&self, at: Instant) -> Instant {
        let ticks = at.saturating_duration_since(self.start).as_nanos().div_ceil(TICK.as_nanos());
        self.start + TICK.saturating_mul(u32::try_from(ticks).unwrap_or(u32::MAX))
    }

    fn set(&mut self, id: NetnsId, due: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            self.due.remove(&(entry.due, id));
            entry.due = due;
            self.due.insert((due, id));
        }
    }
}

#[cfg(test)]
mod tests;
