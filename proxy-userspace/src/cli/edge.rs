//! `portsplice edge`: what its help says, and what happens before the daemon's runtime starts.

use std::process::ExitCode;

use anyhow::{Context, Result};

use super::daemon;
use super::flags::{DaemonArgs, after_help};
use crate::app::edge::{self, EdgeStart};
use crate::config::Sources;
use crate::config::edge::{Edge, EdgeConfig};
use crate::listen::Inherited;
use crate::logging::LogControl;
use crate::privileges;

/// What `portsplice edge --help` says below the flags.
pub(super) fn help() -> String {
    after_help(
        "edge",
        "\
It keeps the cluster's record of containers, which nodes report (registry.store = \"edge\" there),
and removes what belongs to nodes that are silent. docs/record-api.md describes the API.

",
        "records.ttl-max",
        "PORTSPLICE_EDGE_RECORDS_TTL_MAX",
        "\
Example:
  portsplice edge --listen tls://0.0.0.0:7460 --root-secret-file /etc/portsplice/root",
    )
}

pub(super) fn run(args: DaemonArgs<Edge>) -> Result<ExitCode> {
    let check_only = args.check_config;
    let sources = args.sources()?;
    let config = EdgeConfig::load(&sources)?;
    if check_only {
        edge::check(&config)?;
        let files = edge::descriptors(privileges::open_files()).warning(config.shared.clients.connections);
        return daemon::show(&config, config.warnings.iter().chain(&files));
    }
    let log = config.shared.log.clone();
    daemon::run(&log, |control| daemon(sources, config, control))
}

fn daemon(sources: Sources, config: EdgeConfig, log: LogControl) -> Result<()> {
    let inherited = Inherited::take()?;
    let open_files = privileges::reduce_to_network()?.open_files;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    let ended = runtime.block_on(edge::run(EdgeStart { sources, config, log, inherited, open_files }));
    // Whatever is left has been told to end; a task that does not must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    ended
}
