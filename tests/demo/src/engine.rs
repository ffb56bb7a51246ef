//! A Docker engine: the one that runs, or one of our own for as long as the demo lasts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portsplice_tooling::child::{Guarded, program};
use portsplice_tooling::{command, interrupt};

/// Where an engine listens unless told otherwise.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
const START: Duration = Duration::from_secs(30);

/// An engine that answers.
pub(crate) struct Engine {
    /// Its socket.
    pub(crate) socket: PathBuf,
    /// The process and its folder, when it is ours.
    own: Option<(Guarded, PathBuf)>,
}

impl Engine {
    /// The engine on the default socket, or else a new one with all its files in `folder`. `keep` lets a new one
    /// outlive this process, see [`Engine::detach`].
    pub(crate) fn find_or_start(folder: &Path, keep: bool) -> anyhow::Result<Self> {
        ensure!(command::find("docker").is_some(), "`docker` is missing: cargo xtask setup installs it");
        let running = Self { socket: PathBuf::from(DEFAULT_SOCKET), own: None };
        if running.run(&["version"]).is_ok() {
            return Ok(running);
        }
        Self::start(folder, keep)
    }

    /// Starts an engine that shares nothing with another one: no bridge, no firewall rules, no system service.
    fn start(folder: &Path, keep: bool) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let socket = folder.join("docker.sock");
        let mut command = Command::new(program("dockerd"));
        command.arg("--host").arg(format!("unix://{}", socket.display()));
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "docker.pid")] {
            command.arg(flag).arg(folder.join(name));
        }
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        command.args(["--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"]);
        let log = folder.join("dockerd.log");
        let dockerd = if keep {
            Guarded::spawn_to_keep("dockerd", &mut command, &log)
        } else {
            Guarded::spawn("dockerd", &mut command, &log, None)
        };
        let mut engine = Self { socket, own: Some((dockerd?, folder.to_owned())) };
        engine.wait()?;
        Ok(engine)
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        while self.run(&["version"]).is_err() {
            interrupt::check()?;
            if let Some((dockerd, _)) = &mut self.own {
                dockerd.ensure_running()?;
                ensure!(Instant::now() < deadline, "dockerd does not answer\n{}", dockerd.last_words());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Whether it was started by this process.
    pub(crate) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Runs the Docker client with `args`; its output, without the line end.
    pub(crate) fn run(&self, args: &[&str]) -> anyhow::Result<String> {
        self.run_with(args, Stdio::null())
    }

    /// The same with something on standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: Stdio) -> anyhow::Result<String> {
        let mut command = Command::new(program("docker"));
        command.arg("--host").arg(format!("unix://{}", self.socket.display())).args(args).stdin(input);
        let Output { status, stdout, stderr } = command.output().context("run docker")?;
        let name = args.first().unwrap_or(&"");
        ensure!(status.success(), "docker {name}: {}", String::from_utf8_lossy(&stderr).trim());
        Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
    }

    /// Leaves it running. The shell commands that stop it, if it is ours.
    pub(crate) fn detach(&mut self) -> Option<String> {
        let (dockerd, folder) = self.own.take()?;
        let (pid, folder) = (dockerd.id(), folder.display().to_string());
        dockerd.detach();
        Some(format!(
            "kill {pid} && while kill -0 {pid} 2>/dev/null; do sleep 0.1; done\numount {folder}/exec/netns/* {folder}/data 2>/dev/null\n"
        ))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let Some((dockerd, folder)) = self.own.take() else { return };
        drop(dockerd);
        // The engine leaves its namespaces' bind mounts behind, and its data folder's where the root is not a whole file
        // system; a folder with mounts in it cannot be removed.
        let netns = fs::read_dir(folder.join("exec/netns")).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in netns.chain([folder.join("data")]) {
            let _ = Command::new("umount").arg(path).stderr(Stdio::null()).status();
        }
    }
}
