//! The commands that run a daemon, `portsplice node` and `portsplice edge`.

use std::process::ExitCode;

use anyhow::Result;

use super::flags::{DaemonArgs, after_help};
use super::output;
use crate::app::daemon::{self, Role};
use crate::config::edge::EDGE;
use crate::config::{Loaded, NODE, RoleSettings};
use crate::logging::{self, LogFormat};

/// What `portsplice node --help` says below the flags.
pub(super) fn node_help() -> String {
    after_help(
        &NODE,
        "",
        "limits.idle-timeout",
        "\
Examples:
  portsplice node --listen tls://0.0.0.0:7450 --root-secret-file /etc/portsplice/root
  portsplice node --config node.toml --check-config
  PORTSPLICE_LOG_LEVEL=debug portsplice node --config node.toml",
    )
}

/// What `portsplice edge --help` says below the flags.
pub(super) fn edge_help() -> String {
    after_help(
        &EDGE,
        "\
Keeps the records of containers that nodes report (registry.store = \"edge\" there),
and removes those of nodes that have stopped sending heartbeats. docs/record-api.md describes the API.

",
        "records.ttl-max",
        "\
Example:
  portsplice edge --listen tls://0.0.0.0:7460 --root-secret-file /etc/portsplice/root",
    )
}

/// Checks the configuration, and runs the daemon unless that was all.
pub(super) fn run<R: Role>(args: DaemonArgs<R::Settings>) -> Result<ExitCode> {
    let check_only = args.check_config;
    let sources = args.sources()?;
    let config = Loaded::<R::Settings>::load(&sources)?;
    if check_only {
        daemon::check::<R>(&config)?;
        daemon::warnings::<R>(&config).iter().for_each(|warning| output::error(&format!("warning: {warning}")));
        output::print(config.to_string().as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let log = config.shared().log.clone();
    let control = logging::start(&log.level, log.format)?;
    match daemon::run::<R>(sources, config, control) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever reads JSON from standard error reads nothing else.
        Err(error) if log.format == LogFormat::Json => {
            tracing::error!("{error:#}");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error),
    }
}
