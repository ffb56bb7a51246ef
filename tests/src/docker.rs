//! A private Docker engine: its own socket, directories, network namespace and image. Nothing of the machine's own engine
//! is touched, and no registry is asked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::net::{Netns, unique};
use crate::process::{Process, run, try_run};
use crate::wait;

/// The image that containers are made from: busybox.
pub const IMAGE: &str = "portsplice-test:1";

/// A running engine; it and all its containers end when it is dropped.
///
/// It runs in a network namespace of its own, which is the "host" of its containers: bridges of tests that run side by
/// side do not meet, and `--network host` means that namespace. A daemon under test belongs into the same.
pub struct Engine {
    /// The engine's own network namespace.
    pub host: Arc<Netns>,
    dir: TempDir,
    process: Option<Process>,
}

impl Engine {
    /// Starts an engine with a bridge network and an image.
    #[track_caller]
    #[must_use]
    pub fn start() -> Self {
        let host = Arc::new(Netns::new());
        for args in ["link add psbr0 type bridge", "address add 172.31.77.1/24 dev psbr0", "link set psbr0 up"] {
            host.ip(&args.split(' ').collect::<Vec<_>>());
        }
        // Short, since a unix socket's path has 107 bytes at most.
        let dir = tempfile::Builder::new().prefix("psd").tempdir_in("/tmp").expect("a directory");
        let mut engine = Self { host, dir, process: None };
        engine.run_again();
        engine.make_image();
        engine
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// Starts the engine on its directories, again after [`Engine::kill`] or [`Engine::stop`].
    #[track_caller]
    pub fn run_again(&mut self) {
        let at = |name: &str| self.dir.path().join(name);
        // An engine that has ended leaves these behind; a containerd that is on its way out would be taken for a live one.
        self.end_containerd();
        for left in ["docker.pid", "docker.sock", "exec/containerd/containerd.pid", "exec/containerd/containerd.sock"] {
            let _ = std::fs::remove_file(at(left));
        }
        let mut command = Command::new("dockerd");
        command.arg("--host").arg(format!("unix://{}", self.socket().display()));
        command
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("docker.pid"));
        command.args(["--iptables=false", "--ip6tables=false", "--userland-proxy=false", "--ip-forward=false"]);
        // `live-restore`: containers outlive the engine, as on nodes where it is upgraded under running jobs.
        command.args(["--ip-masq=false", "--bridge=psbr0", "--live-restore"]);
        let mut process = Process::spawn("dockerd", &mut command, Some(&self.host));
        wait::until_true("the engine answers", || {
            assert!(process.running(), "dockerd ended:\n{}", process.log());
            self.try_docker(&["info"]).0
        });
        self.process = Some(process);
    }

    fn make_image(&self) {
        let root = self.dir.path().join("image");
        std::fs::create_dir_all(root.join("bin")).expect("a directory");
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("Debian's static busybox");
        for name in ["sh", "sleep", "nc", "httpd", "echo", "cat", "printf"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("a link");
        }
        let archive = self.dir.path().join("image.tar");
        run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&root).arg("."), None);
        self.docker(&["import", archive.to_str().expect("UTF-8"), IMAGE]);
    }

    /// Runs `docker ARGS` against this engine and gives what it printed.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> String {
        let (ok, out, err) = self.try_docker(args);
        assert!(ok, "docker {args:?}:\n{out}{err}");
        out.trim().to_owned()
    }

    fn try_docker(&self, args: &[&str]) -> (bool, String, String) {
        let socket = format!("unix://{}", self.socket().display());
        try_run(Command::new("docker").args(["--host", &socket]).args(args), Some(&self.host))
    }

    /// Starts a container with these options that runs a shell script; gives its name.
    #[track_caller]
    pub fn container(&self, options: &[&str], script: &str) -> String {
        let name = format!("c{}-{}", std::process::id(), unique());
        let mut args = vec!["run", "--detach", "--name", &name];
        args.extend_from_slice(options);
        args.extend_from_slice(&[IMAGE, "/bin/sh", "-c", script]);
        self.docker(&args);
        name
    }

    /// One field of `docker inspect`, as a Go template.
    #[track_caller]
    #[must_use]
    pub fn inspect(&self, container: &str, template: &str) -> String {
        self.docker(&["inspect", "--format", template, container])
    }

    /// Kills the engine at once; its containers run on.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Ends the engine in order; its containers run on.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal(Signal::TERM);
        process.wait();
    }

    /// Ends the containerd of this engine, which outlives an engine that was killed.
    fn end_containerd(&self) {
        let pid = std::fs::read_to_string(self.dir.path().join("exec/containerd/containerd.pid"));
        let Some(pid) = pid.ok().and_then(|pid| rustix::process::Pid::from_raw(pid.trim().parse().ok()?)) else {
            return;
        };
        let _ = rustix::process::kill_process(pid, Signal::TERM);
        // A zombie has ended, whoever reaps it.
        let state = format!("/proc/{}/stat", pid.as_raw_nonzero());
        let gone = || std::fs::read_to_string(&state).map_or(true, |stat| stat.contains(") Z "));
        for _ in 0..500 {
            if gone() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if !self.process.as_mut().is_some_and(Process::running) && !std::thread::panicking() {
            self.run_again();
        }
        let (_, all, _) = self.try_docker(&["ps", "--all", "--quiet"]);
        for container in all.split_whitespace() {
            self.try_docker(&["rm", "--force", container]);
        }
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM);
            for _ in 0..1000 {
                if !process.running() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
        self.end_containerd();
        unmount_below(self.dir.path());
    }
}

/// Unmounts what the engine left mounted below its directory, so that the directory can be removed.
fn unmount_below(dir: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|at| Path::new(at).starts_with(dir));
    let mut below: Vec<&str> = below.collect();
    // The deepest first.
    below.sort_by_key(|at| std::cmp::Reverse(at.len()));
    for at in below {
        let _ = Command::new("umount").args(["--lazy", at]).output();
    }
}
