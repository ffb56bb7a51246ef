//! The daemon's side of the turns by which it and the verdict write to C; see [`proxy_common::turn`].

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use proxy_common::turn;

use super::table::Entry;

/// Why the daemon does not have the turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TurnError {
    /// A verdict is being reached: it is over in microseconds, unless the server's thread is stopped in the midst of it.
    Busy,
    /// The flow has ended.
    Closed,
}

impl Entry {
    /// Takes the turn for the daemon. That it has it already is as good.
    pub(super) fn claim(&self, generation: u32) -> Result<(), TurnError> {
        let (free, daemon) = (turn::free(generation), turn::daemon(generation));
        match self.turn.compare_exchange(free, daemon, AcqRel, Acquire) {
            Ok(_) => Ok(()),
            Err(found) if found == daemon => Ok(()),
            Err(found) if found == turn::verdict(generation) => Err(TurnError::Busy),
            Err(_) => Err(TurnError::Closed),
        }
    }

    /// Whether the daemon has the turn.
    pub(super) fn is_claimed(&self, generation: u32) -> bool {
        self.turn.load(Acquire) == turn::daemon(generation)
    }

    /// Takes up to `n` bytes from a plain response's budget, which are about to be written to C; gives how many. Only with the
    /// turn.
    pub(super) fn take(&self, n: u64) -> u64 {
        let budget = self.budget.load(Relaxed);
        let allowed = n.min(budget);
        self.budget.store(budget - allowed, Relaxed);
        self.count(allowed);
        allowed
    }

    /// Counts bytes that are about to be written to C. Only with the turn.
    pub(super) fn count(&self, n: u64) {
        // 2^64 bytes do not come by in the life of a connection; were it so, the flow could not be settled.
        self.taken.store(self.taken.load(Relaxed).saturating_add(n), Relaxed);
    }

    /// Gives the turn back: the next `read` bytes that came through U are with C, as far as they were to go there.
    pub(super) fn release(&self, generation: u32, read: u64) {
        // Sequence numbers wrap.
        self.relayed.store(self.relayed.load(Relaxed).wrapping_add(read as u32), Relaxed);
        // It can only be the daemon's own, and a flow that was closed meanwhile remains so.
        let _ = self.turn.compare_exchange(turn::daemon(generation), turn::free(generation), Release, Relaxed);
    }

    /// Ends the flow with the daemon's turn: from here on nobody has one.
    pub(super) fn close(&self, generation: u32) -> Result<(), TurnError> {
        match self.claim(generation) {
            Ok(()) => {
                self.turn.store(turn::CLOSED, Release);
                Ok(())
            }
            Err(TurnError::Closed) => Ok(()),
            Err(TurnError::Busy) => Err(TurnError::Busy),
        }
    }

    /// Ends whatever flow is here, unless a verdict has the turn; whether it is ended. For an entry that nobody uses.
    pub(super) fn close_any(&self) -> bool {
        let found = self.turn.load(Acquire);
        found == turn::CLOSED
            || !turn::is_verdicts(found) && self.turn.compare_exchange(found, turn::CLOSED, AcqRel, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod model;
