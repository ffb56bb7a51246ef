//! The skeleton of every daemon: start, readiness, signals, watchdog, reload, log level, admin server, drain, end. A [`Role`]
//! supplies what is its own.
//!
//! ```text
//! sockets of the service manager, Role::prepare (gives up privileges), runtime
//!   -> listeners and admin server are bound, Role::start      may fail; nothing is served yet
//!   -> listeners are served, lines on standard output, READY
//!   -> signals: HUP reloads, USR1 and USR2 change the log's level, TERM, INT and Role::stopped end
//!   -> listeners are closed; connections and Role::finish get `drain-timeout`, what is left is reset
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use tokio::runtime;

use super::listeners::{Drains, Listeners, Serve, Shared};
use super::secrets::{keyring, replay_memory};
use super::service::{self, Watchdog};
use super::signals::{Event, Signals};
use super::{announce, observe};
use crate::admin::{Admin, AdminListener};
use crate::build_info;
use crate::config::{Loaded, RoleSettings, Sources};
use crate::descriptors::Descriptors;
use crate::logging::LogControl;
use crate::metrics::{Metrics, Reload};
use crate::privileges::{self, Privileges};
use crate::readiness::Readiness;
use portsplice_auth::{Keyring, RegisteredKeys};
use portsplice_net::listen::Inherited;
use portsplice_net::tls::TlsIdentity;

/// How long connections that were cut have to close. That takes no peer and no I/O, so this only guards against a mistake.
const ABORT_GRACE: Duration = Duration::from_millis(500);
/// How long tasks that were told to end may take, before the process goes without them.
const RUNTIME_GRACE: Duration = Duration::from_millis(500);

/// What a daemon does that others do not.
pub(crate) trait Role: Serve + Sized {
    /// What it is configured with.
    type Settings: RoleSettings + Clone;
    /// What it opened before it gave up privileges.
    type Prepared;

    /// Reads the files that a configuration names, beside secrets and the listeners' certificates.
    ///
    /// # Errors
    /// What the daemon would not start with.
    fn check(config: &Loaded<Self::Settings>) -> Result<()>;

    /// Opens what takes privileges that do not remain, and gives those up. No thread has been started yet.
    ///
    /// # Errors
    /// When the daemon could serve nothing.
    fn prepare(config: &Loaded<Self::Settings>) -> Result<(Self::Prepared, Privileges)>;

    /// The runtime that everything but the data path runs on.
    fn runtime() -> runtime::Builder;

    /// How a daemon that may have so many files open shares them out; `None` is no limit.
    fn descriptors(settings: &Self::Settings, open_files: Option<u64>) -> Descriptors;

    /// Makes the parts of the role. Nothing is served yet, and listeners are bound.
    ///
    /// # Errors
    /// Where the configuration cannot be used.
    async fn start(prepared: Self::Prepared, starting: &Starting<'_, Self::Settings>) -> Result<Self>;

    /// Says on standard output what else stands, see [`announce`].
    fn announce(&self) {}

    /// Returns when the role itself wants the daemon to end, because an operator asked it to.
    async fn stopped(&self) {
        std::future::pending().await
    }

    /// Puts another configuration in force. Listeners and keys are seen to by the daemon; what takes a restart has been warned
    /// of and is left as it is.
    fn reload(&mut self, old: &Self::Settings, new: &Self::Settings, descriptors: &Descriptors);

    /// The log's level has changed.
    fn log_level_changed(&self) {}

    /// Connections that are open.
    fn connections(&self) -> usize;

    /// What the role has to do for its end while connections finish; takes a bounded time.
    fn finish(&mut self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// What a role finds when its parts are made.
pub(crate) struct Starting<'a, S> {
    /// The configuration.
    pub(crate) config: &'a Loaded<S>,
    /// How files are shared out.
    pub(crate) descriptors: &'a Descriptors,
    /// The daemon's metrics.
    pub(crate) metrics: &'a Arc<Metrics>,
    /// What readiness waits for.
    pub(crate) readiness: &'a Readiness,
    /// The daemon's log.
    pub(crate) log: &'a LogControl,
    /// The address of the first listener.
    pub(crate) address: Option<SocketAddr>,
    /// The keys in force.
    pub(crate) keyring: &'a Arc<ArcSwap<Keyring>>,
    /// Keys that come and go while the daemon runs.
    pub(crate) registered_keys: &'a Arc<RegisteredKeys>,
}

/// Reads the files that a configuration names, as the start would.
///
/// # Errors
/// What the daemon would not start with.
pub(crate) fn check<R: Role>(config: &Loaded<R::Settings>) -> Result<()> {
    let shared = config.shared();
    keyring(&shared.secrets)?;
    for listen in &config.listen {
        if let Some(files) = &listen.certificate {
            TlsIdentity::load(files).with_context(|| format!("listener {listen}"))?;
        }
    }
    R::check(config)
}

/// What the start with a configuration would warn of.
pub(crate) fn warnings<R: Role>(config: &Loaded<R::Settings>) -> Vec<String> {
    let files = R::descriptors(config, privileges::open_files()).warning(config.clients().connections);
    config.warnings.iter().cloned().chain(files).collect()
}

/// Runs a daemon until it is told to end. To be called before the process has threads.
///
/// Files are read and sockets are opened with the privileges that will remain, so that what works at the start also works at a
/// reload.
///
/// # Errors
/// When it cannot start, or cannot go on. An end by signal is none, also when connections had to be cut.
pub(crate) fn run<R: Role>(sources: Sources, config: Loaded<R::Settings>, log: LogControl) -> Result<()> {
    let inherited = Inherited::take()?;
    let (prepared, privileges) = R::prepare(&config)?;
    let runtime = R::runtime().enable_all().build().context("cannot start the runtime")?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new().context("cannot install signal handlers")?;
        let role = R::Settings::role().name;
        tracing::info!(version = build_info::VERSION, commit = build_info::COMMIT, "starting portsplice {role}");
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        privileges.missing.iter().for_each(|missing| tracing::warn!("{missing}"));
        let daemon = Daemon::<R>::start(Start { sources, config, log, inherited }, prepared, &privileges).await?;
        daemon.run(&mut signals).await
    });
    // Whatever is left has been told to end; a task that does not must not keep the process.
    runtime.shutdown_timeout(RUNTIME_GRACE);
    ended
}

