//! Log lines on standard error: text or JSON, with a filter that can change while the process runs.
//!
//! The `log` crate's records (of libraries) come through the same subscriber. The access log is the target
//! [`ACCESS_TARGET`] at level info; it can be switched on its own with a filter such as `warn,portsplice::access=info`.

mod scoped_filter;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use scoped_filter::{Rules, ScopedFilter};

/// The target of the lines of the access log.
pub const ACCESS_TARGET: &str = "portsplice::access";

/// From quiet to loud; SIGUSR1 goes one to the right, SIGUSR2 one to the left.
const LEVELS: [LevelFilter; 5] =
    [LevelFilter::ERROR, LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE];

/// How many levels can be set for a time.
const OVERRIDES: usize = 64;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Changes the filter of the process's log.
#[derive(Clone)]
pub struct LogControl {
    gate: ScopedFilter,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for LogControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogControl").field(&self.state).finish()
    }
}

#[derive(Debug, Clone)]
struct State {
    /// What the configuration says.
    configured: String,
    /// Steps away from it by signals; positive is louder.
    steps: i8,
    /// What was set for a time; the later wins.
    overrides: Vec<Override>,
}

/// What a level is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything that has no filter of its own.
    All,
    /// A target and those below it.
    Target(String),
    /// Lines about the container that goes by these names; at least one.
    Container(Vec<String>),
}

/// A level that was set for a time.
#[derive(Debug, Clone)]
pub struct Override {
    /// Which log lines it is for.
    pub scope: Scope,
    /// The least important level that is logged meanwhile.
    pub level: LevelFilter,
    /// When the level before is back in force.
    pub until: Instant,
}

/// Starts logging for the whole process; can be done once.
///
/// # Errors
/// When the filter is not valid, or logging was started before.
pub fn start(filter: &str, format: LogFormat) -> Result<LogControl> {
    let control = LogControl::new(filter)?;
    let registry = tracing_subscriber::registry().with(control.gate.clone());
    // A log that nobody reads any more must not take the node with it: reporting the failed write would panic.
    let lines = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    match format {
        LogFormat::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init(),
    }
    .context("logging was started already")?;
    log_panics();
    Ok(control)
}

/// A panic ends one connection, not the process; where it happened belongs into the same log as everything else.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let location = panic.location().map(ToString::to_string);
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(location, %backtrace, "a task panicked, which is a bug in portsplice: {message}");
    }));
}

impl LogControl {
    fn new(filter: &str) -> Result<Self> {
        let parsed = EnvFilter::try_new(filter).with_context(|| format!("log filter {filter:?}"))?;
        let state = State { configured: filter.to_owned(), steps: 0, overrides: Vec::new() };
        Ok(Self { gate: ScopedFilter::new(Rules::new(parsed, Vec::new())), state: Arc::new(Mutex::new(state)) })
    }

    /// Puts a filter of the configuration in force; steps by signals are forgotten when it differs from the last one. What
    /// was set for a time stays.
    ///
    /// # Errors
    /// When it is not valid; the old one stays.
    pub fn configure(&self, filter: &str) -> Result<()> {
        self.change(|state| {
            if state.configured != filter {
                filter.clone_into(&mut state.configured);
                state.steps = 0;
            }
        })
        .with_context(|| format!("log filter {filter:?}"))
    }

    /// One step more verbose; returns the filter that is in force then.
    pub fn more_verbose(&self) -> String {
        self.step(1)
    }

    /// One step less verbose; returns the filter that is in force then.
    pub fn less_verbose(&self) -> String {
        self.step(-1)
    }

    fn step(&self, by: i8) -> String {
        // What was valid stays so with another common level.
        let _ = self.change(|state| state.steps = stepped(&state.configured, state.steps.saturating_add(by)).0);
        self.filter()
    }

