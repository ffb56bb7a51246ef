//! A real etcd of one member, on loopback, that can be killed, stopped and started again.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::Process;
use crate::wait;

/// An etcd with a folder of its own. Killed when dropped.
pub struct Etcd {
    client: SocketAddr,
    peer: SocketAddr,
    options: Vec<String>,
    folder: TempDir,
    process: Option<Process>,
}

impl Etcd {
    /// Starts one, and waits until it serves.
    #[track_caller]
    #[must_use]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with further options.
    #[track_caller]
    #[must_use]
    pub fn with(options: &[&str]) -> Self {
        Self::begin(free_address(), &std::env::temp_dir(), options)
    }

    /// Starts one that stores below `parent`.
    #[track_caller]
    #[must_use]
    pub fn in_folder(parent: &Path, options: &[&str]) -> Self {
        Self::begin(free_address(), parent, options)
    }

    /// Starts one where another was before.
    #[track_caller]
    #[must_use]
    pub fn at(client: SocketAddr) -> Self {
        Self::begin(client, &std::env::temp_dir(), &[])
    }

    #[track_caller]
    fn begin(client: SocketAddr, parent: &Path, options: &[&str]) -> Self {
        let folder = tempfile::tempdir_in(parent).expect("a folder for etcd");
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let mut this = Self { client, peer: free_address(), options, folder, process: None };
        this.restart();
        this
    }

    fn scheme(&self) -> &'static str {
        if self.options.iter().any(|option| option == "--cert-file") { "https" } else { "http" }
    }

    /// Where clients reach it, as `http://HOST:PORT`, or `https` if it has a certificate.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.client)
    }

    /// The same without the scheme.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.client
    }

    /// Starts it again where it was, with what it had stored, and waits until it serves.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        let (client, peer) = (self.url(), format!("http://{}", self.peer));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.folder.path().join("data"));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        // A member alone need not wait long for an election, and the least lease is one and a half such times.
        command.args([
            "--heartbeat-interval",
            "20",
            "--election-timeout",
            "200",
            "--logger",
            "zap",
            "--log-level",
            "warn",
        ]);
        command.args(&self.options);
        self.process = Some(Process::spawn("etcd", &mut command, None));
        wait::until_true("etcd serves", || self.serves());
    }

    /// Ends it as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::KILL);
            process.wait();
        }
    }

    /// Keeps it from doing anything; its connections stay.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("etcd runs").signal(signal);
    }

    /// What `etcdctl` says; panics when it fails.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]).args(args);
        let output = command.output().expect("etcdctl, of Debian's etcd-client");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "etcdctl {args:?}: {said}{}", String::from_utf8_lossy(&output.stderr));
        said
    }

    /// Whether it answers; one with a certificate asks for ours, so that its port has to do.
    fn serves(&self) -> bool {
        if self.scheme() == "https" {
            return TcpStream::connect_timeout(&self.client, Duration::from_secs(1)).is_ok();
        }
        self.http("/health").is_ok_and(|answer| answer.contains(r#""health":"true""#))
    }

    /// What it counts of itself, by name; the sums of those that come with labels are left out.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let text = self.http("/metrics").unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?))).collect()
    }

    fn http(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.client, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: etcd\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("etcd runs").pid()
    }
}

/// An address that was free a moment ago. etcd has to be told which; it cannot be asked for one.
#[track_caller]
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("its address")
}
