//! The daemon under test: configured, started, watched, stopped.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;

use rustix::process::Signal;

use crate::client::{Caller, Conn, Version};
use crate::control::Control;
use crate::http::Head;
use crate::net::Netns;
use crate::process::Process;
use crate::sign::Scheme;
use crate::wait;

mod config;

pub use config::{ListenOn, NodeConfig, Site};

/// Writes a secret as an operator must: readable by its owner only.
#[track_caller]
pub fn write_secret(path: &Path, secret: &str) {
    use std::io::Write;
    let temporary = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(&temporary).expect("a secret's file");
    file.write_all(secret.as_bytes()).expect("written");
    fs::rename(temporary, path).expect("renamed");
}

/// The daemon's binary: `PORTSPLICE_BIN`, or the one that the workspace's `cargo build` leaves beside the tests.
#[track_caller]
#[must_use]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("PORTSPLICE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("this test's path");
    let path = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").join("portsplice");
    assert!(
        path.exists(),
        "{} is missing: run `cargo build -p portsplice` first, or set PORTSPLICE_BIN",
        path.display()
    );
    path
}

/// A running daemon. When dropped it is killed, and it must not have panicked.
pub struct Node {
    /// Its plain listeners, in the order configured.
    pub plain: Vec<SocketAddr>,
    /// Its TLS listeners, in the order configured.
    pub tls: Vec<SocketAddr>,
    /// Where metrics and health are.
    pub admin: Option<SocketAddr>,
    /// Its files.
    pub site: Site,
    process: Process,
    netns: Option<Arc<Netns>>,
}

