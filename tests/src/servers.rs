//! Real servers inside a container's namespace, each offering [the contract](crate::origin::contract).

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::net::Netns;
use crate::process::Process;
use crate::{pattern, tools, wait};

/// What a server is written in, which decides how it waits and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// nginx: edge-triggered epoll, sendfile.
    Nginx,
    /// The same with ordinary writes.
    NginxWrites,
    /// nginx before another nginx: what it writes is what it reads.
    NginxProxy,
    /// Python asyncio: level-triggered epoll, one thread.
    Asyncio,
    /// Python `http.server`: blocking, a thread for each connection.
    Threads,
    /// Node's http module: libuv.
    Node,
    /// A blocking server in Rust with a thread for each connection, as Go's or Java's are.
    Blocking,
    /// Go's net/http: edge-triggered epoll under goroutines.
    Go,
    /// The JDK's HTTP server.
    Java,
}

/// One of each make.
pub const ALL: [Kind; 7] =
    [Kind::Nginx, Kind::Asyncio, Kind::Threads, Kind::Node, Kind::Blocking, Kind::Go, Kind::Java];

impl Kind {
    /// Whether it answers `/echo`, `/chunked` and `/events`, and reports a hash from `/sink`.
    /// nginx serves and stores files only.
    #[must_use]
    pub fn is_scripted(self) -> bool {
        !matches!(self, Self::Nginx | Self::NginxWrites | Self::NginxProxy)
    }

    /// Whether it can answer HTTP/1.1 without a length and without chunks. The JDK's server always announces one.
    #[must_use]
    pub fn ends_by_closing(self) -> bool {
        self.is_scripted() && self != Self::Java
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

/// A self-signed certificate and its key, as PEM files in `dir`.
#[must_use]
pub fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (dir.join("certificate.pem"), dir.join("key.pem"));
    crate::certificate::make("x", &certificate, &key);
    (certificate, key)
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
            Kind::Nginx => nginx(dir.path(), host, port, "sendfile on;"),
            Kind::NginxWrites => nginx(dir.path(), host, port, "sendfile off;"),
            Kind::NginxProxy => nginx(dir.path(), host, port, ""),
            Kind::Asyncio => script("python3", "asyncio_server.py", host, port),
            Kind::Threads => script("python3", "threaded_server.py", host, port),
            Kind::Node => script("node", "node_server.js", host, port),
            Kind::Blocking => {
                let mut command = Command::new(tools::built("origin"));
                command
                    .arg(format!("{}:{port}", if host.contains(':') { format!("[{host}]") } else { host.to_owned() }));
                command
            }
            Kind::Go => with_address(Command::new(tools::go_server()), host, port),
            Kind::Java => {
                let mut java = Command::new("java");
                java.args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]).arg(tools::java_server());
                java.arg("JavaServer");
                with_address(java, host, port)
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
        if !self.kind.is_scripted() {
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

fn script(interpreter: &str, name: &str, host: &str, port: u16) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(scripts().join(name));
    with_address(command, host, port)
}

fn with_address(mut command: Command, host: &str, port: u16) -> Command {
    command.arg(host).arg(port.to_string());
    command
}

/// nginx that serves files, or passes everything to another one in the same process if `files` says nothing on how.
fn nginx(dir: &Path, host: &str, port: u16, files: &str) -> Command {
    for sub in ["www/bytes", "www/up", "tmp"] {
        std::fs::create_dir_all(dir.join(sub)).expect("a directory");
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let dir_text = dir.to_str().expect("UTF-8");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("    {what}_temp_path {dir_text}/tmp/{what};\n"))
        .collect();
    let serving = |listen: &str, how: &str| {
        format!(
            "    server {{\n        listen {listen};\n        root {dir_text}/www;\n        {how}\n        \
             location /up/ {{ dav_methods PUT DELETE; client_body_buffer_size 256k; }}\n    }}\n"
        )
    };
    let here = format!("{host}:{port}");
    let servers = if files.is_empty() {
        // A client that ended its sending direction still wants its answer.
        let pass = format!(
            "    server {{\n        listen {here};\n        location / {{ proxy_pass http://unix:{dir_text}/behind:; \
             proxy_ignore_client_abort on; }}\n    }}\n"
        );
        pass + &serving(&format!("unix:{dir_text}/behind"), "sendfile on;")
    } else {
        serving(&here, files)
    };
    let config = format!(
        "daemon off;\nmaster_process off;\npid {dir_text}/pid;\nerror_log stderr warn;\nevents {{ worker_connections 8192; }}\n\
         http {{\n{temporary}    access_log off;\n    tcp_nopush on;\n    keepalive_requests 100000;\n    \
         client_max_body_size 0;\n{servers}}}\n"
    );
    std::fs::write(dir.join("nginx.conf"), config).expect("written");
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).arg("-e").arg("stderr").arg("-c").arg(dir.join("nginx.conf"));
    command
}
