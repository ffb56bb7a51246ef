//! `portsplice node`: the flags, and what happens before the daemon's runtime starts.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, ValueHint};

use super::daemon;
use crate::app;
use crate::config::settings::*;
use crate::config::{AnySetting, Config, Setting, Sources};
use crate::control::{ControlSocket, SocketSettings};
use crate::listen::Inherited;
use crate::logging::LogControl;
use crate::privileges;

/// What `portsplice node` takes. Values stay text until the configuration is put together, which checks them all alike.
#[derive(Debug, Args)]
#[command(after_help = "\
Each setting can stand in the configuration file, in the environment, or in a flag; the later
wins. The setting `limits.idle-timeout` is the key `idle-timeout` of [limits] in the file, and
PORTSPLICE_LIMITS_IDLE_TIMEOUT in the environment. `portsplice node --check-config` prints all
settings with their values and where they are from.

Signals: TERM and INT finish what runs and end, a second one ends at once. HUP reads the
configuration and keys again. USR1 logs one step more, USR2 one step less.

Examples:
  portsplice node --listen tls://0.0.0.0:7450 --root-secret-file /etc/portsplice/root
  portsplice node --config node.toml --check-config
  PORTSPLICE_LOG_LEVEL=debug portsplice node --config node.toml")]
pub(super) struct NodeArgs {
    /// Read this file instead of /etc/portsplice/node.toml (which may be missing; this one may not)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,

    /// Check the configuration and the files it names, print it, and exit: 0 when all is well, 1 when not
    #[arg(long)]
    check_config: bool,

    /// Listen on tls://ADDRESS or tcp://ADDRESS, with ?credentials=bound,certificate,timestamp if not `bound` alone;
    /// can be given several times, and replaces the listeners of file and environment
    #[arg(long, value_name = "URL", help_heading = "Listeners")]
    listen: Vec<String>,

    /// Serve /metrics, /healthz and /readyz here, e.g. 127.0.0.1:9450
    #[arg(long, value_name = "ADDRESS", value_parser = checked(&ADMIN), help_heading = "Listeners")]
    admin: Option<String>,

    /// Read the cluster's root secret from this file (mode 600)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Secrets")]
    root_secret_file: Option<String>,

    /// Read one key for each container from this directory, in files (mode 600) named by the containers' uuids
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Secrets")]
    keys_dir: Option<String>,

    /// The Docker engine's unix socket; "" does without Docker
    #[arg(long, value_name = "SOCKET", value_parser = checked(&DOCKER), help_heading = "Containers")]
    docker: Option<String>,

    /// The directory in which runtimes register containers; "" does without
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, help_heading = "Containers")]
    containers_dir: Option<String>,

    /// Also reach containers that share the host's network, and with it everything that listens on this host
    #[arg(long, help_heading = "Containers")]
    allow_host_network: bool,

    /// How long a request waits for a port that nothing listens on yet, e.g. 10s
    #[arg(long, value_name = "TIME", value_parser = checked(&HOLD), help_heading = "Containers")]
    hold: Option<String>,

    /// Most connections of controllers at a time; 0 is no limit
    #[arg(long, value_name = "N", value_parser = checked(&CONNECTIONS), help_heading = "Limits")]
    max_connections: Option<String>,

    /// Most connections to one container at a time; 0 is no limit
    #[arg(long, value_name = "N", value_parser = checked(&CONNECTIONS_PER_CONTAINER), help_heading = "Limits")]
    max_connections_per_container: Option<String>,

    /// Most connections of one client address at a time; 0 is no limit
    #[arg(long, value_name = "N", value_parser = checked(&CONNECTIONS_PER_CLIENT), help_heading = "Limits")]
    max_connections_per_client: Option<String>,

    /// For a request head, from its first byte to its last
    #[arg(long, value_name = "TIME", value_parser = checked(&HEAD_TIMEOUT), help_heading = "Limits")]
    head_timeout: Option<String>,

    /// For a connection to a container
    #[arg(long, value_name = "TIME", value_parser = checked(&CONNECT_TIMEOUT), help_heading = "Limits")]
    connect_timeout: Option<String>,

    /// Between two requests of a connection
    #[arg(long, value_name = "TIME", value_parser = checked(&KEEP_ALIVE_TIMEOUT), help_heading = "Limits")]
    keep_alive_timeout: Option<String>,

    /// Between two requests of a connection to a container. Shorter than servers wait before they give a connection up, so that
    /// no request meets its end
    #[arg(long, value_name = "TIME", value_parser = checked(&ORIGIN_IDLE_TIMEOUT), help_heading = "Limits")]
    origin_idle_timeout: Option<String>,

    /// Without a byte in either direction of a request or tunnel
    #[arg(long, value_name = "TIME", value_parser = checked(&IDLE_TIMEOUT), help_heading = "Limits")]
    idle_timeout: Option<String>,

    /// How long running requests may go on after SIGTERM
    #[arg(long, value_name = "TIME", value_parser = checked(&DRAIN_TIMEOUT), help_heading = "Limits")]
    drain_timeout: Option<String>,

    /// How bytes are moved between plain sockets: auto, fast, splice or copy
    #[arg(long, value_name = "PATH", value_parser = checked(&RELAY_PATH), help_heading = "Relay and kernel")]
    relay_path: Option<String>,

    /// Whether kernel programs are loaded: auto, off or required
    #[arg(long, value_name = "MODE", value_parser = checked(&BPF_MODE), help_heading = "Relay and kernel")]
    bpf: Option<String>,

    /// error, warn, info, debug, trace, or filters such as info,portsplice::container=debug
    #[arg(long, value_name = "LEVEL", value_parser = checked(&LOG_LEVEL), help_heading = "Logs")]
    log_level: Option<String>,

    /// text for people, json for machines
    #[arg(long, value_name = "FORMAT", value_parser = checked(&LOG_FORMAT), help_heading = "Logs")]
    log_format: Option<String>,
}

