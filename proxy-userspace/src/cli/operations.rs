//! `portsplice drain` and `portsplice log-level`.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::operator::{Daemon, print_json};
use super::output;
use portsplice_control::api::{Draining, Level, LogScope, LogSet, LogState};

/// What `portsplice drain` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
The same as SIGTERM: the daemon accepts nothing new, lets running requests finish within its
`drain-timeout`, resets the rest, and stops. A service manager may restart it.")]
pub(super) struct DrainArgs {
    #[command(flatten)]
    daemon: Daemon,
    /// Return when the daemon has stopped, not before
    #[arg(long)]
    wait: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn drain(args: &DrainArgs) -> Result<()> {
    let mut daemon = args.daemon.connect()?;
    let draining: Draining = daemon.call("drain", &json!({}))?;
    if args.json {
        print_json(&serde_json::to_value(&draining)?)?;
    } else {
        let Draining { connections, drain_timeout } = draining;
        output::print(format!("draining {connections} connections, for up to {drain_timeout} s\n").as_bytes())?;
    }
    if args.wait {
        daemon.set_timeout(None)?;
        while daemon.notification()?.is_some() {}
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
    /// Back to the configured level
    Reset,
}

impl Wanted {
    fn level(self) -> Option<Level> {
        match self {
            Self::Error => Some(Level::Error),
            Self::Warn => Some(Level::Warn),
            Self::Info => Some(Level::Info),
            Self::Debug => Some(Level::Debug),
            Self::Trace => Some(Level::Trace),
            Self::Reset => None,
        }
    }
}

/// What `portsplice log-level` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portsplice log-level debug --for 5m
  portsplice log-level trace --target portsplice::container
  portsplice log-level debug --container web
  portsplice log-level reset --container web")]
pub(super) struct LogLevelArgs {
    /// The new level
    level: Wanted,
    /// Only for this part of the daemon, such as portsplice::container
    #[arg(long, value_name = "TARGET", conflicts_with = "container")]
    target: Option<String>,
    /// Only for lines about this container; raises the level, never lowers it
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// How long until the previous level returns
    #[arg(long = "for", value_name = "TIME", default_value = "15m", value_parser = time)]
    time: Duration,
    #[command(flatten)]
    daemon: Daemon,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let range = Duration::from_secs(1)..=Duration::from_secs(24 * 60 * 60);
    if range.contains(&time) { Ok(time) } else { Err("write a time from 1s to 1day".to_owned()) }
}

pub(super) fn log_level(args: &LogLevelArgs) -> Result<()> {
    let wanted = LogSet {
        level: args.level.level(),
        target: args.target.clone(),
        container: args.container.clone(),
        seconds: Some(args.time.as_secs()),
    };
    let state: Value = args.daemon.connect()?.call("log.set", &wanted)?;
    if args.json {
        return print_json(&state);
    }
    let LogState { filter, set } = serde_json::from_value(state)?;
    let mut text = format!("{filter}\n");
    for LogScope { level, target, container, until } in set {
        let what = match (target, container) {
            (Some(target), _) => target,
            (None, Some(container)) => format!("container {container}"),
            (None, None) => "everything".to_owned(),
        };
        text.push_str(&format!("{} for {what} until {until}\n", level.name()));
    }
    output::print(text.as_bytes())
}