/// What a daemon is started with.
struct Start<S> {
    sources: Sources,
    config: Loaded<S>,
    log: LogControl,
    inherited: Inherited,
}

struct Daemon<R: Role> {
    role: R,
    /// What the configuration was made from, to make it again.
    sources: Sources,
    /// What the process was started with; settings that take a restart are still those.
    started: Loaded<R::Settings>,
    /// What is in force.
    config: Loaded<R::Settings>,
    log: LogControl,
    inherited: Inherited,
    descriptors: Descriptors,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    listeners: Listeners,
}

impl<R: Role> Daemon<R> {
    /// Everything that can fail for the configuration's sake comes before anything is served.
    async fn start(start: Start<R::Settings>, prepared: R::Prepared, privileges: &Privileges) -> Result<Self> {
        let Start { sources, config, log, inherited } = start;
        let shared = config.shared();
        let metrics = Metrics::new(observe::BUILD);
        let readiness = Readiness::new();
        let serving = readiness.pending("listeners");

        let registered_keys = Arc::<RegisteredKeys>::default();
        let replay = Arc::new(replay_memory(&shared.auth));
        observe::replay(&metrics, &replay);
        let keyring = keyring(&shared.secrets)?;
        let keys = Shared::new(keyring, Arc::clone(&registered_keys), replay, shared.auth.window);
        let listeners = Listeners::new(keys);
        let plan = listeners.plan(&config.listen, &inherited)?;
        let admin = shared.admin.map(AdminListener::bind).transpose().context("the admin server (`admin`)")?;
        for name in inherited.unused(&config.listen) {
            tracing::warn!(
                name,
                "the service manager passed a socket that no listener asks for; add a [[listen]] with address = \"systemd:{name}\", or remove it from the .socket unit"
            );
        }
        let descriptors = R::descriptors(&config, privileges.open_files);
        descriptors.warn(config.clients().connections);
        let starting = Starting {
            config: &config,
            descriptors: &descriptors,
            metrics: &metrics,
            readiness: &readiness,
            log: &log,
            address: plan.first(),
            keyring: listeners.shared().keyring(),
            registered_keys: &registered_keys,
        };
        let role = R::start(prepared, &starting).await?;
        let started = config.clone();
        let mut daemon =
            Self { role, sources, started, config, log, inherited, descriptors, metrics, readiness, listeners };
        daemon.listeners.apply(plan, &daemon.role);
        serving.done();
        daemon.announce(admin);
        Ok(daemon)
    }

    /// Tells people, tests and the service manager that everything stands.
    fn announce(&self, admin: Option<AdminListener>) {
        self.role.announce();
        if let Some(listener) = admin {
            announce(&format!("admin http://{}", listener.address()));
            let shown = Admin { metrics: Arc::clone(&self.metrics), readiness: self.readiness.clone() };
            tokio::spawn(serve_admin(listener, shown));
        }
        announce("ready");
        service::ready(&self.status());
    }