impl Node {
    /// Waits until a started daemon is ready.
    #[track_caller]
    #[must_use]
    pub fn ready(site: Site, process: Process, netns: Option<Arc<Netns>>) -> Self {
        let mut node = Self { plain: Vec::new(), tls: Vec::new(), admin: None, site, process, netns };
        loop {
            let Some(line) = node.process.line() else {
                panic!("the daemon ended before it was ready:\n{}", node.process.log());
            };
            let address = |text: &str| text.trim().parse().unwrap_or_else(|e| panic!("no address in {line:?}: {e}"));
            if let Some(rest) = line.strip_prefix("listening tcp ") {
                node.plain.push(address(rest));
            } else if let Some(rest) = line.strip_prefix("listening tls ") {
                node.tls.push(address(rest));
            } else if let Some(rest) = line.strip_prefix("admin http://") {
                node.admin = Some(address(rest));
            } else if line == "ready" {
                return node;
            }
        }
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A connection to its control socket.
    #[track_caller]
    #[must_use]
    pub fn control(&self) -> Control {
        Control::connect(&self.site.control())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until it has exited.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        self.process.wait()
    }

    /// All it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// A TCP connection to one of its addresses.
    #[track_caller]
    #[must_use]
    pub fn tcp(&self, to: SocketAddr) -> TcpStream {
        self.try_tcp(to).unwrap_or_else(|e| panic!("cannot connect to the gateway at {to}: {e}"))
    }

    /// A TCP connection to one of its addresses, if it takes any.
    pub fn try_tcp(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        match &self.netns {
            Some(netns) => netns.connect(to),
            None => TcpStream::connect_timeout(&to, crate::HANG),
        }
    }

    /// Someone who signs with the cluster's secret.
    #[must_use]
    pub fn caller(&self, scheme: Scheme, uuid: &str, port: u16) -> Caller {
        Caller { root: self.site.root.clone(), key: None, scheme, uuid: uuid.to_owned(), port }
    }

    /// A plain connection with the `bound` credential.
    #[track_caller]
    #[must_use]
    pub fn connect(&self, uuid: &str, port: u16) -> Conn {
        Conn::plain(self.tcp(self.plain[0]), Some(self.caller(Scheme::Bound, uuid, port)))
    }

    /// A TLS connection.
    #[track_caller]
    #[must_use]
    pub fn connect_tls(&self, version: Version, scheme: Scheme, uuid: &str, port: u16) -> Conn {
        Conn::tls(self.tcp(self.tls[0]), version, Some(self.caller(scheme, uuid, port)))
    }

    /// Registers a container, or replaces its registration, in one step as a runtime must.
    #[track_caller]
    pub fn register(&self, name: &str, toml: &str) {
        let directory = self.site.containers();
        let temporary = directory.join(format!("{name}.new"));
        fs::write(&temporary, toml).expect("written");
        fs::rename(temporary, directory.join(format!("{name}.toml"))).expect("renamed");
    }

    /// Takes a container's registration away.
    #[track_caller]
    pub fn unregister(&self, name: &str) {
        fs::remove_file(self.site.containers().join(format!("{name}.toml"))).expect("it was registered");
    }

    /// Waits until a request to a container is answered with a status that `fits`.
    ///
    /// The daemon learns of a registration by a file system event: when it does is its own business, that it does is not.
    #[track_caller]
    pub fn until_status(&self, uuid: &str, port: u16, fits: impl Fn(u16) -> bool) -> u16 {
        let what = format!("another status for {uuid} port {port}");
        wait::until(&what, || {
            let mut conn = self.connect(uuid, port);
            conn.send("GET", "/", &["Connection: close"], b"");
            let status = conn.response().status();
            fits(status).then_some(status)
        })
    }

    /// A page of the admin listener: head and text.
    #[track_caller]
    #[must_use]
    pub fn admin_get(&self, target: &str) -> (Head, String) {
        let mut conn = Conn::plain(self.tcp(self.admin.expect("an admin address")), None);
        conn.send("GET", target, &["Connection: close"], b"");
        let response = conn.response();
        let text = response.text();
        (response.head, text)
    }

    /// The metrics page's samples: name with labels, value.
    #[track_caller]
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let (head, text) = self.admin_get("/metrics");
        assert_eq!(head.status(), 200);
        let samples = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
        let pair = |line: &str| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("a sample: {line:?}"));
            (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("a value: {line:?}")))
        };
        samples.map(pair).collect()
    }

    /// The sum of a metric's samples whose labels contain all of `labels`, such as `direction="up"`.
    #[track_caller]
    #[must_use]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let metrics = self.metrics();
        let fits = |key: &str| {
            let (base, rest) = key.split_once('{').unwrap_or((key, ""));
            base == name && labels.iter().all(|l| rest.contains(l))
        };
        metrics.iter().filter(|(key, _)| fits(key)).map(|(_, value)| value).sum()
    }

    /// The daemon's log lines that are JSON objects, each with tracing's `fields` laid beside the others.
    #[must_use]
    pub fn log_records(&self) -> Vec<serde_json::Map<String, serde_json::Value>> {
        let log = self.log();
        let objects = log.lines().filter_map(|line| match serde_json::from_str(line) {
            Ok(serde_json::Value::Object(mut object)) => {
                if let Some(serde_json::Value::Object(fields)) = object.remove("fields") {
                    object.extend(fields);
                }
                Some(object)
            }
            _ => None,
        });
        objects.collect()
    }

    /// Waits until it has no more files open than `baseline`.
    #[track_caller]
    pub fn until_files(&self, baseline: usize) {
        let end = std::time::Instant::now() + crate::HANG;
        while self.process.open_files() > baseline {
            assert!(
                std::time::Instant::now() < end,
                "more than {baseline} files open: {:#?}",
                self.process.open_file_names()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// How many sockets it has open. Unlike files in all, it opens none once for each of its threads.
    #[must_use]
    pub fn open_sockets(&self) -> usize {
        self.process.open_file_names().iter().filter(|name| name.starts_with("socket:")).count()
    }

    /// How many ends of pipes it has open; standard output and error are two.
    #[must_use]
    pub fn open_pipes(&self) -> usize {
        self.process.open_file_names().iter().filter(|name| name.starts_with("pipe:")).count()
    }

    /// One value of `/proc/PID/status` in KiB, for example `RssAnon`.
    #[track_caller]
    #[must_use]
    pub fn status_kib(&self, field: &str) -> u64 {
        self.process.status_kib(field)
    }

    /// How many files it has open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.process.open_files()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let log = self.process.log();
            assert!(!log.contains("panicked"), "the daemon panicked:\n{log}");
        }
    }
}
