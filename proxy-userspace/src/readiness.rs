//! Whether the node is ready for traffic, and what it waits for if not.
//!
//! Each part that must come up first holds a [`Pending`] guard and calls [`Pending::done`] when it stands. A guard that is
//! dropped without that (the part failed, or forgot) stays listed as failed: forgetting to finish means not ready, never
//! ready by accident. A node that drains is not ready, whatever else holds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// A probe that tells what does not work at the moment: pairs of a name and a reason, none when all is well.
type Watcher = Box<dyn Fn() -> Vec<(String, String)> + Send + Sync>;

#[derive(Default)]
struct State {
    /// What is not finished, each with the reason that is shown.
    pending: BTreeMap<String, &'static str>,
    watchers: Vec<Watcher>,
    draining: bool,
}

/// Shared by all parts of the process; cheap to clone.
#[derive(Clone, Default)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("report", &self.report()).finish()
    }
}

/// What `/readyz` shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether traffic may be sent here.
    pub ready: bool,
    /// What readiness waits for: a name and a reason each; empty when ready.
    pub waiting: Vec<(String, String)>,
    /// What works less than it could, without making the node unready.
    pub degraded: Vec<(String, String)>,
}

impl Readiness {
    /// Ready, until something is announced with [`Readiness::pending`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Announces that `what` must be finished before the node is ready.
    #[must_use = "dropping the guard without `done` leaves the node unready for good"]
    pub fn pending(&self, what: impl Into<String>) -> Pending {
        let what = what.into();
        self.state.lock().pending.insert(what.clone(), "not finished yet");
        Pending { readiness: self.clone(), what, done: false }
    }

    /// Adds a probe that is asked for each report. What it says is shown as degraded and does not make the node unready:
    /// an engine that is away, say, leaves every known container reachable.
    pub fn watch(&self, probe: impl Fn() -> Vec<(String, String)> + Send + Sync + 'static) {
        self.state.lock().watchers.push(Box::new(probe));
    }

    /// Makes the node unready for good, because it is going away.
    pub fn draining(&self) {
        self.state.lock().draining = true;
    }

    /// The state now.
    pub fn report(&self) -> Report {
        let state = self.state.lock();
        let mut waiting: Vec<(String, String)> =
            state.pending.iter().map(|(what, reason)| (what.clone(), (*reason).to_owned())).collect();
        if state.draining {
            waiting.push(("drain".to_owned(), "the node is shutting down".to_owned()));
        }
        let degraded = state.watchers.iter().flat_map(|probe| probe()).collect();
        Report { ready: waiting.is_empty(), waiting, degraded }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.ready { "ready\n" } else { "not ready\n" })?;
        for (what, reason) in &self.waiting {
            writeln!(f, "waiting for {what}: {reason}")?;
        }
        for (what, reason) in &self.degraded {
            writeln!(f, "degraded {what}: {reason}")?;
        }
        Ok(())
    }
}

/// A promise that something will stand; see [`Readiness::pending`].
#[derive(Debug)]
pub struct Pending {
    readiness: Readiness,
    what: String,
    done: bool,
}

impl Pending {
    /// Says that the part is up: readiness no longer waits for it.
    pub fn done(mut self) {
        self.done = true;
        self.readiness.state.lock().pending.remove(&self.what);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.done
            && let Some(reason) = self.readiness.state.lock().pending.get_mut(&self.what)
        {
            *reason = "it failed before it was finished; see the log";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_when_every_guard_is_done() {
        let readiness = Readiness::new();
        let docker = readiness.pending("docker");
        let listeners = readiness.pending("listeners");
        assert!(!readiness.report().ready);
        docker.done();
        assert_eq!(readiness.report().waiting, [("listeners".to_owned(), "not finished yet".to_owned())]);
        listeners.done();
        assert!(readiness.report().ready);
    }

    #[test]
    fn a_forgotten_guard_keeps_the_node_unready() {
        let readiness = Readiness::new();
        drop(readiness.pending("docker"));
        let report = readiness.report();
        assert!(!report.ready);
        assert_eq!(
            report.to_string(),
            "not ready\nwaiting for docker: it failed before it was finished; see the log\n"
        );
        readiness.pending("docker").done();
        assert!(readiness.report().ready);
    }

    #[test]
    fn draining_is_unready_for_good() {
        let readiness = Readiness::new();
        readiness.draining();
        readiness.pending("x").done();
        assert!(!readiness.report().ready);
        assert!(readiness.report().to_string().contains("waiting for drain"));
    }

    #[test]
    fn degraded_parts_are_listed_but_do_not_count() {
        let readiness = Readiness::new();
        readiness.watch(|| vec![("docker".to_owned(), "engine away".to_owned())]);
        let report = readiness.report();
        assert!(report.ready);
        assert_eq!(report.to_string(), "ready\ndegraded docker: engine away\n");
    }
}
