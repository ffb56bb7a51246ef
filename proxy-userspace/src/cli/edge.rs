//! `portsplice edge`: the flags, and what happens before the daemon's runtime starts.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueHint};

use super::daemon;
use super::node::checked;
use crate::app::edge::{self, EdgeStart};
use crate::config::edge::{EdgeConfig, STORE_PATH};
use crate::config::settings::*;
use crate::config::{AnySetting, Sources};
use crate::listen::Inherited;
use crate::logging::LogControl;
use crate::privileges;

/// What `portsplice edge` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
It keeps the cluster's record of containers, which nodes report (registry.store = \"edge\" there),
and removes what belongs to nodes that are silent. docs/record-api.md describes the API.

Each setting can stand in the configuration file, in the environment, or in a flag; the later
wins. The setting `records.ttl-max` is the key `ttl-max` of [records] in the file, and
PORTSPLICE_EDGE_RECORDS_TTL_MAX in the environment. `portsplice edge --check-config` prints all
settings with their values and where they are from.

Signals: TERM and INT finish what runs and end, a second one ends at once. HUP reads the
configuration and keys again. USR1 logs one step more, USR2 one step less.

Example:
  portsplice edge --listen tls://0.0.0.0:7460 --root-secret-file /etc/portsplice/root")]
pub(super) struct EdgeArgs {
    /// Read this file instead of /etc/portsplice/edge.toml (which may be missing; this one may not)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,

    /// Check the configuration and the files it names, print it, and exit: 0 when all is well, 1 when not
    #[arg(long)]
    check_config: bool,

    /// Listen for nodes on tls://ADDRESS or tcp://ADDRESS, with ?certificate-file=FILE&key-file=FILE for a certificate
    /// that is not made at start; can be given several times, and replaces the listeners of file and environment
    #[arg(long, value_name = "URL")]
    listen: Vec<String>,

    /// Serve /metrics, /healthz and /readyz here, e.g. 127.0.0.1:9460
    #[arg(long, value_name = "ADDRESS", value_parser = checked(&ADMIN))]
    admin: Option<String>,

    /// Read the cluster's root secret from this file (mode 600)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    root_secret_file: Option<String>,

    /// Keep records and links in this file
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    store: Option<String>,

    /// error, warn, info, debug, trace, or filters such as info,portsplice::edge=debug
    #[arg(long, value_name = "LEVEL", value_parser = checked(&LOG_LEVEL))]
    log_level: Option<String>,

    /// text for people, json for machines
    #[arg(long, value_name = "FORMAT", value_parser = checked(&LOG_FORMAT))]
    log_format: Option<String>,
}

impl EdgeArgs {
    fn sources(self) -> Result<Sources> {
        let settings: [(&dyn AnySetting, &'static str, Option<String>); 5] = [
            (&ADMIN, "--admin", self.admin),
            (&ROOT_FILE, "--root-secret-file", self.root_secret_file),
            (&STORE_PATH, "--store", self.store),
            (&LOG_LEVEL, "--log-level", self.log_level),
            (&LOG_FORMAT, "--log-format", self.log_format),
        ];
        let given = settings.into_iter().filter_map(|(setting, flag, text)| Some((setting.key(), flag, text?)));
        let flags = given.collect();
        Ok(Sources { file: self.config, flags, listen: self.listen, ..Sources::with_environment()? })
    }
}

pub(super) fn run(args: EdgeArgs) -> Result<ExitCode> {
    let check_only = args.check_config;
    let sources = args.sources()?;
    let config = EdgeConfig::load(&sources)?;
    if check_only {
        edge::check(&config)?;
        let files = edge::descriptors(privileges::open_files()).warning(config.limits.connections);
        return daemon::show(&config, config.warnings.iter().chain(&files));
    }
    let log = config.log.clone();
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
