//! A role's listeners over their lives: opened, changed by a reload, closed.
//!
//! A change happens in two steps. [`Listeners::plan`] opens and reads everything new and may fail, which changes nothing;
//! [`Listeners::apply`] puts it in force and cannot fail. A listener whose address stays keeps its socket, so that no
//! connection in its backlog is lost, whatever else about it changes.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, join_all};
use socket2::Socket;
use tokio::task::JoinSet;

use super::announce;
use super::host::hostname;
use portsplice_auth::{Authenticator, Keyring, RegisteredKeys, ReplayMemory};
use portsplice_net::drain::{Drain, DrainWatch};
use portsplice_net::listen;
use portsplice_net::listen::{Bound, Inherited, ListenAddress, ListenConfig, Listener};
use portsplice_net::tls::{TlsIdentity, TlsSlot};

/// A role that serves connections.
pub(crate) trait Serve {
    /// Serves `listener` until the drain that it holds open begins.
    fn serve(&self, listener: Listener, drain: DrainWatch) -> BoxFuture<'static, io::Result<()>>;
}

/// What all listeners share.
#[derive(Debug)]
pub(super) struct Shared {
    keyring: Arc<ArcSwap<Keyring>>,
    registered: Arc<RegisteredKeys>,
    replay: Arc<ReplayMemory>,
    window: Duration,
    /// The certificate for all TLS listeners without one of their own; the same as long as the process lives.
    generated: OnceLock<Arc<TlsIdentity>>,
}

impl Shared {
    /// `registered`: the keys that come while the node runs, beside those of `keyring` and of every later one.
    pub(super) fn new(
        keyring: Keyring,
        registered: Arc<RegisteredKeys>,
        replay: Arc<ReplayMemory>,
        window: Duration,
    ) -> Self {
        let keyring = keyring.with_registered(Arc::clone(&registered));
        let keyring = Arc::new(ArcSwap::from_pointee(keyring));
        Self { keyring, registered, replay, window, generated: OnceLock::new() }
    }

    /// The keys in force, of which a reload makes others.
    pub(super) fn keyring(&self) -> &Arc<ArcSwap<Keyring>> {
        &self.keyring
    }

    pub(super) fn replace_keyring(&self, keyring: Keyring) {
        self.keyring.store(Arc::new(keyring.with_registered(Arc::clone(&self.registered))));
    }

    fn identity(&self, config: &ListenConfig) -> Result<Option<Arc<TlsIdentity>>> {
        if !config.tls {
            return Ok(None);
        }
        if let Some(files) = &config.certificate {
            return Ok(Some(Arc::new(TlsIdentity::load(files).with_context(|| format!("listener {config}"))?)));
        }
        if let Some(identity) = self.generated.get() {
            return Ok(Some(Arc::clone(identity)));
        }
        let identity = Arc::new(TlsIdentity::generate(&hostname())?);
        Ok(Some(Arc::clone(self.generated.get_or_init(|| identity))))
    }
}

/// A listener that is being served.
#[derive(Debug)]
struct Active {
    config: ListenConfig,
    address: SocketAddr,
    /// Kept beside the one that is served, for a reload that changes how it is served.
    socket: Socket,
    tls: Option<Arc<TlsSlot>>,
    drain: Drain,
}

/// Every listener of a configuration, ready to be put in force.
#[derive(Debug)]
pub(super) struct Plan(Vec<Planned>);

impl Plan {
    /// The address of the first listener.
    pub(super) fn first(&self) -> Option<SocketAddr> {
        self.0.first().map(|planned| planned.bound.address)
    }
}

#[derive(Debug)]
struct Planned {
    bound: Bound,
    identity: Option<Arc<TlsIdentity>>,
    /// The listener at this address that is being served.
    replaces: Option<SocketAddr>,
}

#[derive(Debug)]
pub(super) struct Listeners {
    shared: Shared,
    active: Vec<Active>,
    /// Of listeners that are no more and whose connections still run.
    retired: Vec<Drain>,
    tasks: JoinSet<(String, io::Result<()>)>,
}

