//! The control socket: a Unix socket on which operators, runtimes and tools ask the daemon and tell it things.
//!
//! JSON-RPC 2.0, one JSON document per line; docs/control.md describes it. Nothing here is on the way of a byte of
//! traffic, and no client can hold up another one, or the daemon: each has a task of its own with bounded buffers, is
//! reset when it does not read for a while, and loses events when it reads too slowly.
//!
//! - `portsplice_control` has the messages, the types of parameters and results, and the other side, for the command line;
//!   [`schema`]: the types' JSON schema.
//! - [`socket`]: the file, its owner, and who may connect; `client`: one client; `methods`: what it can ask for; `news`: the
//!   events it has subscribed to.

mod client;
mod describe;
mod group;
mod methods;
pub mod schema;
pub mod socket;
mod subscriptions;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::UnixListener;
use tokio::sync::{Notify, Semaphore};

use crate::logging::LogControl;
use crate::metrics::Metrics;
use crate::node::connections::Connections;
use crate::readiness::Readiness;
use portsplice_bpf::Fastpath;
use portsplice_discovery::container::Containers;
use portsplice_discovery::events::Events;
use portsplice_discovery::ports::Ports;
use portsplice_net::listen;

pub use socket::{ControlSocket, SocketFile, SocketSettings};

use client::Client;
use socket::Access;

/// How many clients there can be at a time. Each may hold a line of [`portsplice_control::wire::LIMIT`] bytes.
const CLIENTS: usize = 128;

/// The parts of the node that can be asked and told.
#[derive(Clone)]
pub struct Parts {
    /// The containers that the node reaches.
    pub containers: Arc<Containers>,
    /// What listens in them.
    pub ports: Arc<Ports>,
    /// Client connections.
    pub connections: Arc<Connections>,
    /// Changes of all three.
    pub events: Events,
    /// What the daemon counts.
    pub metrics: Arc<Metrics>,
    /// Whether the node is ready.
    pub readiness: Readiness,
    /// The kernel's side.
    pub fastpath: Arc<Fastpath>,
    /// Changes what is logged.
    pub log: LogControl,
    /// How long a drain may take.
    pub drain_timeout: Duration,
}

/// What all clients share.
pub struct Control {
    parts: Parts,
    started: SystemTime,
    drain: Notify,
    log_changed: Notify,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    /// A control that acts on `parts`.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self { parts, started: SystemTime::now(), drain: Notify::new(), log_changed: Notify::new() })
    }

    /// Returns when a client has asked for the drain.
    pub async fn drained(&self) {
        self.drain.notified().await;
    }

    /// Serves clients until it is dropped, and they with it.
    pub async fn serve(self: Arc<Self>, listener: UnixListener, access: Access) {
        let permits = Arc::new(Semaphore::new(CLIENTS));
        let mut clients = tokio::task::JoinSet::new();
        let clock = Arc::clone(&self);
        clients.spawn(async move { clock.log_clock().await });
        let admit = |(stream, _)| {
            // What is left of clients that have gone.
            while clients.try_join_next().is_some() {}
            match (access.check(&stream), Arc::clone(&permits).try_acquire_owned()) {
                (Err(refusal), _) => {
                    client::reject_connection(&stream, portsplice_control::wire::code::NOT_ALLOWED, refusal)
                }
                (Ok(()), Err(_)) => {
                    let text = format!("the limit of {CLIENTS} clients is reached; try again later");
                    client::reject_connection(&stream, portsplice_control::wire::code::BUSY, text);
                }
                (Ok(()), Ok(permit)) => {
                    let client = Client::new(Arc::clone(&self), stream);
                    clients.spawn(async move {
                        client.run().await;
                        drop(permit);
                    });
                }
            }
        };
        let error = listen::accept("control socket", || listener.accept(), admit).await;
        tracing::error!(
            "the control socket has failed, and `portsplice ps` and others cannot ask this daemon until it is started again: {error}"
        );
    }
}
