//! One container, one daemon, one path: what most tests begin with.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpStream};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::HANG;
use crate::client::{Caller, Conn, Version};
use crate::net::{Netns, unique};
use crate::node::{Node, NodeConfig};
use crate::origin::{Origin, Peer};
use crate::sign::Scheme;

/// The way that bytes take between client and server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// No gateway: the client connects to the server itself. What holds here is what the gateway must preserve.
    Direct,
    /// Plain TCP, answers past the daemon: each one that goes on behind its head, as soon as that may be.
    Fast,
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

    /// `relay.path` of a daemon that is to use it.
    fn setting(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Copy => "copy",
            Self::Direct | Self::Splice | Self::Tls => "splice",
        }
    }

    /// How the access log and the metrics name what took it. An answer that was over before it could take the fast path has
    /// gone by splice, and a request always does.
    #[must_use]
    pub fn ways(self) -> &'static [&'static str] {
        match self {
            Self::Direct => &[],
            Self::Fast => &["fast", "splice"],
            Self::Splice => &["splice"],
            Self::Copy => &["copy"],
            Self::Tls => &["tls"],
        }
    }
}

/// A container in a namespace of its own, and a daemon that knows it.
pub struct Rig {
    /// The path its connections take.
    pub path: Path,
    /// The container's name.
    pub name: String,
    node: Option<Node>,
    config: RefCell<NodeConfig>,
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
        let mut config = NodeConfig::new();
        let node = path.has_gateway().then(|| {
            config.set("relay", "path", &format!("{:?}", path.setting()));
            if path == Path::Fast {
                config.set("bpf", "mode", "\"required\"");
            }
            config.container(&name, &format!("netns = {:?}\n", netns.path()));
            adjust(&mut config);
            config.start()
        });
        Self { path, name, node, config: RefCell::new(config), netns, port: Cell::new(0) }
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

    /// Kills the daemon as the kernel does when memory is short, and starts another one like it.
    #[track_caller]
    pub fn restart(&mut self) {
        self.node_mut().process().kill();
        self.node = Some(self.config.borrow_mut().start());
    }

    /// Changes the daemon's configuration and has it read again (SIGHUP).
    #[track_caller]
    pub fn reconfigure(&self, adjust: impl FnOnce(&mut NodeConfig)) {
        let mut config = self.config.borrow_mut();
        adjust(&mut config);
        self.node().site.configure(&config);
        self.node().signal(Signal::HUP);
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
        self.dialer(port).connect()
    }

    /// What connects to a port on the container's 127.0.0.1, from any thread.
    #[track_caller]
    #[must_use]
    pub fn dialer(&self, port: u16) -> Dialer<'_> {
        self.dialer_for(&self.name, port)
    }

    /// The same for another container that the daemon knows; directly, there is only this one.
    #[track_caller]
    #[must_use]
    pub fn dialer_for(&self, name: &str, port: u16) -> Dialer<'_> {
        let through = |address: SocketAddr| (address, Some(self.node().caller(Scheme::Bound, name, port)));
        let (to, caller) = match self.path {
            Path::Direct => (([127, 0, 0, 1], port).into(), None),
            Path::Fast | Path::Splice | Path::Copy => through(self.node().plain[0]),
            Path::Tls => through(self.node().tls[0]),
        };
        Dialer { path: self.path, to, caller, netns: &self.netns }
    }
}

/// Makes connections to one port of a rig's container; usable from any thread.
#[derive(Clone)]
pub struct Dialer<'a> {
    /// The path its connections take.
    pub path: Path,
    to: SocketAddr,
    caller: Option<Caller>,
    netns: &'a Netns,
}

impl Dialer<'_> {
    /// A connection.
    #[track_caller]
    #[must_use]
    pub fn connect(&self) -> Conn {
        self.connect_with(|_| Ok(()))
    }

    /// A connection whose socket is prepared before it connects: what decides about windows must be set then.
    #[track_caller]
    #[must_use]
    pub fn connect_with(&self, prepare: impl FnOnce(&Socket) -> io::Result<()> + Send) -> Conn {
        let dial = || {
            let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, None).expect("a socket");
            prepare(&socket).expect("a socket option");
            let connected = socket.connect_timeout(&self.to.into(), HANG);
            connected.unwrap_or_else(|e| panic!("cannot connect to {}: {e}", self.to));
            TcpStream::from(socket)
        };
        match self.path {
            Path::Direct => Conn::plain(self.netns.enter(dial), None),
            Path::Tls => Conn::tls(dial(), Version::Tls13, self.caller.clone()),
            Path::Fast | Path::Splice | Path::Copy => Conn::plain(dial(), self.caller.clone()),
        }
    }
}