    /// Sets a level until `until`, in place of what was set for the same scope.
    ///
    /// # Errors
    /// When the scope can be none, or so much is set already; nothing has changed then.
    pub fn set(&self, scope: Scope, level: LevelFilter, until: Instant) -> Result<()> {
        if let Scope::Target(target) = &scope {
            // Signs that mean something in a filter do not belong into a target.
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-' | '.');
            ensure!(
                !target.is_empty() && target.chars().all(legal),
                "{target:?} is not a target: give a path such as portsplice::container"
            );
        }
        let mut full = false;
        self.change(|state| {
            state.overrides.retain(|other| other.scope != scope);
            full = state.overrides.len() >= OVERRIDES;
            if !full {
                state.overrides.push(Override { scope, level, until });
            }
        })?;
        ensure!(!full, "the limit of {OVERRIDES} log levels is reached");
        Ok(())
    }

    /// Takes back what was set for a scope; false if nothing was.
    pub fn unset(&self, scope: &Scope) -> bool {
        self.forget(|other| other.scope == *scope)
    }

    /// Takes back what was set until `now` or before; false if nothing was.
    pub fn expire(&self, now: Instant) -> bool {
        self.forget(|other| other.until <= now)
    }

    fn forget(&self, which: impl Fn(&Override) -> bool) -> bool {
        if !self.state.lock().overrides.iter().any(&which) {
            return false;
        }
        // With less of them the filter is as valid.
        let _ = self.change(|state| state.overrides.retain(|other| !which(other)));
        true
    }

    /// What was set for a time.
    pub fn overrides(&self) -> Vec<Override> {
        self.state.lock().overrides.clone()
    }

    /// The filter that is in force, without what is for containers.
    pub fn filter(&self) -> String {
        self.state.lock().filter()
    }

    /// Changes the state and puts it in force, or leaves all as it was.
    fn change(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut state = self.state.lock();
        let mut changed = state.clone();
        change(&mut changed);
        let filter = EnvFilter::try_new(changed.filter())?;
        self.gate.set(Rules::new(filter, changed.containers()));
        *state = changed;
        Ok(())
    }
}

impl State {
    /// The filter with the steps and what was set for everything and for targets: of two directives for the same, the later
    /// counts.
    fn filter(&self) -> String {
        let mut filter = stepped(&self.configured, self.steps).1;
        for Override { scope, level, .. } in &self.overrides {
            match scope {
                Scope::All => filter.push_str(&format!(",{level}")),
                Scope::Target(target) => filter.push_str(&format!(",{target}={level}")),
                Scope::Container(_) => {}
            }
        }
        filter
    }

    fn containers(&self) -> Vec<(Vec<String>, LevelFilter)> {
        let of = |set: &Override| match &set.scope {
            Scope::Container(names) => Some((names.clone(), set.level)),
            Scope::All | Scope::Target(_) => None,
        };
        self.overrides.iter().filter_map(of).collect()
    }
}

