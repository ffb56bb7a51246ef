//! A node with its files, started as a process of its own, and something for it to reach.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use portsplice_tests::node::binary;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The files of a node.
pub(crate) struct Site {
    dir: TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Self { dir };
        fs::create_dir(site.path("containers")).unwrap();
        let me = format!("pid = {}\n", std::process::id());
        fs::write(site.path("containers/me.toml"), me).unwrap();
        site.secret("first");
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn secret(&self, secret: &str) {
        fs::write(self.path("root"), secret).unwrap();
        fs::set_permissions(self.path("root"), Permissions::from_mode(0o600)).unwrap();
    }

    /// Writes the configuration; `top` goes before the sections, `end` after them.
    pub(crate) fn configure(&self, top: &str, end: &str) {
        let text = format!(
            "{top}\n[secrets]\nroot-file = {:?}\n[containers]\ndocker = \"\"\ndirectory = {:?}\nallow-host-network = true\n[bpf]\nmode = \"off\"\n[control]\nsocket = {:?}\nstate = {:?}\n[auth]\nused-file = {:?}\n{end}",
            self.path("root"),
            self.path("containers"),
            self.path("node.sock"),
            self.path("registered.json"),
            self.path("used"),
        );
        fs::write(self.path("node.toml"), text).unwrap();
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.env_clear().arg("node").arg("--config").arg(self.path("node.toml"));
        command
    }

    pub(crate) fn start(&self) -> Daemon {
        Daemon::spawn(&mut self.command())
    }

    /// The head of a signed request for a port of this process.
    pub(crate) fn request(&self, port: u16, target: &str) -> String {
        let output = Command::new(binary())
            .args(["sign", "--uuid", "me", "--port", &port.to_string(), "--target", target, "--root-secret-file"])
            .arg(self.path("root"))
            .output()
            .unwrap();
        assert!(output.status.success());
        let headers = String::from_utf8(output.stdout).unwrap().replace('\n', "\r\n");
        format!("GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")
    }
}

/// A child that does not outlive a test that fails.
pub(crate) struct Guarded(pub(crate) Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct Daemon {
    pub(crate) child: Guarded,
    out: BufReader<ChildStdout>,
    errors: Option<thread::JoinHandle<String>>,
    /// What it reported before it was ready.
    report: Vec<String>,
}

impl Daemon {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let errors = thread::spawn(move || {
            let mut text = String::new();
            stderr.read_to_string(&mut text).unwrap();
            text
        });
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut daemon = Self { child: Guarded(child), out, errors: Some(errors), report: Vec::new() };
        loop {
            let line = daemon.line();
            if line == "ready" {
                return daemon;
            }
            assert!(!line.is_empty(), "it ended: {}", daemon.wait().1);
            daemon.report.push(line);
        }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The addresses that were reported after `what`.
    pub(crate) fn addresses(&self, what: &str) -> Vec<SocketAddr> {
        let rest = self.report.iter().filter_map(|line| line.strip_prefix(what));
        rest.map(|address| address.trim().parse().unwrap()).collect()
    }

    pub(crate) fn address(&self, what: &str) -> SocketAddr {
        let addresses = self.addresses(what);
        assert_eq!(addresses.len(), 1, "{:?}", self.report);
        addresses[0]
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child.0), signal).unwrap();
    }

    /// Its end and its log.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let status = self.child.0.wait().unwrap();
        (status, self.errors.take().unwrap().join().unwrap())
    }

    pub(crate) fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (status, log) = self.wait();
        assert!(status.success(), "{status}: {log}");
        log
    }

    /// A value of `/metrics`; a counter that is not there has counted nothing yet.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let (_, body) = get(self.address("admin http://"), "/metrics");
        let line = body.lines().find(|line| line.starts_with(name));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

/// The status and body of an answer that ends with the connection.
pub(crate) fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (status(head), body.to_owned())
}

pub(crate) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status in {head:?}"))
}

/// Sends a request and reads the head and a body of `Content-Length`, leaving the connection open.
pub(crate) fn ask(stream: &mut TcpStream, request: &str) -> (u16, String) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(reader.read_line(&mut head).unwrap(), 0, "it ended after {head:?}");
    }
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    (status(&head), String::from_utf8(body).unwrap())
}

/// A server inside "the container": answers each request with `ok`, after a while when the target is `/slow`.
pub(crate) fn origin() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if reader.read_line(&mut head).unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    if head.starts_with("GET /slow ") {
                        thread::sleep(Duration::from_millis(1500));
                    } else if head.starts_with("GET /never ") {
                        thread::sleep(Duration::from_secs(600));
                    }
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "not seen: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
