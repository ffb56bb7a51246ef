use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;

use crate::replay::Nonce;
use crate::{AuthFailure, Keeper, ReplayMemory, Used};

const WINDOW: u64 = 60;

fn admit(memory: &ReplayMemory, nonce: impl Display, time: u64, now: u64, window: u64) -> Result<(), AuthFailure> {
    let nonce = nonce.to_string();
    memory.admit(&Nonce { identity: "", nonce: &nonce, holds_elsewhere: true }, time, now, window)
}

#[test]
fn a_nonce_is_accepted_once() {
    let memory = ReplayMemory::new(10);
    assert_eq!(admit(&memory, "a", 1000, 1000, WINDOW), Ok(()));
    assert_eq!(admit(&memory, "a", 1000, 1000, WINDOW), Err(AuthFailure::Replayed));
    assert_eq!(admit(&memory, "b", 1000, 1000, WINDOW), Ok(()));
    assert_eq!(admit(&memory, "a", 1000, 1060, WINDOW), Err(AuthFailure::Replayed));
    assert_eq!(admit(&memory, "a", 1000, 1061, WINDOW), Err(AuthFailure::Stale));
}

#[test]
fn what_falls_out_of_the_window_is_forgotten_and_stays_refused() {
    let memory = ReplayMemory::new(10);
    assert_eq!(admit(&memory, "a", 1000, 1000, WINDOW), Ok(()));
    assert_eq!(admit(&memory, "b", 1061, 1061, WINDOW), Ok(()));
    assert_eq!(memory.len(), 1);
    assert_eq!(admit(&memory, "a", 1000, 1000, WINDOW), Err(AuthFailure::Stale), "the clock went back");
}

#[test]
fn a_clock_that_jumps_ahead_and_back_does_no_harm() {
    let memory = ReplayMemory::new(10);
    assert_eq!(admit(&memory, "a", 1000, 1000, WINDOW), Ok(()));
    assert_eq!(admit(&memory, "b", 1000, 9_000_000, WINDOW), Err(AuthFailure::Stale));
    assert_eq!(admit(&memory, "b", 1001, 1001, WINDOW), Ok(()));
    assert_eq!(admit(&memory, "a", 1000, 1001, WINDOW), Err(AuthFailure::Replayed));
}

#[test]
fn a_full_memory_gives_up_the_oldest_second() {
    let memory = ReplayMemory::new(3);
    for (nonce, time) in [("a", 1000), ("b", 1000), ("c", 1001)] {
        assert_eq!(admit(&memory, nonce, time, 1001, WINDOW), Ok(()));
    }
    assert_eq!(admit(&memory, "d", 1000, 1001, WINDOW), Err(AuthFailure::Stale), "no room among the oldest");
    assert_eq!(memory.len(), 3);
    assert_eq!(admit(&memory, "d", 1001, 1001, WINDOW), Ok(()));
    assert_eq!(memory.len(), 2);
    assert_eq!(admit(&memory, "a", 1000, 1001, WINDOW), Err(AuthFailure::Stale));
    assert_eq!(admit(&memory, "c", 1001, 1001, WINDOW), Err(AuthFailure::Replayed));
}

#[test]
fn what_was_signed_before_the_start_is_refused_where_it_may_have_been_used() {
    let memory = ReplayMemory::new(3);
    memory.refuse_before(1000);
    memory.refuse_before(900);
    assert_eq!(admit(&memory, "a", 999, 1000, WINDOW), Err(AuthFailure::BeforeStart));
    assert_eq!(admit(&memory, "a", 900, 1000, WINDOW), Err(AuthFailure::Stale));
    assert_eq!(admit(&memory, "a", 1000, 1000, WINDOW), Ok(()));
    let on_one_connection = Nonce { identity: "", nonce: "b", holds_elsewhere: false };
    assert_eq!(memory.admit(&on_one_connection, 999, 1000, WINDOW), Ok(()));
    assert_eq!(memory.admit(&on_one_connection, 999, 1000, WINDOW), Err(AuthFailure::Replayed));
}

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Used>>>);

impl Keeper for Kept {
    fn keep(&self, used: Used, _: u64) {
        self.0.lock().push(used);
    }
}

