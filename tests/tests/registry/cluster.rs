//! Nodes and an edge in a namespace of their own, and what the store holds.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use portsplice_tests::client::{Caller, Conn, Version};
use portsplice_tests::net::Netns;
use portsplice_tests::node::{Node, NodeConfig, binary, write_secret};
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::process::Process;
pub(crate) use portsplice_tests::records::{until, until_uuids};
use portsplice_tests::sign::{self, Scheme};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

/// The edge's listeners in the cluster's namespace.
pub(crate) const PLAIN: &str = "127.0.0.1:7460";
pub(crate) const TLS: &str = "127.0.0.1:7461";

/// A container in a namespace, with a server.
pub(crate) struct Container {
    pub(crate) netns: Netns,
    pub(crate) origin: Origin,
}

impl Container {
    pub(crate) fn new() -> Self {
        let netns = Netns::new();
        let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
        Self { netns, origin }
    }

    /// Its registration.
    pub(crate) fn toml(&self) -> String {
        format!("netns = {:?}\n", self.netns.path())
    }

    pub(crate) fn port(&self) -> u16 {
        self.origin.port()
    }
}

/// Asks a container through a node.
#[track_caller]
pub(crate) fn visit(node: &Node, uuid: &str, container: &Container) {
    let mut conn = node.connect(uuid, container.port());
    assert_eq!(conn.get("/bytes/1000").body.len(), 1000);
}

/// A namespace with one secret.
pub(crate) struct Cluster {
    pub(crate) netns: Arc<Netns>,
    pub(crate) root: String,
    dir: TempDir,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("portsplice-test-").tempdir().expect("a directory");
        let this = Self { netns: Arc::new(Netns::new()), root: sign::nonce(), dir };
        write_secret(&this.path("root"), &this.root);
        this
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The edge's store.
    pub(crate) fn store(&self) -> PathBuf {
        self.path("registry.db")
    }

    /// Starts the edge with a plain and a TLS listener, without any capability.
    #[track_caller]
    pub(crate) fn edge(&self) -> Edge {
        self.edge_with(&[])
    }

    /// The same, started by a command that sets something up for it.
    #[track_caller]
    pub(crate) fn edge_with(&self, by: &[&str]) -> Edge {
        let toml = format!(
            "admin = \"127.0.0.1:7462\"\n[log]\nformat = \"json\"\n[secrets]\nroot-file = {:?}\n[auth]\nused-file = {:?}\n[store]\npath = {:?}\n[records]\nttl-min = \"2s\"\n[[listen]]\naddress = {PLAIN:?}\ntls = false\n[[listen]]\naddress = {TLS:?}\n",
            self.path("root"),
            self.path("used"),
            self.store()
        );
        fs::write(self.path("edge.toml"), toml).expect("written");
        // It needs no privilege at all.
        let without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
        let by: Vec<&str> = by.iter().copied().chain(without).collect();
        let mut command = Command::new(by[0]);
        command
            .args(&by[1..])
            .arg(binary())
            .arg("edge")
            .arg("--config")
            .arg(self.path("edge.toml"))
            .env("RUST_BACKTRACE", "1");
        let process = Process::spawn("portsplice edge", &mut command, Some(&self.netns));
        process.line_with("ready");
        Edge { process }
    }

    /// The configuration of a node that reports to the edge at `url`.
    pub(crate) fn node(&self, name: &str, url: &str) -> NodeConfig {
        let mut config = NodeConfig::new();
        config.root(&self.root).inside(&self.netns).set("node", "name", &format!("{name:?}"));
        config.set("registry", "store", "\"edge\"").set("registry", "url", &format!("{url:?}"));
        config.set("registry", "ttl", "\"2s\"").set("registry", "debounce", "\"10ms\"");
        config
    }

    /// A connection to the edge by someone who signs as `identity`.
    #[track_caller]
    pub(crate) fn connect(&self, identity: &str) -> Conn {
        Conn::plain(self.tcp(PLAIN), Some(self.caller(identity)))
    }

    /// The same from an address of the loopback interface.
    #[track_caller]
    pub(crate) fn connect_from(&self, address: [u8; 4], identity: &str) -> Conn {
        let stream: std::net::TcpStream = self.netns.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.bind(&SocketAddr::from((address, 0)).into()).expect("all of 127/8 is ours");
            socket.connect(&PLAIN.parse::<SocketAddr>().expect("an address").into()).expect("the edge listens");
            socket.into()
        });
        Conn::plain(stream, Some(self.caller(identity)))
    }

    /// The same over TLS.
    #[track_caller]
    pub(crate) fn connect_tls(&self, identity: &str) -> Conn {
        Conn::tls(self.tcp(TLS), Version::Tls13, Some(self.caller(identity)))
    }

    #[track_caller]
    pub(crate) fn tcp(&self, address: &str) -> std::net::TcpStream {
        self.netns.connect(address.parse::<SocketAddr>().expect("an address")).expect("the edge listens")
    }

    pub(crate) fn caller(&self, identity: &str) -> Caller {
        let (root, uuid) = (self.root.clone(), identity.to_owned());
        Caller { root, key: None, scheme: Scheme::Bound, uuid, port: 0 }
    }
}

/// A running edge; it must not have panicked when it is dropped.
pub(crate) struct Edge {
    pub(crate) process: Process,
}

impl Drop for Edge {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let log = self.process.log();
            assert!(!log.contains("panicked"), "the edge panicked:\n{log}");
        }
    }
}
