//! The composition root of an edge.

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use tokio_util::task::AbortOnDropHandle;

use super::listeners::{Listeners, Opened, Serve, Shared};
use super::secrets::{keyring, replay_memory};
use super::service::{self, Watchdog};
use super::signals::{Event, Signals};
use super::{CUT_GRACE, announce, observe, serve_admin, status, warn_of_changes};
use crate::admin::{Admin, AdminListener};
use crate::build_info;
use crate::config::Sources;
use crate::config::edge::EdgeConfig;
use crate::descriptors::{Cost, Descriptors, threads};
use crate::drain::DrainWatch;
use crate::edge::{Edge, EdgeLimits, EdgeListener, EdgeSettings};
use crate::listen::Inherited;
use crate::logging::LogControl;
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::registry::embedded::Embedded;
use crate::tls::TlsIdentity;

/// What an edge is started with.
#[derive(Debug)]
pub struct EdgeStart {
    /// What the configuration was made from, to make it again.
    pub sources: Sources,
    /// The configuration.
    pub config: EdgeConfig,
    /// The log, which runs already.
    pub log: LogControl,
    /// Sockets from the service manager.
    pub inherited: Inherited,
    /// How many files the process may have open.
    pub open_files: Option<u64>,
}

/// Reads the files that a configuration names, as the start of an edge would.
///
/// # Errors
/// What the edge would not start with.
pub fn check(config: &EdgeConfig) -> Result<()> {
    keyring(&config.shared.secrets)?;
    for files in config.listen.iter().filter_map(|listen| listen.certificate.as_ref()) {
        TlsIdentity::load(files)?;
    }
    if config.store.path.exists() {
        Embedded::open(&config.store.path, "")?;
    }
    Ok(())
}

/// Runs an edge until it is told to end.
///
/// # Errors
/// When it cannot start, or cannot go on. An end by signal is none.
pub async fn run(start: EdgeStart) -> Result<()> {
    let mut signals = Signals::new().context("cannot handle signals")?;
    tracing::info!(version = build_info::VERSION, commit = build_info::COMMIT, "portsplice edge starts");
    start.config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let mut app = EdgeApp::start(start).await?;
    let mut watchdog = Watchdog::start();
    let ended = app.serve(&mut signals, &mut watchdog).await;
    app.end(&mut signals, &mut watchdog).await;
    ended
}

impl Serve for Arc<Edge> {
    fn serve(&self, opened: Opened, drain: DrainWatch) -> BoxFuture<'static, io::Result<()>> {
        let Opened { socket, tls, authenticator } = opened;
        Box::pin(Arc::clone(self).serve(EdgeListener { socket, tls, authenticator }, drain))
    }
}

struct EdgeApp {
    sources: Sources,
    /// What the process was started with; settings that take a restart are still those.
    started: EdgeConfig,
    config: EdgeConfig,
    log: LogControl,
    inherited: Inherited,
    descriptors: Descriptors,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    edge: Arc<Edge>,
    listeners: Listeners,
    /// Removes records of silent nodes.
    _expiry: AbortOnDropHandle<()>,
}

