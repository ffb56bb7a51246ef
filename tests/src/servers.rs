//! Real servers inside a container's namespace, each offering [the contract](crate::origin::contract).

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::net::Netns;
use crate::process::Process;
use crate::{pattern, wait};

/// What a server is written in, which decides how it waits and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// nginx: edge-triggered epoll, sendfile.
    Nginx,
    /// Python asyncio: level-triggered epoll, one thread.
    Asyncio,
    /// Python `http.server`: blocking, a thread for each connection.
    Threads,
    /// Node's http module: libuv.
    Node,
    /// A blocking server in Rust with a thread for each connection, as Go's or Java's are.
    Blocking,
}

/// All of them.
pub const ALL: [Kind; 5] = [Kind::Nginx, Kind::Asyncio, Kind::Threads, Kind::Node, Kind::Blocking];

impl Kind {
    /// Whether it answers `/echo`, `/chunked`, `/events` and `/head`, and reports a hash from `/sink`.
    /// nginx serves and stores files only.
    #[must_use]
    pub fn is_scripted(self) -> bool {
        self != Self::Nginx
    }
}

/// A running server; killed when dropped.
pub struct Server {
    /// What it is.
    pub kind: Kind,
    /// The port it listens on.
    pub port: u16,
    /// Its process.
    pub process: Process,
    dir: TempDir,
}

/// Where the scripts of the servers are.
#[must_use]
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("origins")
}

impl Server {
    /// Starts a server on 127.0.0.1 of a namespace, on a port of its own.
    #[track_caller]
    #[must_use]
    pub fn start(kind: Kind, netns: &Netns) -> Self {
        Self::start_on(kind, netns, "127.0.0.1", netns.free_port())
    }

    /// Starts a server on an address and port of a namespace.
    #[track_caller]
    #[must_use]
    pub fn start_on(kind: Kind, netns: &Netns, host: &str, port: u16) -> Self {
        let dir = tempfile::Builder::new().prefix("portsplice-origin-").tempdir().expect("a directory");
        let mut command = match kind {
            Kind::Nginx => nginx(dir.path(), host, port),
            Kind::Asyncio => script("python3", "asyncio_server.py", host, port),
            Kind::Threads => script("python3", "threaded_server.py", host, port),
            Kind::Node => script("node", "node_server.js", host, port),
            Kind::Blocking => {
                let mut command = Command::new(blocking_binary());
                command
                    .arg(format!("{}:{port}", if host.contains(':') { format!("[{host}]") } else { host.to_owned() }));
                command
            }
        };
        let process = Process::spawn(&format!("{kind:?}"), &mut command, Some(netns));
        let mut server = Self { kind, port, process, dir };
        let address = format!("{host}:{port}");
        let address = address.parse().unwrap_or_else(|_| format!("[{host}]:{port}").parse().expect("an address"));
        wait::until_true("the server listens", || {
            assert!(server.process.running(), "{kind:?} ended:\n{}", server.process.log());
            netns.connect(address).is_ok()
        });
        server
    }

    /// Makes `/bytes/N` (of nginx: a file) exist.
    #[track_caller]
    pub fn offer(&self, len: u64) {
        if self.kind == Kind::Nginx {
            let file = std::fs::File::create(self.dir.path().join(format!("www/bytes/{len}"))).expect("a file");
            pattern::write_to(&mut std::io::BufWriter::new(file), len, pattern::PERIOD).expect("written");
        }
    }

    /// What was uploaded to nginx under a name.
    #[must_use]
    pub fn stored(&self, name: &str) -> PathBuf {
        self.dir.path().join("www/up").join(name)
    }
}

/// The tests' blocking server, which cargo builds beside the tests.
fn blocking_binary() -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let path = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").join("origin");
    assert!(path.exists(), "{} is missing: run `cargo build -p portsplice-tests`", path.display());
    path
}

fn script(interpreter: &str, name: &str, host: &str, port: u16) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(scripts().join(name)).arg(host).arg(port.to_string());
    command
}

fn nginx(dir: &Path, host: &str, port: u16) -> Command {
    for sub in ["www/bytes", "www/up", "tmp"] {
        std::fs::create_dir_all(dir.join(sub)).expect("a directory");
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let dir_text = dir.to_str().expect("UTF-8");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("    {what}_temp_path {dir_text}/tmp/{what};\n"))
        .collect();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {dir_text}/pid;\nerror_log stderr warn;\nevents {{ worker_connections 8192; }}\n\
         http {{\n{temporary}    access_log off;\n    sendfile on;\n    tcp_nopush on;\n    keepalive_requests 100000;\n    \
         client_max_body_size 0;\n    server {{\n        listen {host}:{port};\n        root {dir_text}/www;\n        \
         location /up/ {{ dav_methods PUT DELETE; client_body_buffer_size 256k; }}\n    }}\n}}\n"
    );
    std::fs::write(dir.join("nginx.conf"), config).expect("written");
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).arg("-e").arg("stderr").arg("-c").arg(dir.join("nginx.conf"));
    command
}
