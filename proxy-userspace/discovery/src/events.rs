//! Changes of this node, for whoever listens: the control socket's subscribers, and the reports to the registry.
//!
//! Senders never wait. A receiver that is slow loses the oldest and is told how many
//! ([`RecvError::Lagged`](tokio::sync::broadcast::error::RecvError::Lagged)); it then asks for the whole state again.
//!
//! Events wait for as long as their slowest receiver likes, so they carry ids and values, and nothing that keeps a container,
//! and with it its namespace, in being.

use std::net::SocketAddr;

use tokio::sync::broadcast::{self, Receiver, Sender};

use portsplice_model::ListeningPort;
use portsplice_net::netns::NetnsId;

/// How many events a slow receiver may be behind.
const BACKLOG: usize = 4096;

/// A container or a port has come or gone.
#[derive(Clone, Debug)]
pub enum StateEvent {
    /// A container runs that was not known, or a known one has another name or policy. What it is now, the table of containers
    /// says; gone by the time that this is read, it is told of in a later event.
    ContainerAdded {
        /// Its id.
        id: String,
    },
    /// A container has gone.
    ContainerRemoved {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// A port listens in a namespace, which several containers may share; or more is known of one that does (its process's name),
    /// and this takes its place.
    PortOpened(NetnsId, ListeningPort),
    /// A port listens no more.
    PortClosed(NetnsId, ListeningPort),
}

/// A client connection has come or gone, or leads into a container now.
#[derive(Clone, Debug)]
pub enum ConnectionEvent {
    /// A connection was accepted.
    Opened {
        /// Its number, unique as long as the daemon runs.
        id: u64,
        /// The controller's address.
        peer: SocketAddr,
    },
    /// It leads to this port now.
    Routed {
        /// Its number.
        id: u64,
        /// The container's name.
        container: String,
        /// Its UUID, or what it has in its place.
        uuid: String,
        /// The port in the container.
        port: u16,
    },
    /// It has ended.
    Closed {
        /// Its number.
        id: u64,
    },
}

/// Where events of containers, ports and connections are sent to whoever listens; clones share the same channels.
#[derive(Clone, Debug)]
pub struct Events {
    state: Sender<StateEvent>,
    connections: Sender<ConnectionEvent>,
}

impl Default for Events {
    fn default() -> Self {
        Self { state: broadcast::channel(BACKLOG).0, connections: broadcast::channel(BACKLOG).0 }
    }
}

impl Events {
    /// Changes of containers and ports from now on.
    pub fn state(&self) -> Receiver<StateEvent> {
        self.state.subscribe()
    }

    /// Changes of connections from now on.
    pub fn connections(&self) -> Receiver<ConnectionEvent> {
        self.connections.subscribe()
    }

    /// Tells of a container or port.
    pub fn emit(&self, event: StateEvent) {
        let _ = self.state.send(event); // nobody has to listen
    }

    /// Tells of a connection; `event` is made only if anybody listens, since connections are many.
    pub fn emit_connection(&self, event: impl FnOnce() -> ConnectionEvent) {
        if self.connections.receiver_count() > 0 {
            let _ = self.connections.send(event());
        }
    }
}
