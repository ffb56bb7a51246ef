//! The composition root: makes the parts of a node from its configuration, joins them, and sees them through start,
//! reload and end.

mod control;
pub mod edge;
mod host;
mod listeners;
mod node_settings;
mod observe;
mod ports;
mod registry;
mod secrets;
mod service;
mod signals;

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admin::{Admin, AdminListener};
use crate::build_info;
use crate::config::{BpfConfig, Config, ContainersConfig, Sources};
use crate::container::{Containers, ContainersSettings};
use crate::control::{ControlSocket, Parts};
use crate::descriptors::{Cost, Descriptors, threads};
use crate::events::Events;
use crate::fastpath::{BpfSettings, Fastpath};
use crate::listen::Inherited;
use crate::logging::LogControl;
use crate::metrics::Metrics;
use crate::node::connections::Connections;
use crate::node::workers::Workers;
use crate::node::{self, Node};
use crate::privileges::Privileges;
use crate::readiness::Readiness;
use crate::relay::pipe::PipePool;
use crate::tls::TlsIdentity;
use portsplice_auth::RegisteredKeys;

use listeners::{Listeners, Shared};
use node_settings::node_settings;
pub use ports::KernelNews;
use registry::Reports;
use secrets::{keyring, replay_memory};
use service::Watchdog;
use signals::{Event, Signals};

/// How often it is looked whether the resolvers have come up, until they have.
const RESOLVERS_POLL: Duration = Duration::from_millis(200);
/// How long connections that were cut have to close. That takes no peer and no I/O, so this only guards against a
/// mistake.
const CUT_GRACE: Duration = Duration::from_millis(500);

/// What a node is started with.
#[derive(Debug)]
pub struct Start {
    /// What the configuration was made from, to make it again.
    pub sources: Sources,
    /// The configuration.
    pub config: Config,
    /// The log, which runs already.
    pub log: LogControl,
    /// Sockets from the service manager.
    pub inherited: Inherited,
    /// What the process may do.
    pub privileges: Privileges,
    /// The control socket, if there is to be one.
    pub control: Option<ControlSocket>,
}

/// Reads the files that a configuration names, as the start of a node would.
///
/// # Errors
/// What the node would not start with.
pub fn check(config: &Config) -> Result<()> {
    keyring(&config.shared.secrets)?;
    for files in config.listen.iter().filter_map(|listen| listen.certificate.as_ref()) {
        TlsIdentity::load(files)?;
    }
    registry::check(config)
}

/// What a configuration says about programs in the kernel.
pub fn bpf_settings(bpf: &BpfConfig) -> BpfSettings {
    BpfSettings { mode: bpf.mode, cgroup: bpf.cgroup.clone(), max_flows: bpf.max_flows }
}

/// Runs a node until it is told to end.
///
/// # Errors
/// When it cannot start, or cannot go on. An end by signal is none, also when connections had to be cut.
pub async fn run(start: Start) -> Result<()> {
    let mut signals = Signals::new().context("cannot handle signals")?;
    tracing::info!(version = build_info::VERSION, commit = build_info::COMMIT, "portsplice node starts");
    start.config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    start.privileges.missing.iter().for_each(|missing| tracing::warn!("{missing}"));
    let mut app = App::start(start).await?;
    let mut watchdog = Watchdog::start();
    let ended = app.serve(&mut signals, &mut watchdog).await;
    let mut reports = std::mem::take(&mut app.reports);
    tokio::join!(reports.end(), app.end(&mut signals, &mut watchdog));
    ended
}

struct App {
    sources: Sources,
    /// What the process was started with; settings that take a restart are still those.
    started: Config,
    /// What is in force.
    config: Config,
    log: LogControl,
    inherited: Inherited,
    descriptors: Descriptors,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    fastpath: Arc<Fastpath>,
    node: Arc<Node>,
    pipes: Arc<PipePool>,
    pipes_shown: observe::Pipes,
    listeners: Listeners,
    reports: Reports,
    control: Option<control::Served>,
    /// Ends the resolvers.
    _resolvers: DropGuard,
}

