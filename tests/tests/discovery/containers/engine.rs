//! A Docker Engine of one's own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portsplice_discovery::container::ContainersSettings;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// An image with nothing but busybox, made from the one of this machine.
pub(crate) const IMAGE: &str = "portsplice-test";

/// Runs until it is dropped, and takes its containers with it.
pub(crate) struct Engine {
    directory: TempDir,
    daemon: Option<Child>,
}

impl Engine {
    pub(crate) fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("portsplice-docker-").tempdir().unwrap();
        let mut engine = Self { directory, daemon: None };
        engine.resume();
        engine.import_image(IMAGE, &[]);
        engine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn settings(&self) -> ContainersSettings {
        ContainersSettings { docker: Some(self.path("docker.sock")), ..ContainersSettings::default() }
    }

    /// Starts the daemon, whose containers may have gone on without it.
    pub(crate) fn resume(&mut self) {
        let log = File::options().append(true).create(true).open(self.path("log")).unwrap();
        let option = |name: &str, path: &str| format!("--{name}={}", self.path(path).display());
        let daemon = Command::new("dockerd")
            .arg(format!("--host=unix://{}", self.path("docker.sock").display()))
            .args([option("data-root", "data"), option("exec-root", "exec"), option("pidfile", "docker.pid")])
            .args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--live-restore"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("cannot start dockerd: apt-get install docker.io, or PORTSPLICE_SKIP_PRIVILEGED=1 to skip");
        self.daemon = Some(daemon);
        let start = Instant::now();
        while !self.try_docker(&["version"]) {
            let log = || fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(start.elapsed() < Duration::from_secs(30), "the engine does not start (root?):\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the daemon; its containers go on.
    pub(crate) fn suspend(&mut self) {
        self.signal(Signal::TERM);
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(daemon) = &self.daemon {
            let _ = kill_process(Pid::from_child(daemon), signal);
        }
    }

    /// Makes an image of busybox, changed as `docker import` can.
    pub(crate) fn import_image(&self, name: &str, changes: &[&str]) {
        let archive = archive_of_busybox(self.directory.path());
        self.docker(&[&["import"], changes, &[archive.to_str().unwrap(), name]].concat());
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.arg("-H").arg(format!("unix://{}", self.path("docker.sock").display())).args(arguments);
        command
    }

    fn try_docker(&self, arguments: &[&str]) -> bool {
        self.command(arguments).output().is_ok_and(|output| output.status.success())
    }

    /// What the command says, which must succeed.
    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let output = self.command(arguments).output().unwrap();
        assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs a container with a web server on its 127.0.0.1:8080; gives its id.
    pub(crate) fn run(&self, name: &str, options: &[&str]) -> String {
        let network = if options.contains(&"--network") { [].as_slice() } else { &["--network", "none"] };
        let server = ["/bin/busybox", "httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/"];
        self.docker(&[&["run", "-d", "--name", name], network, options, &[IMAGE], &server].concat())
    }

    pub(crate) fn pid_of(&self, name: &str) -> i32 {
        self.docker(&["inspect", "--format", "{{.State.Pid}}", name]).parse().unwrap()
    }
}

/// What an image with nothing but busybox is imported from, made in `directory`.
pub(crate) fn archive_of_busybox(directory: &Path) -> PathBuf {
    let root = directory.join("image/bin");
    fs::create_dir_all(&root).unwrap();
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let busybox = busybox.expect("no busybox: apt-get install busybox-static, or PORTSPLICE_SKIP_PRIVILEGED=1");
    fs::copy(busybox, root.join("busybox")).unwrap();
    let archive = directory.join("image.tar");
    let status = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(directory.join("image")).arg(".").status();
    assert!(status.unwrap().success());
    archive
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.daemon.is_none() {
            self.resume();
        }
        self.signal(Signal::CONT);
        let containers = self.docker(&["ps", "-aq"]);
        let containers: Vec<&str> = containers.split_whitespace().collect();
        if !containers.is_empty() {
            self.try_docker(&[&["rm", "-f"], containers.as_slice()].concat());
        }
        self.suspend();
        // What the daemon leaves behind: bind mounts of a namespace (`--network none`) and, once it was stopped with
        // containers running, of its own data.
        let namespaces = fs::read_dir(self.path("exec/netns")).into_iter().flatten().flatten();
        for mount in namespaces.map(|entry| entry.path()).chain([self.path("data")]) {
            let _ = Command::new("umount").arg(mount).stderr(Stdio::null()).status();
        }
        // Shims that are still tidying up may put a file where one was just removed.
        for _ in 0..50 {
            if fs::remove_dir_all(self.directory.path()).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