impl Listeners {
    pub(super) fn new(shared: Shared) -> Self {
        Self { shared, active: Vec::new(), retired: Vec::new(), tasks: JoinSet::new() }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn len(&self) -> usize {
        self.active.len()
    }

    /// All listeners in one line.
    pub(super) fn describe(&self) -> String {
        let shown = self.active.iter().map(|active| format!("{} {}", kind(&active.config), active.address));
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Opens the sockets and reads the certificates of `wanted`.
    ///
    /// # Errors
    /// What cannot be had; everything stays as it is then.
    pub(super) fn plan(&self, wanted: &[ListenConfig], inherited: &Inherited) -> Result<Plan> {
        let mut planned = Vec::new();
        let mut taken: Vec<SocketAddr> = Vec::new();
        for config in wanted {
            let identity = self.shared.identity(config)?;
            let bounds = match self.unchanged(config, &taken) {
                Some(active) => {
                    let socket = active.socket.try_clone()?;
                    vec![Bound { config: config.clone(), socket, address: active.address }]
                }
                None => listen::bind(config, wanted, inherited)?,
            };
            for bound in bounds {
                let replaces = self.active.iter().map(|active| active.address).find(|a| *a == bound.address);
                taken.extend(replaces);
                planned.push(Planned { bound, identity: identity.clone(), replaces });
            }
        }
        Ok(Plan(planned))
    }

    /// The listener that is at the address of `config` already. Two with port 0 are told apart by all of their
    /// configuration, then by their order. Sockets of the service manager are asked for anew each time.
    fn unchanged(&self, config: &ListenConfig, taken: &[SocketAddr]) -> Option<&Active> {
        if matches!(config.address, ListenAddress::Systemd(_)) {
            return None;
        }
        let candidates =
            || self.active.iter().filter(|a| a.config.address == config.address && !taken.contains(&a.address));
        candidates().find(|a| a.config == *config).or_else(|| candidates().next())
    }

    /// Puts a plan in force: new listeners first, then the changed ones, and those that are no longer wanted last.
    pub(super) fn apply(&mut self, plan: Plan, role: &impl Serve) {
        self.forget_finished();
        let mut old = std::mem::take(&mut self.active);
        for Planned { bound, identity, replaces } in plan.0 {
            let unchanged = replaces.and_then(|address| old.iter().position(|a| a.address == address));
            let unchanged = unchanged.map(|index| old.swap_remove(index));
            if unchanged.is_none() {
                tracing::info!("listening on {} {}", kind(&bound.config), bound.address);
                announce(&format!("listening {} {}", kind(&bound.config), bound.address));
            }
            let active = match unchanged {
                Some(active) if is_served_alike(&active.config, &bound.config) => {
                    active.renewed(bound.config, identity)
                }
                Some(active) => {
                    let new = self.serve(bound, identity, role);
                    self.retired.push(active.retire());
                    new
                }
                None => self.serve(bound, identity, role),
            };
            self.active.push(active);
        }
        for active in old {
            tracing::info!(
                "stopped listening on {} {}; its connections may finish",
                kind(&active.config),
                active.address
            );
            self.retired.push(active.retire());
        }
    }

    fn serve(&mut self, bound: Bound, identity: Option<Arc<TlsIdentity>>, role: &impl Serve) -> Active {
        let Bound { config, socket, address } = bound;
        let tls = identity.map(|identity| Arc::new(ArcSwap::new(identity)));
        let drain = Drain::new();
        let shared = &self.shared;
        let authenticator = Authenticator::new(
            &config.credentials,
            Arc::clone(&shared.keyring),
            Arc::clone(&shared.replay),
            shared.window,
        );
        let name = format!("{} {address}", kind(&config));
        match socket.try_clone() {
            Ok(served) => {
                let listener = Listener { socket: served, tls: tls.clone(), authenticator: Arc::new(authenticator) };
                let served = role.serve(listener, drain.watch());
                self.tasks.spawn(async move { (name, served.await) });
            }
            Err(error) => {
                self.tasks.spawn(async move { (name, Err(error)) });
            }
        }
        Active { config, address, socket, tls, drain }
    }

    /// Waits until a listener cannot go on, for ever if all goes well.
    pub(super) async fn failed(&mut self) -> anyhow::Error {
        loop {
            match self.tasks.join_next().await {
                Some(Ok((_, Ok(())))) => {}
                Some(Ok((name, Err(error)))) => return anyhow!(error).context(format!("listener {name} has failed")),
                Some(Err(error)) => return anyhow!(error).context("a listener has failed"),
                None => std::future::pending().await,
            }
        }
    }

    /// Closes every listener and tells every connection to finish.
    pub(super) fn close(&mut self) -> Drains {
        let mut drains: Vec<Drain> = std::mem::take(&mut self.active).into_iter().map(Active::retire).collect();
        drains.append(&mut self.retired);
        Drains(drains)
    }

    fn forget_finished(&mut self) {
        self.retired.retain(|drain| drain.watches() > 0);
    }
}

impl Active {
    /// Goes on as it is, with the configuration's new certificate.
    fn renewed(self, config: ListenConfig, identity: Option<Arc<TlsIdentity>>) -> Self {
        if let (Some(slot), Some(identity)) = (&self.tls, identity) {
            slot.store(identity);
        }
        Self { config, ..self }
    }

    /// Stops accepting here and lets connections finish.
    fn retire(self) -> Drain {
        drop(self.socket);
        self.drain.begin();
        self.drain
    }
}

/// Whether nothing differs but the certificate, which can be replaced under way.
fn is_served_alike(old: &ListenConfig, new: &ListenConfig) -> bool {
    old.tls == new.tls && old.credentials == new.credentials
}

fn kind(config: &ListenConfig) -> &'static str {
    if config.tls { "tls" } else { "tcp" }
}

/// Everything that has to finish before the process may end.
#[derive(Debug)]
pub(super) struct Drains(Vec<Drain>);

impl Drains {
    /// Waits until nothing runs any more.
    pub(super) async fn finished(&self) {
        join_all(self.0.iter().map(Drain::finished)).await;
    }

    /// Ends what runs at once.
    pub(super) fn abort(&self) {
        self.0.iter().for_each(Drain::abort);
    }
}
