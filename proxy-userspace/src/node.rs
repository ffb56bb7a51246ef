//! The node's data path: accepts the controller's connections and serves each request on them.
//!
//! - [`accept`]: listeners, connection limits, TLS handshakes; each connection becomes one task on one of the [`workers`].
//! - [`connections`]: what is open, for whoever asks. `session`: the requests of one connection, one after the other.
//! - `request`: one request head, checked and rewritten; `route`: the container it may reach, and the connection there.
//! - `exchange`: one request and its response, both directions at once; `upload` and `download` are its halves.
//! - `interim`: how many interim responses are borne; `heads`: how much is kept of heads that are not whole yet.
//! - `retry`: whether a request may be sent a second time.
//! - `exit_watch`: what becomes of relays when their container goes; `ending`: how a client's connection is closed.
//! - `reply`: what the gateway itself may still say to the client; `access_log`: one line per request.

pub mod accept;
mod access_log;
pub mod connections;
mod download;
mod ending;
mod engine;
mod exchange;
mod exit_watch;
mod heads;
mod interim;
mod reply;
mod request;
mod retry;
mod route;
mod secure;
mod session;
mod upload;
mod upstream;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;
use connections::Connections;
pub use engine::{Engine, FastPath};
use portsplice_discovery::container::Containers;
use portsplice_discovery::ports::Ports;
use portsplice_h1::{HeadLimits, ResponseLimits};
use portsplice_net::limits::ConnectionLimits;
use portsplice_net::sock::Tails;
use workers::Workers;

/// Chunk data of at least this many bytes is moved without being copied to userspace.
const SPLICED_CHUNK: u64 = 64 * 1024;

/// How many connections beyond the caps are told so at a time. Each keeps its socket for some three seconds at most.
const MAX_REJECTING: usize = 16;

/// What a node does with connections and requests; all of it can change while it runs and holds from the next request
/// (or connection) on.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// Bounds of a request's head.
    pub head: HeadLimits,
    /// Bounds of a response's head.
    pub response_head: ResponseLimits,
    /// Most octets that are kept of unfinished request heads, of all connections together.
    pub unfinished_heads: usize,
    /// Timeouts; a zero one is off.
    pub timeouts: Timeouts,
    /// How long a request waits for a port that nothing listens on yet.
    pub wait_for_port: Duration,
    /// Most connections in all and for each client address; 0 is no limit.
    pub connections: u32,
    /// Most connections of one client address; 0 is no limit.
    pub connections_per_client: u32,
    /// Most connections to one container, beside what its own policy says; 0 is no limit.
    pub connections_per_container: u32,
    /// Whether a line is logged for each request.
    pub access_log: bool,
    /// How bytes are moved.
    pub engine: Engine,
    /// Bytes that may be held of what servers sent before their containers ended.
    pub tail_bytes: u64,
}

/// How long the node waits for what; zero is for ever.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// From the first byte of a request head to its last.
    pub head: Duration,
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For a connection to a container.
    pub connect: Duration,
    /// Between requests on a kept-alive connection.
    pub keep_alive: Duration,
    /// Between requests on a kept-alive connection to a container. It is also what keeps a request from meeting a server that
    /// just gives the connection up, so it is less than servers wait: 2 s the most impatient of the common ones.
    pub upstream_idle: Duration,
    /// Without a byte in either direction while a request, response or tunnel is under way.
    pub idle: Duration,
    /// From a request's last byte to the end of the final response's head, whatever comes before that. Also from the head
    /// of a request whose client waits for leave to send the body (`Expect: 100-continue`), until it is given.
    pub response_header: Duration,
}

/// The part of the node that all connections share.
pub struct Node {
    settings: ArcSwap<NodeSettings>,
    containers: Arc<Containers>,
    ports: Arc<Ports>,
    metrics: Arc<Metrics>,
    connections: ConnectionLimits,
    heads: heads::UnfinishedHeads,
    /// Connections beyond the caps that are told so at the same time; others are reset without a word.
    rejecting: Arc<Semaphore>,
    table: Arc<Connections>,
    tails: Arc<Tails>,
    upstreams: secure::Connector,
    workers: Workers,
}

/// What a node works with and shares with others.
#[derive(Clone)]
pub struct Parts {
    /// The containers that it reaches.
    pub containers: Arc<Containers>,
    /// What listens in them, for requests that wait.
    pub ports: Arc<Ports>,
    /// Where its connections are listed.
    pub connections: Arc<Connections>,
    /// What it counts.
    pub metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("connections", &self.connections()).finish_non_exhaustive()
    }
}

impl Node {
    /// A node of these parts; it serves once [`Node::serve`] is called with a listener.
    pub fn new(settings: NodeSettings, parts: Parts, workers: Workers) -> Arc<Self> {
        let Parts { containers, ports, connections, metrics } = parts;
        Arc::new(Self {
            settings: ArcSwap::from_pointee(settings),
            containers,
            ports,
            metrics,
            connections: ConnectionLimits::default(),
            heads: heads::UnfinishedHeads::default(),
            rejecting: Arc::new(Semaphore::new(MAX_REJECTING)),
            table: connections,
            tails: Arc::default(),
            upstreams: secure::Connector::new(),
            workers,
        })
    }

    /// Puts new settings in force for requests and connections that begin from now on.
    pub fn reload(&self, settings: NodeSettings) {
        self.settings.store(Arc::new(settings));
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.connections.open()
    }

    /// Bytes that servers sent before their containers ended and that are kept for slow clients.
    pub fn tail_bytes(&self) -> u64 {
        self.tails.used()
    }

    /// Bytes that are kept of request heads that are not whole yet.
    pub fn unfinished_head_bytes(&self) -> usize {
        self.heads.held()
    }
}