/// Checks a flag's value as the configuration will, so that a mistake in it is one of the command line.
pub(super) fn checked<T>(
    setting: &'static Setting<T>,
) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync {
    move |text| {
        if setting.accepts(text) { Ok(text.to_owned()) } else { Err(format!("write {}", setting.allowed)) }
    }
}

impl NodeArgs {
    fn sources(self) -> Result<Sources> {
        let settings: [(&dyn AnySetting, &'static str, Option<String>); 20] = [
            (&ADMIN, "--admin", self.admin),
            (&ROOT_FILE, "--root-secret-file", self.root_secret_file),
            (&KEYS_DIR, "--keys-dir", self.keys_dir),
            (&DOCKER, "--docker", self.docker),
            (&DIRECTORY, "--containers-dir", self.containers_dir),
            (&ALLOW_HOST_NETWORK, "--allow-host-network", self.allow_host_network.then(|| "true".to_owned())),
            (&HOLD, "--hold", self.hold),
            (&CONNECTIONS, "--max-connections", self.max_connections),
            (&CONNECTIONS_PER_CONTAINER, "--max-connections-per-container", self.max_connections_per_container),
            (&CONNECTIONS_PER_CLIENT, "--max-connections-per-client", self.max_connections_per_client),
            (&HEAD_TIMEOUT, "--head-timeout", self.head_timeout),
            (&CONNECT_TIMEOUT, "--connect-timeout", self.connect_timeout),
            (&KEEP_ALIVE_TIMEOUT, "--keep-alive-timeout", self.keep_alive_timeout),
            (&ORIGIN_IDLE_TIMEOUT, "--origin-idle-timeout", self.origin_idle_timeout),
            (&IDLE_TIMEOUT, "--idle-timeout", self.idle_timeout),
            (&DRAIN_TIMEOUT, "--drain-timeout", self.drain_timeout),
            (&RELAY_PATH, "--relay-path", self.relay_path),
            (&BPF_MODE, "--bpf", self.bpf),
            (&LOG_LEVEL, "--log-level", self.log_level),
            (&LOG_FORMAT, "--log-format", self.log_format),
        ];
        let flags = settings
            .into_iter()
            .filter_map(|(setting, flag, text)| text.map(|text| (setting.key(), flag, text)))
            .collect();
        Ok(Sources { file: self.config, flags, listen: self.listen, ..Sources::with_environment()? })
    }
}

pub(super) fn run(args: NodeArgs) -> Result<ExitCode> {
    let check_only = args.check_config;
    let sources = args.sources()?;
    let config = Config::load(&sources)?;
    if check_only {
        app::check(&config)?;
        let files = app::descriptors(config.threads, privileges::open_files()).warning(config.limits.connections);
        return daemon::show(&config, config.warnings.iter().chain(&files));
    }
    let log = config.log.clone();
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
