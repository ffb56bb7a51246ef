//! `portsplice node`: what its help says, and what happens before the daemon's runtime starts.

use std::process::ExitCode;

use anyhow::{Context, Result};

use super::daemon;
use super::flags::{DaemonArgs, after_help};
use crate::app;
use crate::config::{Config, Node, Sources};
use crate::control::{ControlSocket, SocketSettings};
use crate::listen::Inherited;
use crate::logging::LogControl;
use crate::privileges;

/// What `portsplice node --help` says below the flags.
pub(super) fn help() -> String {
    after_help(
        "node",
        "",
        "limits.idle-timeout",
        "PORTSPLICE_LIMITS_IDLE_TIMEOUT",
        "\
Examples:
  portsplice node --listen tls://0.0.0.0:7450 --root-secret-file /etc/portsplice/root
  portsplice node --config node.toml --check-config
  PORTSPLICE_LOG_LEVEL=debug portsplice node --config node.toml",
    )
}

pub(super) fn run(args: DaemonArgs<Node>) -> Result<ExitCode> {
    let check_only = args.check_config;
    let sources = args.sources()?;
    let config = Config::load(&sources)?;
    if check_only {
        app::check(&config)?;
        let files =
            app::descriptors(config.threads, privileges::open_files()).warning(config.shared.clients.connections);
        return daemon::show(&config, config.warnings.iter().chain(&files));
    }
    let log = config.shared.log.clone();
    daemon::run(&log, |control| daemon(sources, config, control))
}

/// Files are read and sockets are opened with the privileges that will remain, so that what works at the start also works
/// at a reload.
fn daemon(sources: Sources, config: Config, log: LogControl) -> Result<()> {
    let inherited = Inherited::take()?;
    // To give the socket to a group takes a privilege that does not remain.
    let control = ControlSocket::bind(&SocketSettings {
        path: config.control.socket.clone(),
        optional: config.control.socket_optional,
        group: config.control.group.clone(),
    })?;
    let privileges = privileges::reduce(config.bpf.mode)?;
    privileges.check()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Connections have threads of their own; this is for everything else.
        .worker_threads(2)
        .thread_name("control")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(app::run(app::Start { sources, config, log, inherited, privileges, control }));
    // Whatever is left has been told to end; a task that does not must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    ended
}
