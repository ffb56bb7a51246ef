//! One container, one daemon, one path: what most tests begin with.

use std::cell::Cell;

use crate::client::{Conn, Version};
use crate::net::{Netns, unique};
use crate::node::{Node, NodeConfig};
use crate::origin::{Origin, Peer};
use crate::sign::Scheme;

/// The way that bytes take between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// No gateway: the client connects to the server itself. What holds here is what the gateway must preserve.
    Direct,
    /// Plain TCP, moved by splice(2).
    Splice,
    /// Plain TCP, copied.
    Copy,
    /// TLS to the gateway.
    Tls,
}

impl Path {
    /// Whether there is a gateway between the two.
    #[must_use]
    pub fn has_gateway(self) -> bool {
        self != Self::Direct
    }
}

/// A container in a namespace of its own, and a daemon that knows it.
pub struct Rig {
    /// The path its connections take.
    pub path: Path,
    /// The container's name.
    pub name: String,
    node: Option<Node>,
    /// The container's namespace.
    pub netns: Netns,
    port: Cell<u16>,
}

impl Rig {
    /// A rig with the daemon's defaults.
    #[track_caller]
    #[must_use]
    pub fn new(path: Path) -> Self {
        Self::with(path, |_| ())
    }

    /// A rig whose daemon's configuration is adjusted first.
    #[track_caller]
    #[must_use]
    pub fn with(path: Path, adjust: impl FnOnce(&mut NodeConfig)) -> Self {
        let netns = Netns::new();
        let name = format!("zzzzz-dz642-{:015}", unique());
        let node = path.has_gateway().then(|| {
            let mut config = NodeConfig::new();
            config.set("relay", "path", if path == Path::Copy { "\"copy\"" } else { "\"splice\"" });
            config.container(&name, &format!("netns = {:?}\n", netns.path()));
            adjust(&mut config);
            config.start()
        });
        Self { path, name, node, netns, port: Cell::new(0) }
    }

    /// The daemon; there is none on the direct path.
    #[track_caller]
    #[must_use]
    pub fn node(&self) -> &Node {
        self.node.as_ref().expect("the direct path has no daemon")
    }

    /// The daemon, to be waited for or killed.
    #[track_caller]
    pub fn node_mut(&mut self) -> &mut Node {
        self.node.as_mut().expect("the direct path has no daemon")
    }

    /// Serves the container's 127.0.0.1 with a handler for each connection; later connections go to this port.
    #[track_caller]
    #[must_use]
    pub fn serve(&self, handler: impl Fn(&mut Peer) -> std::io::Result<()> + Send + Sync + 'static) -> Origin {
        let origin = Origin::start(&self.netns, "127.0.0.1:0", handler);
        self.port.set(origin.port());
        origin
    }

    /// Makes later connections go to this port.
    pub fn use_port(&self, port: u16) {
        self.port.set(port);
    }

    /// A connection to the port last served.
    #[track_caller]
    #[must_use]
    pub fn connect(&self) -> Conn {
        self.connect_to(self.port.get())
    }

    /// A connection to a port on the container's 127.0.0.1.
    #[track_caller]
    #[must_use]
    pub fn connect_to(&self, port: u16) -> Conn {
        match self.path {
            Path::Direct => {
                Conn::plain(self.netns.connect(([127, 0, 0, 1], port).into()).expect("the server listens"), None)
            }
            Path::Splice | Path::Copy => self.node().connect(&self.name, port),
            Path::Tls => self.node().connect_tls(Version::Tls13, Scheme::Bound, &self.name, port),
        }
    }
}