/// The filter `steps` away from `configured`, and the steps that were possible. The directives for single targets stay as
/// configured and the level of all others moves; with no steps it is the configured filter exactly.
fn stepped(configured: &str, steps: i8) -> (i8, String) {
    let (levels, targets): (Vec<&str>, Vec<&str>) = configured
        .split(',')
        .map(str::trim)
        .filter(|directive| !directive.is_empty())
        .partition(|directive| directive.parse::<LevelFilter>().is_ok());
    // What EnvFilter takes when no directive names a level for everything.
    let base = levels.last().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::ERROR);
    // "off" is one step quieter than the first level.
    let at = LEVELS.iter().position(|level| *level == base).map_or(-1, |at| at as i8);
    let to = at.saturating_add(steps).clamp(at.min(0), LEVELS.len() as i8 - 1);
    if to == at {
        return (0, configured.to_owned());
    }
    let level = LEVELS[usize::try_from(to).unwrap_or(0)].to_string();
    let directives: Vec<&str> = std::iter::once(level.as_str()).chain(targets).collect();
    (to - at, directives.join(","))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn steps_move_the_common_level_and_keep_the_targets() {
        assert_eq!(stepped("info", 1), (1, "debug".to_owned()));
        assert_eq!(stepped("info", 2), (2, "trace".to_owned()));
        assert_eq!(stepped("info", 3), (2, "trace".to_owned()), "there is nothing louder than trace");
        assert_eq!(stepped("info", -5), (-2, "error".to_owned()), "errors are always shown");
        assert_eq!(stepped("warn,portsplice::access=info", 1), (1, "info,portsplice::access=info".to_owned()));
        assert_eq!(stepped("portsplice=info", 1), (1, "warn,portsplice=info".to_owned()));
        assert_eq!(stepped("off", 1), (1, "error".to_owned()));
        assert_eq!(stepped("off", -1), (0, "off".to_owned()));
        assert_eq!(stepped("info , x=debug", 0), (0, "info , x=debug".to_owned()));
    }

    #[test]
    fn a_step_back_restores_what_was_configured() {
        let control = LogControl::new("warn,a=debug").unwrap();
        assert_eq!(control.more_verbose(), "info,a=debug");
        assert_eq!(control.more_verbose(), "debug,a=debug");
        assert_eq!(control.less_verbose(), "info,a=debug");
        assert_eq!(control.less_verbose(), "warn,a=debug");
        assert_eq!(control.less_verbose(), "error,a=debug");
        control.configure("info").unwrap();
        assert_eq!(control.more_verbose(), "debug");
        control.configure("info").unwrap();
        assert_eq!(control.less_verbose(), "info", "the same configuration again keeps the step");
        assert!(control.configure("a=b=c").is_err());
        assert_eq!(control.filter(), "info");
    }

    /// Lines as they are written, for a closure.
    fn logged(control: &LogControl, log: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Lines(Arc<Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = fmt::layer().with_writer(move || writer.clone()).without_time().with_ansi(false);
        let subscriber = tracing_subscriber::registry().with(control.gate.clone()).with(layer);
        tracing::subscriber::with_default(subscriber, log);
        String::from_utf8(lines.0.lock().clone()).unwrap()
    }

    fn some_lines() {
        let web = "web";
        tracing::debug!(container = %web, "displayed");
        tracing::debug!(container = web, "plain");
        tracing::debug!(container = "other", "not this one");
        tracing::debug!("of no container");
        tracing::trace!(container = web, "too much");
        tracing::info!("usual");
    }

    #[test]
    fn the_level_of_one_container_is_raised_and_no_others() {
        let control = LogControl::new("info").unwrap();
        let later = Instant::now() + Duration::from_secs(60);
        let names = vec!["id".to_owned(), "web".to_owned()];
        control.set(Scope::Container(names.clone()), LevelFilter::DEBUG, later).unwrap();
        let text = logged(&control, some_lines);
        for (line, expected) in [
            ("displayed", true),
            ("plain", true),
            ("usual", true),
            ("not this one", false),
            ("of no container", false),
            ("too much", false),
        ] {
            assert_eq!(text.contains(line), expected, "{line}: {text}");
        }
        assert_eq!(control.filter(), "info");
        assert!(control.unset(&Scope::Container(names)));
        assert!(!logged(&control, some_lines).contains("displayed"));
    }

    #[test]
    fn what_is_set_for_a_time_ends_with_it() {
        let control = LogControl::new("info,a=warn").unwrap();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        control.set(Scope::All, LevelFilter::DEBUG, at(10)).unwrap();
        control.set(Scope::Target("a".to_owned()), LevelFilter::TRACE, at(20)).unwrap();
        assert_eq!(control.filter(), "info,a=warn,debug,a=trace");
        assert!(logged(&control, some_lines).contains("of no container"));
        control.set(Scope::All, LevelFilter::ERROR, at(10)).unwrap();
        assert!(!logged(&control, some_lines).contains("usual"), "it can be lowered, too");
        assert!(!control.expire(at(9)));
        assert!(control.expire(at(10)));
        assert_eq!((control.filter().as_str(), control.overrides().len()), ("info,a=warn,a=trace", 1));
        assert!(control.expire(at(30)) && !control.expire(at(30)));
        assert_eq!(control.filter(), "info,a=warn");
        for target in ["", "a=b", "a,b", "[x]", "a b"] {
            assert!(control.set(Scope::Target(target.to_owned()), LevelFilter::INFO, at(1)).is_err(), "{target}");
        }
        (0..OVERRIDES).for_each(|n| control.set(Scope::Target(format!("t{n}")), LevelFilter::INFO, at(1)).unwrap());
        assert!(control.set(Scope::All, LevelFilter::INFO, at(1)).is_err());
    }
}