impl EdgeApp {
    /// Everything that can fail for the configuration's sake comes before anything is served.
    async fn start(start: EdgeStart) -> Result<Self> {
        let EdgeStart { sources, config, log, inherited, open_files } = start;
        let metrics = Metrics::new(observe::build_labels());
        let readiness = Readiness::new();
        let serving = readiness.pending("listeners");
        let replay = Arc::new(replay_memory(&config.shared.auth));
        observe::replay(&metrics, &replay);
        let mut listeners = Listeners::new(Shared::new(
            keyring(&config.shared.secrets)?,
            Arc::default(),
            replay,
            config.shared.auth.window,
        ));
        let plan = listeners.plan(&config.listen, &inherited)?;
        let admin = config.shared.admin.map(AdminListener::bind).transpose().context("the admin server")?;
        for name in inherited.unused(&config.listen) {
            tracing::warn!(name, "the service manager passed a socket that no listener asks for");
        }
        let descriptors = descriptors(open_files);
        descriptors.warn(config.shared.clients.connections);
        let store = Embedded::open(&config.store.path, "")?;
        let edge = Edge::new(settings(&config, &descriptors), store, Arc::clone(&metrics)).await?;
        let expiring = Arc::clone(&edge);
        let expiry = AbortOnDropHandle::new(tokio::spawn(async move { expiring.expire().await }));

        listeners.apply(plan, &edge);
        serving.done();
        if let Some(listener) = admin {
            announce(&format!("admin http://{}", listener.address()));
            tokio::spawn(serve_admin(listener, Admin { metrics: Arc::clone(&metrics), readiness: readiness.clone() }));
        }
        announce("ready");
        service::ready(&status(&listeners));
        let started = config.clone();
        Ok(Self {
            sources,
            started,
            config,
            log,
            inherited,
            descriptors,
            metrics,
            readiness,
            edge,
            listeners,
            _expiry: expiry,
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
                error = self.listeners.failed() => return Err(error),
            }
        }
    }

    /// Lets what runs finish within the configured time; a second signal to end cuts it at once.
    async fn end(mut self, signals: &mut Signals, watchdog: &mut Watchdog) {
        self.readiness.draining();
        service::stopping(self.config.shared.drain_timeout);
        let drains = self.listeners.close();
        let mut deadline = std::pin::pin!(tokio::time::sleep(self.config.shared.drain_timeout));
        loop {
            tokio::select! {
                biased;
                () = drains.finished() => return tracing::info!("ended; every request was finished"),
                () = &mut deadline => break,
                event = signals.next() => if matches!(event, Event::End(_)) { break },
                () = watchdog.due() => service::alive(),
            }
        }
        tracing::warn!(cut = self.edge.connections(), "ends and cuts what still runs");
        drains.cut();
        let _ = tokio::time::timeout(CUT_GRACE, drains.finished()).await;
    }

    /// Reads the configuration and the files it names again. Either all of it is put in force, or nothing.
    fn reload(&mut self) {
        service::reloading();
        let done = self.try_reload();
        self.metrics.reloaded(done.is_ok());
        match done {
            Ok(()) => tracing::info!("the configuration and keys were read again and are in force"),
            Err(error) => tracing::error!("the new configuration is not in force, the old one stays: {error:#}"),
        }
        service::ready(&status(&self.listeners));
    }

    fn try_reload(&mut self) -> Result<()> {
        let config = EdgeConfig::load(&self.sources)?;
        let keyring = keyring(&config.shared.secrets)?;
        let plan = self.listeners.plan(&config.listen, &self.inherited)?;
        // From here on nothing can fail for the configuration's sake.
        warn_of_changes(&config.warnings, &self.started.needs_restart(&config), "edge");
        if self.config.shared.log.level != config.shared.log.level {
            self.log.configure(&config.shared.log.level)?;
        }
        self.listeners.shared().replace_keyring(keyring);
        if self.config.shared.clients.connections != config.shared.clients.connections {
            self.descriptors.warn(config.shared.clients.connections);
        }
        self.edge.reload(settings(&config, &self.descriptors));
        self.listeners.apply(plan, &self.edge);
        self.config = config;
        Ok(())
    }

    fn log_level(&self, filter: String) {
        tracing::warn!(filter, "the log level was changed by a signal");
    }
}

/// How an edge shares out the files that it may have open.
pub fn descriptors(limit: Option<u64>) -> Descriptors {
    Descriptors::new(limit, threads(0), Cost::Served)
}

fn settings(config: &crate::config::edge::Edge, descriptors: &Descriptors) -> EdgeSettings {
    let clients = &config.shared.clients;
    EdgeSettings {
        limits: EdgeLimits {
            body_timeout: config.limits.body_timeout,
            handshake_timeout: clients.handshake_timeout,
            keep_alive_timeout: clients.keep_alive_timeout,
            connections: descriptors.share(clients.connections).connections,
            connections_per_client: clients.connections_per_client,
        },
        ttl: (config.records.ttl_min, config.records.ttl_max),
    }
}