impl App {
    /// Everything that can fail for the configuration's sake comes before anything is served.
    async fn start(start: Start) -> Result<Self> {
        let Start { sources, config, log, inherited, privileges, control } = start;
        let metrics = Metrics::new(observe::build_labels());
        let readiness = Readiness::new();
        let serving = readiness.pending("listeners");

        let keys = Arc::<RegisteredKeys>::default();
        let replay = Arc::new(replay_memory(&config.shared.auth));
        let mut listeners = Listeners::new(Shared::new(
            keyring(&config.shared.secrets)?,
            Arc::clone(&keys),
            Arc::clone(&replay),
            config.shared.auth.window,
        ));
        let plan = listeners.plan(&config.listen, &inherited)?;
        let admin = config.shared.admin.map(AdminListener::bind).transpose().context("the admin server")?;
        for name in inherited.unused(&config.listen) {
            tracing::warn!(name, "the service manager passed a socket that no listener asks for");
        }
        let descriptors = descriptors(config.threads, privileges.open_files);
        descriptors.warn(config.shared.clients.connections);

        let bpf = bpf_settings(&config.bpf);
        let fastpath = Arc::new(Fastpath::start(&bpf).context("`bpf.mode` is \"required\"")?);
        // That went through megabytes of the kernel's type information, and the C library would keep their memory.
        crate::memory::give_back();
        let stop_resolvers = CancellationToken::new();
        let events = Events::default();
        let ports = ports::start(&config.ports, &events, &fastpath)?;
        let watcher = observe::Watcher { fastpath: Arc::clone(&fastpath), ports: Arc::clone(&ports) };
        let containers = resolvers(&config, keys, (&events, watcher), &readiness, &stop_resolvers).await?;
        ports::let_go_of_closed(&events, &containers);
        let pipes = pipe_pool(&config, &descriptors);
        let workers = Workers::start(threads(config.threads)).context("cannot start the threads for connections")?;
        let settings = node_settings(&config, &descriptors, &pipes, &fastpath);
        let connections = Connections::new(events.clone());
        let parts = node::Parts {
            containers: Arc::clone(&containers),
            ports: Arc::clone(&ports),
            connections: Arc::clone(&connections),
            metrics: Arc::clone(&metrics),
        };
        let node = Node::new(settings, parts, workers);
        observe::register(&metrics, &readiness, &containers, &fastpath, &replay);
        ports::register(&metrics, &ports);
        let pipes_shown = observe::Pipes::new(&metrics, &pipes);

        let keyring = listeners.shared().keyring();
        let told = registry::Sources { containers: &containers, ports: &ports, events: &events, keyring };
        let reports = Reports::start(&config, plan.first(), &told, &metrics, &readiness)?;
        let parts = Parts {
            containers,
            ports,
            connections,
            events,
            metrics: Arc::clone(&metrics),
            readiness: readiness.clone(),
            fastpath: Arc::clone(&fastpath),
            log: log.clone(),
            patience: config.shared.drain_timeout,
        };
        let control = control::serve(control, parts)?;

        listeners.apply(plan, &node);
        serving.done();
        control::tell(control.as_ref());
        if let Some(listener) = admin {
            announce(&format!("admin http://{}", listener.address()));
            tokio::spawn(serve_admin(listener, Admin { metrics: Arc::clone(&metrics), readiness: readiness.clone() }));
        }
        announce("ready");
        service::ready(&status(&listeners));
        Ok(Self {
            sources,
            started: config.clone(),
            config,
            log,
            inherited,
            descriptors,
            metrics,
            readiness,
            fastpath,
            node,
            pipes,
            pipes_shown,
            listeners,
            reports,
            control,
            _resolvers: stop_resolvers.drop_guard(),
        })
    }

    /// Until a signal says to end, or a listener fails.
    async fn serve(&mut self, signals: &mut Signals, watchdog: &mut Watchdog) -> Result<()> {
        loop {
            tokio::select! {
                event = signals.next() => match event {
                    Event::End(signal) => {
                        tracing::info!(signal, "ends: finishes what runs and takes nothing new");
                        return Ok(());
                    }
                    Event::Reload => self.reload(),
                    Event::Louder => self.log_level(self.log.louder()),
                    Event::Quieter => self.log_level(self.log.quieter()),
                },
                () = watchdog.due() => service::alive(),
                () = control::drained(self.control.as_ref()) => return Ok(()),
                error = self.listeners.failed() => return Err(error),
            }
        }
    }

