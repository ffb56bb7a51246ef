//! Log lines on standard error: text or JSON, with a filter that can change while the process runs.
//!
//! The `log` crate's records (of libraries) come through the same subscriber. The access log is the target
//! [`ACCESS_TARGET`] at level info; it can be switched on its own with a filter such as `warn,portsplice::access=info`.

use std::io::IsTerminal;
use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use crate::config::LogFormat;

/// The target of the lines of the access log.
pub const ACCESS_TARGET: &str = "portsplice::access";

/// From quiet to loud; SIGUSR1 goes one to the right, SIGUSR2 one to the left.
const LEVELS: [LevelFilter; 5] =
    [LevelFilter::ERROR, LevelFilter::WARN, LevelFilter::INFO, LevelFilter::DEBUG, LevelFilter::TRACE];

/// Changes the filter of the process's log.
#[derive(Clone)]
pub struct LogControl {
    handle: reload::Handle<EnvFilter, Registry>,
    state: Arc<Mutex<State>>,
}

impl std::fmt::Debug for LogControl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LogControl").field(&self.state).finish()
    }
}

#[derive(Debug)]
struct State {
    /// What the configuration says.
    configured: String,
    /// Steps away from it by signals; positive is louder.
    steps: i8,
}

/// Starts logging for the whole process; can be done once.
///
/// # Errors
/// When the filter is not valid, or logging was started before.
pub fn start(filter: &str, format: LogFormat) -> Result<LogControl> {
    let parsed = EnvFilter::try_new(filter).with_context(|| format!("log filter {filter:?}"))?;
    let (layer, handle) = reload::Layer::new(parsed);
    let registry = tracing_subscriber::registry().with(layer);
    // A log that nobody reads any more must not take the node with it: reporting the failed write would panic.
    let lines = fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    match format {
        LogFormat::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
        LogFormat::Json => registry.with(lines.json().flatten_event(true).with_current_span(false)).try_init(),
    }
    .context("logging was started already")?;
    log_panics();
    let state = State { configured: filter.to_owned(), steps: 0 };
    Ok(LogControl { handle, state: Arc::new(Mutex::new(state)) })
}

/// A panic ends one connection, not the process; where it happened belongs into the same log as everything else.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let message = panic.payload_as_str().unwrap_or("no message");
        let location = panic.location().map(ToString::to_string);
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(location, %backtrace, "a task panicked, which is a mistake in portsplice: {message}");
    }));
}

impl LogControl {
    /// Puts a filter of the configuration in force; steps by signals are forgotten when it differs from the last one.
    ///
    /// # Errors
    /// When it is not valid; the old one stays.
    pub fn configure(&self, filter: &str) -> Result<()> {
        let mut state = self.state.lock();
        if state.configured == filter {
            return Ok(());
        }
        let parsed = EnvFilter::try_new(filter).with_context(|| format!("log filter {filter:?}"))?;
        self.handle.reload(parsed).context("the log is gone")?;
        *state = State { configured: filter.to_owned(), steps: 0 };
        Ok(())
    }

    /// One step more verbose; returns the filter that is in force then.
    pub fn louder(&self) -> String {
        self.step(1)
    }

    /// One step less verbose; returns the filter that is in force then.
    pub fn quieter(&self) -> String {
        self.step(-1)
    }

    fn step(&self, by: i8) -> String {
        let mut state = self.state.lock();
        let (steps, filter) = stepped(&state.configured, state.steps.saturating_add(by));
        if let Ok(parsed) = EnvFilter::try_new(&filter)
            && self.handle.reload(parsed).is_ok()
        {
            state.steps = steps;
        }
        filter
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
        let (layer, handle) = reload::Layer::new(EnvFilter::new("warn,a=debug"));
        let _subscriber = tracing_subscriber::registry().with(layer);
        let state = State { configured: "warn,a=debug".to_owned(), steps: 0 };
        let control = LogControl { handle, state: Arc::new(Mutex::new(state)) };
        assert_eq!(control.louder(), "info,a=debug");
        assert_eq!(control.louder(), "debug,a=debug");
        assert_eq!(control.quieter(), "info,a=debug");
        assert_eq!(control.quieter(), "warn,a=debug");
        assert_eq!(control.quieter(), "error,a=debug");
        control.configure("info").unwrap();
        assert_eq!(control.louder(), "debug");
        control.configure("info").unwrap();
        assert_eq!(control.quieter(), "info", "the same configuration again keeps the step");
        assert!(control.configure("a=b=c").is_err());
    }
}
