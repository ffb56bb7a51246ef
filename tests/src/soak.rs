//! Thousands of connections, each a play that its number decides.
//!
//! A seed and a number give a [`Play`]: what is asked, in which pieces and with which pauses both sides write and read,
//! and what goes wrong. Client and server work it out by themselves, so nothing needs to be agreed on the way, and one
//! connection out of thousands can be played again alone. Every byte is checked on arrival against a pattern whose
//! origin differs for each stream, so that a byte of another connection shows as well as one at a wrong place.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crate::origin::{Origin, Peer};
use crate::rig::{Dialer, Rig};

mod client;
mod pace;
mod play;
mod server;

pub use play::{Act, Body, Fault, Play};

/// What went wrong, with the number of the play.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The play.
    pub index: u64,
    /// What, and on which side.
    pub what: String,
}

/// What a run has come to so far.
#[derive(Debug, Default)]
pub struct Score {
    /// Plays that came to their end, well or not.
    pub plays: AtomicUsize,
    /// Bytes that were checked, in both directions.
    pub bytes: AtomicU64,
    failures: Mutex<Vec<Failure>>,
}

impl Score {
    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn failed(&self, index: u64, what: String) {
        self.failures.lock().expect("nobody panics with it").push(Failure { index, what });
    }

    /// What has failed.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        self.failures.lock().expect("nobody panics with it").clone()
    }
}

/// The run's seed: `PORTSPLICE_SEED`, or always the same one, so that what fails once fails again.
#[track_caller]
#[must_use]
pub fn seed() -> u64 {
    std::env::var("PORTSPLICE_SEED").map_or(1, |text| text.parse().expect("PORTSPLICE_SEED is a number"))
}

/// The plays to run: all of them, or the one that `PORTSPLICE_PLAY` names.
#[track_caller]
#[must_use]
pub fn numbers(all: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let only = std::env::var("PORTSPLICE_PLAY").ok();
    only.map_or(all, |text| {
        let index = text.parse().expect("PORTSPLICE_PLAY is a number");
        index..index + 1
    })
}

/// Serves the plays of a seed inside a rig's container.
#[track_caller]
#[must_use]
pub fn serve(rig: &Rig, seed: u64, score: &std::sync::Arc<Score>) -> Origin {
    let score = score.clone();
    rig.serve(move |peer: &mut Peer| {
        server::serve(peer, seed, &score);
        Ok(())
    })
}

/// Plays a range of numbers, `side_by_side` at a time; calls `meanwhile` again and again until they are through.
pub fn run(
    dialer: &Dialer<'_>,
    seed: u64,
    plays: std::ops::Range<u64>,
    side_by_side: usize,
    score: &Score,
    mut meanwhile: impl FnMut(),
) {
    let next = AtomicU64::new(plays.start);
    let one_after_the_other = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= plays.end {
                break;
            }
            let play = Play::new(seed, index);
            if let Err(fault) = client::perform(dialer, &play, score) {
                score.failed(index, format!("client: {fault}"));
            }
            score.plays.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let players: Vec<_> = (0..side_by_side).map(|_| scope.spawn(one_after_the_other)).collect();
        while !players.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(20));
            meanwhile();
        }
    });
}