    /// Lets what runs finish within the configured time; a second signal to end cuts it at once.
    async fn end(mut self, signals: &mut Signals, watchdog: &mut Watchdog) {
        let patience = self.config.shared.drain_timeout;
        self.readiness.draining();
        service::stopping(patience);
        let drains = self.listeners.close();
        let deadline = tokio::time::sleep(patience);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                biased;
                () = drains.finished() => {
                    tracing::info!("ended; every connection was finished");
                    return;
                }
                () = &mut deadline => {
                    let cut = self.node.connections();
                    tracing::warn!(cut, "ends at the deadline and cuts what still runs; a longer `drain-timeout` lets it finish");
                    break;
                }
                event = signals.next() => match event {
                    Event::End(signal) => {
                        let cut = self.node.connections();
                        tracing::warn!(cut, signal, "ends at once and cuts what still runs");
                        break;
                    }
                    Event::Reload => tracing::warn!("a node that ends reads no configuration any more"),
                    Event::Louder => self.log_level(self.log.louder()),
                    Event::Quieter => self.log_level(self.log.quieter()),
                },
                () = watchdog.due() => service::alive(),
            }
        }
        drains.cut();
        if tokio::time::timeout(CUT_GRACE, drains.finished()).await.is_err() {
            tracing::warn!("some connections did not end when they were cut; the kernel closes them with the process");
        }
    }

    /// Reads the configuration and the files it names again. Either all of it is put in force, or nothing.
    fn reload(&mut self) {
        service::reloading();
        match self.try_reload() {
            Ok(()) => {
                self.metrics.reloaded(true);
                tracing::info!(
                    listeners = self.listeners.len(),
                    "the configuration and keys were read again and are in force"
                );
            }
            Err(error) => {
                tracing::error!("the new configuration is not in force, the old one stays: {error:#}");
                self.metrics.reloaded(false);
            }
        }
        service::ready(&status(&self.listeners));
    }

    fn try_reload(&mut self) -> Result<()> {
        let config = Config::load(&self.sources)?;
        let keyring = keyring(&config.shared.secrets)?;
        let plan = self.listeners.plan(&config.listen, &self.inherited)?;
        // From here on nothing can fail for the configuration's sake.
        warn_of_changes(&config.warnings, &self.started.needs_restart(&config), "node");
        if self.config.shared.log.level != config.shared.log.level {
            self.log.configure(&config.shared.log.level)?;
            self.fastpath.follow_log_level();
        }
        self.listeners.shared().replace_keyring(keyring);
        let pool = |config: &Config| {
            let most = self.descriptors.share(config.shared.clients.connections).pipes;
            (config.relay.pipe_bytes, config.relay.idle_pipes, most)
        };
        if pool(&self.config) != pool(&config) {
            // Pipes of the old pool go with the last transfer that uses them.
            self.pipes = pipe_pool(&config, &self.descriptors);
            self.pipes_shown.set(&self.pipes);
        }
        if self.config.shared.clients.connections != config.shared.clients.connections {
            self.descriptors.warn(config.shared.clients.connections);
        }
        self.node.reload(node_settings(&config, &self.descriptors, &self.pipes, &self.fastpath));
        self.listeners.apply(plan, &self.node);
        self.config = config;
        Ok(())
    }

    fn log_level(&self, filter: String) {
        self.fastpath.follow_log_level();
        tracing::warn!(filter, "the log level was changed by a signal");
    }
}

/// Says what a configuration that was read again asks for in vain.
fn warn_of_changes(warnings: &[String], needs_restart: &[&str], role: &str) {
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    for key in needs_restart {
        tracing::warn!("`{key}` has changed since the start, which takes effect only when the {role} is started again");
    }
}

fn status(listeners: &Listeners) -> String {
    format!("serving on {}", listeners.describe())
}

async fn serve_admin(listener: AdminListener, admin: Admin) {
    let Err(error) = listener.serve(admin).await;
    tracing::error!("the admin server has ended: {error:#}");
}

/// Tells people and tests what stands, on standard output. Nobody has to listen.
fn announce(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The engine may come up after the node; until then the node is not ready, and requests for its containers are
/// answered with 503.
async fn resolvers(
    config: &Config,
    keys: Arc<RegisteredKeys>,
    (events, watcher): (&Events, observe::Watcher),
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Result<Arc<Containers>> {
    let ContainersConfig { docker, docker_optional, directory, allow_host_network, trust_image_labels, .. } =
        config.containers.clone();
    let settings = ContainersSettings {
        docker,
        docker_optional,
        directory,
        allow_host_network,
        trust_image_labels,
        registrar: control::registrar(&config.control, keys),
    };
    let pending = readiness.pending("containers");
    let containers = Containers::start(&settings, events.clone(), Arc::new(watcher), stop.clone()).await?;
    let started = Arc::clone(&containers);
    tokio::spawn(async move {
        while started.health().iter().any(|(_, health)| health.is_err()) {
            tokio::time::sleep(RESOLVERS_POLL).await;
        }
        pending.done();
    });
    Ok(containers)
}

/// How a node with so many threads for connections shares out the files that it may have open.
pub fn descriptors(of_connections: usize, limit: Option<u64>) -> Descriptors {
    Descriptors::new(limit, threads(of_connections), Cost::Relayed)
}

fn pipe_pool(config: &Config, descriptors: &Descriptors) -> Arc<PipePool> {
    let most = descriptors.share(config.shared.clients.connections).pipes;
    PipePool::new(config.relay.pipe_bytes, config.relay.idle_pipes, most)
}
