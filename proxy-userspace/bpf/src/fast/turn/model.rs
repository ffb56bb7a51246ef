//! Every interleaving of the daemon, of two of a server's threads whose verdicts are reached, and of an adversary in the
//! container, who decides what comes through U, what S's numbers say, and when and how much of a redirected message arrives.
//!
//! The daemon's steps are those of [`Entry`] itself, and the verdict's are those of `proxy-ebpf/src/verdict.rs`, one for each
//! access to memory. What must hold: when the daemon takes a response for whole, and the next one may be written to the same
//! client, just the first one's bytes are with C, in the order of its coding, and nothing is on its way there.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;

use proxy_common::{Flow, turn};

use super::TurnError;
use crate::fast::table::Entry;

/// Bytes of each response, or the length of the cycle of places in a chunked one.
const LENGTH: u64 = 3;
/// What one step may read of U: more than belongs to the response, too.
const READS: [u64; 3] = [1, 2, 4];
/// Sizes of messages.
const SIZES: [u64; 2] = [1, 2];

/// What is explored, and what is broken on purpose, to see that the exploration finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variant {
    Plain,
    Chunked,
    /// The verdict goes by S's numbers alone, as the adversary likes them, and nobody counts what has arrived; with either of
    /// the two, nothing is forged.
    WithoutTurns,
    /// The daemon writes what it holds without waiting for what was redirected before.
    OutOfOrder,
    /// The daemon never asks how much has arrived.
    Uncounted,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Thread {
    Idle,
    /// It has the turn of this generation.
    Deciding(u32),
    /// It has read the budget and what was taken.
    Read {
        generation: u32,
        budget: u64,
        taken: u64,
        size: u64,
    },
    /// It has written the budget.
    Taken {
        generation: u32,
        from: u64,
        taken: u64,
        size: u64,
    },
    /// It has written all, and gives the turn back next.
    Decided {
        generation: u32,
        from: u64,
        size: u64,
    },
    /// The message is on its way to C.
    Sent {
        from: u64,
        size: u64,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Daemon {
    /// Nothing is at hand.
    Waiting,
    /// So many bytes came through U.
    Holding(u64),
    /// It has the turn.
    Claimed(u64),
    /// All that was redirected is with C.
    Confirmed(u64),
    /// So many of the bytes at hand are still to be written, the first of which stands at `at`; then comes the end, or not.
    Writing { read: u64, left: u64, at: u64, last: bool },
    /// The response is through, and the flow ends.
    Ending,
    /// Nobody has a turn any more.
    Closed,
    /// The response was whole.
    Done,
    /// The client's connection is reset: whatever it has got, it knows that it is not whole.
    Cut,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct State {
    flow: Flow,
    generation: u32,
    /// Bytes that C has got in this response.
    arrived: u64,
    /// Where the coding is with C, and whether every message so far has continued it.
    place: u64,
    broken: bool,
    /// `fast_bytes` when all was last known to have arrived.
    known: u64,
    threads: [Thread; 2],
    daemon: Daemon,
}

impl State {
    fn first() -> Self {
        let mut state = Self {
            flow: Flow::default(),
            generation: 0,
            arrived: 0,
            place: 0,
            broken: false,
            known: 0,
            threads: [Thread::Idle; 2],
            daemon: Daemon::Done,
        };
        state.attach(1);
        state
    }

    /// As the program `attach` does it, with C's sequence numbers counted from here.
    fn attach(&mut self, generation: u32) {
        let budget = LENGTH;
        self.flow = Flow { turn: turn::free(generation), budget, ..Flow::default() };
        (self.generation, self.arrived, self.place, self.broken, self.known) = (generation, 0, budget, false, 0);
        self.daemon = Daemon::Waiting;
    }

    /// Does something with the entry as the daemon has it.
    fn with<T>(&mut self, act: impl FnOnce(&Entry) -> T) -> T {
        let entry = Entry::from(&self.flow);
        let result = act(&entry);
        entry.copy_to(&mut self.flow);
        result
    }

    fn arrives(&mut self, from: u64, size: u64, of: u64, variant: Variant) {
        self.broken |= variant.chunked() && from != self.place;
        self.place = if size == of { behind(from, size) } else { self.place };
        self.arrived += size;
    }
}

impl Variant {
    fn chunked(self) -> bool {
        matches!(self, Self::Chunked | Self::OutOfOrder)
    }
}

/// Where a chunked response is after so many bytes.
fn behind(place: u64, size: u64) -> u64 {
    (place + size) % LENGTH
}

/// All states that one thread may bring about.
fn thread(state: State, who: usize, variant: Variant, next: &mut Vec<State>) {
    let mut to = |state: State, thread: Thread| {
        let mut state = state;
        state.threads[who] = thread;
        next.push(state);
    };
    match state.threads[who] {
        Thread::Idle => {
            // Also with a generation that is over: S remembers the one it was attached with.
            for generation in 1..=state.generation {
                let mut state = state;
                if variant == Variant::WithoutTurns && turn::is_of(state.flow.turn, generation) {
                    to(state, Thread::Deciding(generation));
                } else if state.flow.turn == turn::free(generation) {
                    state.flow.turn = turn::verdict(generation);
                    to(state, Thread::Deciding(generation));
                }
            }
        }
        Thread::Deciding(generation) => {
            // S's numbers say that it is not in order.
            let mut declined = state;
            declined.flow.turn = turn::free(generation);
            to(declined, Thread::Idle);
            // They say that it is, and what was redirected before has arrived.
            if variant == Variant::WithoutTurns || state.arrived == state.flow.taken {
                for size in SIZES {
                    let Flow { budget, taken, .. } = state.flow;
                    to(state, Thread::Read { generation, budget, taken, size });
                }
            }
        }
        Thread::Read { generation, budget, taken, size } => {
            let left = if variant.chunked() { Some(behind(budget, size)) } else { turn::behind(budget, size) };
            let mut state = state;
            match left {
                Some(left) => {
                    state.flow.budget = left;
                    to(state, Thread::Taken { generation, from: budget, taken, size });
                }
                None => {
                    state.flow.turn = turn::free(generation);
                    to(state, Thread::Idle);
                }
            }
        }
        Thread::Taken { generation, from, taken, size } => {
            let mut state = state;
            state.flow.taken = taken + size;
            state.flow.fast_bytes += size;
            to(state, Thread::Decided { generation, from, size });
        }
        Thread::Decided { generation, from, size } => {
            let mut state = state;
            state.flow.turn = turn::free(generation);
            to(state, Thread::Sent { from, size });
        }
        Thread::Sent { from, size } => {
            // Whole, in part, or never.
            for part in 0..=size {
                let mut state = state;
                state.arrives(from, part, size, variant);
                to(state, Thread::Idle);
            }
        }
    }
}

/// All states that the daemon may bring about.
fn daemon(state: State, variant: Variant, next: &mut Vec<State>) {
    let generation = state.generation;
    let mut to = |state: State, daemon: Daemon| {
        let mut state = state;
        state.daemon = daemon;
        next.push(state);
    };
    match state.daemon {
        Daemon::Waiting => {
            READS.iter().for_each(|&read| to(state, Daemon::Holding(read)));
            // The connection ends before the response is through.
            to(state, Daemon::Cut);
        }
        Daemon::Holding(read) => {
            let mut state = state;
            match state.with(|entry| entry.claim(generation)) {
                Ok(()) => to(state, Daemon::Claimed(read)),
                Err(_) => to(state, Daemon::Cut),
            }
        }
        Daemon::Claimed(read) => {
            let mut state = state;
            if matches!(variant, Variant::OutOfOrder | Variant::WithoutTurns | Variant::Uncounted)
                || state.known == state.flow.fast_bytes
            {
                to(state, Daemon::Confirmed(read));
            } else if state.arrived == state.flow.taken {
                state.known = state.flow.fast_bytes;
                to(state, Daemon::Confirmed(read));
            } else {
                to(state, Daemon::Cut);
            }
        }
        Daemon::Confirmed(read) if variant.chunked() => {
            let at = state.flow.budget;
            // Written anew, it may be longer; and it may hold the last chunk.
            for written in [read, read + LENGTH] {
                let mut state = state;
                state.with(|entry| entry.count(written));
                for last in [false, true] {
                    to(state, Daemon::Writing { read, left: written, at, last });
                }
            }
        }
        Daemon::Confirmed(read) => {
            let mut state = state;
            let left = state.with(|entry| entry.take(read));
            let last = left < read || state.flow.budget == 0;
            to(state, Daemon::Writing { read, left, at: 0, last });
        }
        Daemon::Writing { left: 0, last: true, .. } => to(state, Daemon::Ending),
        Daemon::Writing { read, left: 0, at, last: false } => {
            let mut state = state;
            state.with(|entry| {
                if variant.chunked() {
                    entry.budget.store(at, Relaxed);
                }
                entry.release(generation, read);
            });
            to(state, Daemon::Waiting);
        }
        Daemon::Writing { read, left, at, last } => {
            let mut state = state;
            state.arrives(at, 1, 1, variant);
            to(state, Daemon::Writing { read, left: left - 1, at: behind(at, 1), last });
            // The client is gone.
            to(state, Daemon::Cut);
        }
        Daemon::Ending => {
            let mut state = state;
            match state.with(|entry| entry.close(generation)) {
                Ok(()) => to(state, Daemon::Closed),
                Err(_) => to(state, Daemon::Cut),
            }
        }
        Daemon::Closed => {
            let adds_up = variant.chunked() || LENGTH.checked_sub(state.flow.budget) == Some(state.flow.taken);
            let whole = adds_up && state.arrived == state.flow.taken;
            to(state, if whole || variant == Variant::Uncounted { Daemon::Done } else { Daemon::Cut });
        }
        Daemon::Done if generation == 1 => {
            let mut state = state;
            // The next response on the same connections, in the same entry of the table.
            state.attach(2);
            next.push(state);
        }
        Daemon::Done | Daemon::Cut => {}
    }
}

/// What is wrong with a state.
fn fault(state: &State, variant: Variant) -> Option<&'static str> {
    let over = !variant.chunked() && state.daemon != Daemon::Cut && state.arrived > LENGTH;
    if over {
        return Some("more has reached the client than the response's bytes");
    }
    if state.daemon != Daemon::Done {
        return None;
    }
    if state.threads.iter().any(|thread| matches!(thread, Thread::Sent { .. })) {
        return Some("a message is on its way to the client when the next response begins");
    }
    if !variant.chunked() && state.arrived != LENGTH {
        return Some("the response is taken for whole, and is not");
    }
    state.broken.then_some("a chunk stands where none belongs")
}

/// Explores all states; the first fault, and how many states there were.
fn explore(variant: Variant) -> (Option<(&'static str, State)>, usize) {
    let mut seen = HashSet::from([State::first()]);
    let mut open = vec![State::first()];
    let mut next = Vec::new();
    while let Some(state) = open.pop() {
        if let Some(fault) = fault(&state, variant) {
            return (Some((fault, state)), seen.len());
        }
        // What follows a cut concerns nobody, and what follows many bytes differs from what follows few in nothing.
        if state.daemon == Daemon::Cut || state.arrived > 4 * LENGTH || state.flow.taken > 4 * LENGTH {
            continue;
        }
        daemon(state, variant, &mut next);
        (0..2).for_each(|who| thread(state, who, variant, &mut next));
        open.extend(next.drain(..).filter(|&state| seen.insert(state)));
    }
    (None, seen.len())
}

#[test]
fn what_a_container_does_never_reaches_another_response() {
    for variant in [Variant::Plain, Variant::Chunked] {
        let (fault, states) = explore(variant);
        assert_eq!(fault, None, "{variant:?}, after {states} states");
        assert!(states > 1000, "only {states} states were explored");
    }
}

#[test]
fn the_exploration_finds_what_turns_and_counts_are_for() {
    for variant in [Variant::WithoutTurns, Variant::OutOfOrder, Variant::Uncounted] {
        let (fault, states) = explore(variant);
        assert!(fault.is_some(), "{variant:?}: nothing was found in {states} states");
    }
}

#[test]
fn an_entry_is_not_handed_out_while_a_verdict_has_its_turn() {
    let mut state = State::first();
    state.flow.turn = turn::verdict(1);
    assert_eq!(state.with(|entry| (entry.claim(1), entry.close(1))), (Err(TurnError::Busy), Err(TurnError::Busy)));
    assert!(!state.with(Entry::close_any));
    for word in [turn::CLOSED, turn::free(1), turn::daemon(1)] {
        state.flow.turn = word;
        assert!(state.with(Entry::close_any) && state.flow.turn == turn::CLOSED);
        assert_eq!(state.with(|entry| entry.claim(1)), Err(TurnError::Closed));
    }
}