#[test]
fn what_was_kept_is_known_to_the_next() {
    let kept = Kept::default();
    let memory = |capacity| ReplayMemory::kept(capacity, [7; 16], Box::new(kept.clone()), &kept.0.lock().clone());
    let first = memory(10);
    for (nonce, time) in [("a", 1000), ("b", 1001), ("c", 1002)] {
        assert_eq!(admit(&first, nonce, time, 1001, WINDOW), Ok(()));
        assert_eq!(admit(&first, nonce, time, 1001, WINDOW), Err(AuthFailure::Replayed));
    }
    let on_one_connection = Nonce { identity: "", nonce: "d", holds_elsewhere: false };
    assert_eq!(first.admit(&on_one_connection, 1001, 1001, WINDOW), Ok(()));
    assert_eq!(kept.0.lock().len(), 3, "each once, and nothing that holds on one connection only");
    let second = memory(10);
    for (nonce, time) in [("a", 1000), ("b", 1001), ("c", 1002)] {
        assert_eq!(admit(&second, nonce, time, 1002, WINDOW), Err(AuthFailure::Replayed));
    }
    assert_eq!(admit(&second, "e", 950, 1002, WINDOW), Ok(()), "a clock that is behind");
    let narrow = memory(2);
    assert_eq!(admit(&narrow, "f", 1001, 1002, WINDOW), Err(AuthFailure::Stale), "forgotten for want of room");
    assert_eq!(admit(&narrow, "c", 1002, 1002, WINDOW), Err(AuthFailure::Replayed));
    let second = [0, 1, 2].map(|hash| Used { time: 1000, hash });
    let narrow = ReplayMemory::kept(2, [7; 16], Box::new(kept.clone()), &second);
    assert_eq!(admit(&narrow, "g", 1000, 1000, WINDOW), Err(AuthFailure::Stale));
    assert_eq!(admit(&narrow, "g", 1001, 1001, WINDOW), Ok(()));
}

#[test]
fn the_extremes_of_time() {
    let memory = ReplayMemory::new(2);
    assert_eq!(admit(&memory, "a", 0, 0, WINDOW), Ok(()));
    assert_eq!(admit(&memory, "a", u64::MAX, u64::MAX, WINDOW), Ok(()));
    assert_eq!(admit(&memory, "a", u64::MAX, u64::MAX, WINDOW), Err(AuthFailure::Replayed));
    assert_eq!(admit(&memory, "b", 0, 0, WINDOW), Err(AuthFailure::Stale));
    assert_eq!(admit(&memory, "b", u64::MAX, 0, u64::MAX), Ok(()));
}

#[test]
fn many_shards_are_one_memory() {
    let memory = ReplayMemory::new(100_000);
    for i in 0..50_000u64 {
        assert_eq!(admit(&memory, i, 1000 + i % 3, 1000, WINDOW), Ok(()));
    }
    for i in 0..50_000u64 {
        assert_eq!(admit(&memory, i, 1001, 1000, WINDOW), Err(AuthFailure::Replayed));
    }
    assert_eq!(memory.len(), 50_000);
    for i in 50_000..500_000u64 {
        let _ = admit(&memory, i, 1000, 1000, WINDOW);
        let _ = admit(&memory, i, 1003, 1000, WINDOW);
    }
    assert!((90_000..=100_000).contains(&memory.len()), "{}", memory.len());
}

proptest! {
    /// Against a model that forgets nothing: no replay is ever accepted, whatever the clock does, the memory stays within
    /// its bound, and what is fresh is accepted while there is room and the clock does not go back.
    #[test]
    fn like_a_memory_without_bounds(
        capacity in 1usize..12,
        steps in prop::collection::vec((0u8..6, -3i64..4, -3i64..8), 1..200),
    ) {
        let memory = ReplayMemory::new(capacity);
        let (mut now, mut latest) = (1000i64, 1000i64);
        // All that was ever accepted; of each nonce the last time.
        let mut accepted: HashMap<u8, i64> = HashMap::new();
        for (nonce, offset, step) in steps {
            now += step;
            latest = latest.max(now);
            let time = now + offset;
            let within = |time: i64| (time - now).abs() <= 2;
            let before = memory.len();
            match admit(&memory, nonce, time as u64, now as u64, 2) {
                Ok(()) => {
                    prop_assert!(within(time));
                    // The credential that was accepted before must be too old by now, or have been given up for good.
                    if let Some(&used) = accepted.get(&nonce) {
                        prop_assert!(used < time, "replay at {}: {} {}", now, used, time);
                        prop_assert_eq!(admit(&memory, nonce, used as u64, now as u64, 1 << 40), Err(AuthFailure::Replayed));
                    }
                    accepted.insert(nonce, time);
                }
                Err(AuthFailure::Replayed) => prop_assert!(accepted.contains_key(&nonce)),
                Err(failure) => {
                    prop_assert_eq!(failure, AuthFailure::Stale);
                    let ahead = accepted.values().all(|&used| used <= time) && now == latest;
                    prop_assert!(!within(time) || before >= capacity || !ahead, "refused at {}: {}", now, time);
                }
            }
            prop_assert!(memory.len() <= capacity);
        }
    }
}
