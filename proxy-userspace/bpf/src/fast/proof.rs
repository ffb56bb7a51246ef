//! Proves, on the very kernel that the daemon runs on, that the fast path does what it must.
//!
//! Kernels differ in what their socket maps do, and distributions patch them; a version number says little. So before it
//! serves, the daemon plays through what matters, with real sockets in a network namespace of its own, in a fraction of a
//! second. What fails is not used.

mod cases;
mod rig;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flows::{Flows, Quirks};
use rig::Rig;

/// What one item of the proof found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It is as it must be; the text says what was seen.
    Holds(String),
    /// It is not, and the daemon works around it; the text says how.
    WorkedAround(String),
    /// It is not, and the fast path cannot be used.
    Fails(String),
}

/// One item of the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// What was to be proved.
    pub name: &'static str,
    /// What was found.
    pub finding: Finding,
    /// How long that took.
    pub took: Duration,
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match &self.finding {
            Finding::Holds(text) | Finding::WorkedAround(text) => text,
            Finding::Fails(text) => return write!(f, "{}: FAILED: {text}", self.name),
        };
        write!(f, "{}: {text} ({} ms)", self.name, self.took.as_millis())
    }
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// The items, in the order in which they were played.
    pub items: Vec<Item>,
}

impl Proof {
    /// Why the fast path cannot be used, if it cannot.
    pub fn failure(&self) -> Option<String> {
        self.items.iter().find_map(|item| match &item.finding {
            Finding::Fails(text) => Some(format!("{}: {text}", item.name)),
            _ => None,
        })
    }

    /// How long all of it took.
    pub fn took(&self) -> Duration {
        self.items.iter().map(|item| item.took).sum()
    }
}

/// Plays all items.
///
/// It makes a network namespace, so it needs CAP_SYS_ADMIN and CAP_NET_ADMIN, and runs in a thread of its own.
pub(crate) fn run(flows: &Arc<Flows>) -> (Proof, Quirks) {
    let proof = std::thread::scope(|scope| {
        let played = scope.spawn(|| play(flows)).join();
        played.unwrap_or_else(|_| failed("the proof itself", "it panicked".to_owned()))
    });
    let fionread =
        proof.items.iter().any(|item| item.name == cases::FIONREAD && !matches!(item.finding, Finding::Holds(_)));
    (proof, Quirks { fionread })
}

fn play(flows: &Arc<Flows>) -> Proof {
    let began = Instant::now();
    let rig = match Rig::new(flows) {
        Ok(rig) => rig,
        Err(error) => {
            return failed(
                "a network namespace to try it in",
                format!("{error} (needs CAP_SYS_ADMIN and CAP_NET_ADMIN)"),
            );
        }
    };
    tracing::debug!(took = ?began.elapsed(), "the proof's network namespace is made");
    let items = cases::ALL.iter().map(|&(name, case)| {
        let began = Instant::now();
        let finding = case(&rig).unwrap_or_else(|error| Finding::Fails(format!("{error:#}")));
        Item { name, finding, took: began.elapsed() }
    });
    Proof { items: items.collect() }
}

fn failed(name: &'static str, text: String) -> Proof {
    Proof { items: vec![Item { name, finding: Finding::Fails(text), took: Duration::ZERO }] }
}