    async fn run(mut self, signals: &mut Signals) -> Result<()> {
        let mut watchdog = Watchdog::start();
        let ended = self.serve(signals, &mut watchdog).await;
        let drains = self.close();
        tokio::join!(self.role.finish(), self.drain(&drains, signals, &mut watchdog));
        ended
    }

    /// Until a signal or the role says to end, or a listener fails.
    async fn serve(&mut self, signals: &mut Signals, watchdog: &mut Watchdog) -> Result<()> {
        loop {
            tokio::select! {
                event = signals.next() => match event {
                    Event::End(signal) => {
                        tracing::info!(signal, "shutting down: draining connections");
                        return Ok(());
                    }
                    Event::Reload => self.reload(),
                    Event::VerbosityUp => self.log_level(self.log.more_verbose()),
                    Event::VerbosityDown => self.log_level(self.log.less_verbose()),
                },
                () = watchdog.due() => service::watchdog_ping(),
                () = self.role.stopped() => return Ok(()),
                error = self.listeners.failed() => return Err(error),
            }
        }
    }

    /// Takes nothing new from here on.
    fn close(&mut self) -> Drains {
        self.readiness.draining();
        service::stopping(self.config.shared().drain_timeout);
        self.listeners.close()
    }

    /// Lets what runs finish within the configured time; a second signal to end cuts it at once.
    async fn drain(&self, drains: &Drains, signals: &mut Signals, watchdog: &mut Watchdog) {
        let mut deadline = std::pin::pin!(tokio::time::sleep(self.config.shared().drain_timeout));
        loop {
            tokio::select! {
                biased;
                () = drains.finished() => {
                    tracing::info!("stopped; all connections drained");
                    return;
                }
                () = &mut deadline => {
                    let open = self.role.connections();
                    tracing::warn!(open, "drain deadline reached: resetting the remaining connections; raise `drain-timeout` to give them longer");
                    break;
                }
                event = signals.next() => match event {
                    Event::End(signal) => {
                        let open = self.role.connections();
                        tracing::warn!(open, signal, "second signal: stopping at once and resetting the remaining connections");
                        break;
                    }
                    Event::Reload => tracing::warn!("ignoring SIGHUP during shutdown"),
                    Event::VerbosityUp => self.log_level(self.log.more_verbose()),
                    Event::VerbosityDown => self.log_level(self.log.less_verbose()),
                },
                () = watchdog.due() => service::watchdog_ping(),
            }
        }
        drains.abort();
        if tokio::time::timeout(ABORT_GRACE, drains.finished()).await.is_err() {
            tracing::warn!("some connections are still open; the kernel closes them when the process exits");
        }
    }

    /// Reads the configuration and the files it names again. Either all of it is put in force, or nothing.
    fn reload(&mut self) {
        service::reloading();
        let done = self.try_reload();
        self.metrics.reloaded(if done.is_ok() { Reload::Applied } else { Reload::Rejected });
        match done {
            Ok(()) => tracing::info!(listeners = self.listeners.len(), "configuration reloaded"),
            Err(error) => tracing::error!("reload failed, keeping the previous configuration: {error:#}"),
        }
        service::ready(&self.status());
    }

    fn try_reload(&mut self) -> Result<()> {
        let config = Loaded::<R::Settings>::load(&self.sources)?;
        let (old, new) = (self.config.shared(), config.shared());
        let keyring = keyring(&new.secrets)?;
        let plan = self.listeners.plan(&config.listen, &self.inherited)?;
        // From here on nothing can fail for the configuration's sake.
        config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        for key in self.started.needs_restart(&config) {
            let role = R::Settings::role().name;
            tracing::warn!("`{key}` has changed; restart the {role} for the change to take effect");
        }
        if old.log.level != new.log.level {
            self.log.configure(&new.log.level)?;
            self.role.log_level_changed();
        }
        self.listeners.shared().replace_keyring(keyring);
        let connections = config.clients().connections;
        if self.config.clients().connections != connections {
            self.descriptors.warn(connections);
        }
        self.role.reload(&self.config, &config, &self.descriptors);
        self.listeners.apply(plan, &self.role);
        self.config = config;
        Ok(())
    }

    fn log_level(&self, filter: String) {
        self.role.log_level_changed();
        tracing::warn!(filter, "log level changed by signal");
    }

    fn status(&self) -> String {
        format!("serving on {}", self.listeners.describe())
    }
}

async fn serve_admin(listener: AdminListener, admin: Admin) {
    let address = listener.address();
    let Err(error) = listener.serve(admin).await;
    tracing::error!(
        %address,
        "the admin server has stopped, and with it metrics and probes until the daemon is started again: {error:#}"
    );
}
