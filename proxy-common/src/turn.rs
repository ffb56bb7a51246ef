//! Whose turn it is to write to C: one word of an entry of the flow table, changed by compare-and-swap only.
//!
//! It stands in memory that nobody but the daemon and its programs can write to. What a container says with its sockets
//! (sequence numbers, what arrives at U) decides at most which of the two writes next, never that both do.
//!
//! The word holds the flow's generation as well, so that a socket that was attached for an earlier flow in the same
//! entry can take no turn of a later one.

/// The flow has ended, or has not begun: nobody may write.
pub const CLOSED: u64 = 0;

const FREE: u64 = 1;
const VERDICT: u64 = 2;
const DAEMON: u64 = 3;
const STATES: u64 = 3;

/// Nobody's turn: whoever has something to write may take it.
#[inline(always)]
pub const fn free(generation: u32) -> u64 {
    (generation as u64) << 2 | FREE
}

/// A verdict is being reached on a message of S.
#[inline(always)]
pub const fn verdict(generation: u32) -> u64 {
    (generation as u64) << 2 | VERDICT
}

/// The daemon writes what it has read of U, or is about to end the flow.
#[inline(always)]
pub const fn daemon(generation: u32) -> u64 {
    (generation as u64) << 2 | DAEMON
}

/// Whether the flow of this generation is the entry's, and has not ended; 0 is no generation.
#[inline(always)]
pub const fn is_of(turn: u64, generation: u32) -> bool {
    turn >> 2 == generation as u64 && turn & STATES != CLOSED
}

/// Whether it is a verdict's turn, of whatever generation.
#[inline(always)]
pub const fn is_verdicts(turn: u64) -> bool {
    turn & STATES == VERDICT
}

/// What is left of a plain response's budget behind a message; none if the message would use it up or go beyond, and so
/// is the daemon's.
#[inline(always)]
pub const fn behind(budget: u64, message: u64) -> Option<u64> {
    if message < budget { Some(budget - message) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_generations_are_told_apart() {
        let words = |generation| [free(generation), verdict(generation), daemon(generation)];
        for generation in [1, 2, u32::MAX] {
            for word in words(generation) {
                assert!(is_of(word, generation) && !is_of(word, generation ^ 1) && word != CLOSED);
                assert_eq!(is_verdicts(word), word == verdict(generation));
            }
        }
        assert!(!is_of(CLOSED, 0) && !is_of(CLOSED, 1));
        assert!(words(1).iter().all(|word| !words(2).contains(word)));
    }

    #[test]
    fn a_message_never_takes_the_last_byte() {
        assert_eq!(behind(10, 9), Some(1));
        assert_eq!((behind(10, 10), behind(10, 11), behind(0, 0), behind(0, 1)), (None, None, None, None));
        assert_eq!(behind(u64::MAX, u64::MAX), None);
    }
}
