//! `log.set`: a level for a time, for everything, a target or a container.

use std::time::{Duration, Instant, SystemTime};

use tracing::level_filters::LevelFilter;

use crate::control::Control;
use crate::logging::{Override, Scope};
use portsplice_control::api::{Level, LogScope, LogSet, LogState};
use portsplice_control::wire::{Fault, code};
use portsplice_model::Timestamp;

/// How long a level holds where nothing is said, and the longest it can, in seconds.
const USUAL: u64 = 15 * 60;
const LONGEST: u64 = 24 * 60 * 60;

impl Control {
    pub(super) async fn set_log(&self, wanted: LogSet) -> Result<LogState, Fault> {
        let wrong = |text: &str| Fault::new(code::INVALID_PARAMS, text);
        let seconds = wanted.seconds.unwrap_or(USUAL);
        if !(1..=LONGEST).contains(&seconds) {
            return Err(wrong("seconds: from 1 to 86400, a day"));
        }
        let scope = match (wanted.target, wanted.container) {
            (None, None) => Scope::All,
            (Some(target), None) => Scope::Target(target),
            (None, Some(name)) => self.container_scope(&name).await?,
            (Some(_), Some(_)) => return Err(wrong("give either target or container")),
        };
        let log = &self.parts.log;
        match wanted.level {
            None => {
                log.unset(&scope);
            }
            Some(level) => {
                let until = Instant::now() + Duration::from_secs(seconds);
                log.set(scope.clone(), filter(level), until).map_err(|error| wrong(&error.to_string()))?;
            }
        }
        self.parts.fastpath.follow_log_level();
        self.log_changed.notify_one();
        let level = wanted.level.map_or("as before", Level::name);
        tracing::warn!(?scope, level, seconds, "log level changed through the control socket");
        Ok(self.log_state())
    }

    /// Lines name a container as it is asked for, or by its own name.
    async fn container_scope(&self, name: &str) -> Result<Scope, Fault> {
        let container = match self.parts.find(name).await {
            Ok(container) => container,
            Err(fault) => {
                // One that has gone meanwhile can still be taken back.
                let set = self.parts.log.overrides().into_iter().map(|set| set.scope);
                let named = |scope: &Scope| matches!(scope, Scope::Container(names) if names.iter().any(|n| n == name));
                return set.into_iter().find(named).ok_or(fault);
            }
        };
        let mut names = vec![container.name.clone()];
        for other in [container.uuid(), name] {
            if !names.iter().any(|known| known == other) {
                names.push(other.to_owned());
            }
        }
        Ok(Scope::Container(names))
    }

    fn log_state(&self) -> LogState {
        let set = self.parts.log.overrides().iter().filter_map(shown).collect();
        LogState { filter: self.parts.log.filter(), set }
    }

    /// Takes levels back when their time is over.
    pub(in crate::control) async fn log_clock(&self) {
        loop {
            let next = self.parts.log.overrides().iter().map(|set| set.until).min();
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.log_changed.notified() => continue,
            }
            if self.parts.log.expire(Instant::now()) {
                self.parts.fastpath.follow_log_level();
                tracing::info!("temporary log level expired");
            }
        }
    }
}

fn filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

/// None if it is over, or was not set here.
fn shown(set: &Override) -> Option<LogScope> {
    let levels = [Level::Error, Level::Warn, Level::Info, Level::Debug, Level::Trace];
    let level = levels.into_iter().find(|level| filter(*level) == set.level)?;
    let left = set.until.checked_duration_since(Instant::now())?;
    let until = Timestamp::from(SystemTime::now() + left);
    let (target, container) = match &set.scope {
        Scope::All => (None, None),
        Scope::Target(target) => (Some(target.clone()), None),
        Scope::Container(names) => (None, names.first().cloned()),
    };
    Some(LogScope { level, target, container, until })
}
