//! Podman's engine in Docker's place: its socket speaks Docker's API.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portsplice_discovery::container::{ContainersSettings, ResolveError};
use portsplice_model::Denied;
use tempfile::TempDir;

use super::engine::archive_of_busybox;
use super::support::{Running, at_once, connects, eventually, skipping};

/// A service of its own, with storage of its own, until it is dropped.
struct Podman {
    directory: TempDir,
    service: Child,
}

impl Podman {
    fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("pspod-").tempdir_in("/tmp").unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let mut service = command(&directory, &["system", "service", "--time=0"]);
        service.arg(format!("unix://{}", directory.path().join("podman.sock").display()));
        let service = service.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        let service =
            service.expect("cannot start podman: apt-get install podman, or PORTSPLICE_SKIP_PRIVILEGED=1 to skip");
        let podman = Self { directory, service };
        let start = Instant::now();
        while !podman.socket().exists() {
            assert!(start.elapsed() < Duration::from_secs(60), "the service does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        podman.import("plain", &[]);
        podman
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("podman.sock")
    }

    fn settings(&self) -> ContainersSettings {
        ContainersSettings { docker: Some(self.socket()), ..ContainersSettings::default() }
    }

    /// What the command says, which must succeed.
    fn podman(&self, arguments: &[&str]) -> String {
        let output = command(&self.directory, arguments).output().unwrap();
        assert!(output.status.success(), "podman {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn import(&self, name: &str, changes: &[&str]) {
        let archive = archive_of_busybox(self.directory.path());
        self.podman(&[&["import"], changes, &[archive.to_str().unwrap(), name]].concat());
    }

    /// Runs a container with a web server on its 127.0.0.1:8080; gives its id.
    fn run(&self, name: &str, image: &str, options: &[&str]) -> String {
        // Podman's defaults are above what a machine's limits may allow.
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
        let server = ["/bin/busybox", "httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/"];
        let run = ["run", "-d", "--network", "none", "--name", name];
        self.podman(&[&run[..], &limits, options, &[image], &server].concat())
    }
}

/// `podman ARGUMENTS` with storage below `directory`. Without systemd: the control groups are made by Podman itself.
fn command(directory: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new("podman");
    for (option, path) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
        command.arg(option).arg(directory.path().join(path));
    }
    command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]);
    command.args(["--runtime", "runc"]).args(arguments);
    command
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = command(&self.directory, &["rm", "--force", "--all", "--time", "0"]).output();
        let _ = self.service.kill();
        let _ = self.service.wait();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let below = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        for mount in below.filter(|mount| mount.starts_with(self.directory.path().to_str().unwrap())) {
            let _ = Command::new("umount").arg("--lazy").arg(mount).output();
        }
    }
}

#[tokio::test]
async fn podmans_containers_come_and_go_like_dockers() {
    if skipping() {
        return;
    }
    let podman = Podman::start();
    let before = podman.run("before", "plain", &["--label", "portsplice.uuid=by-label"]);
    let running = Running::start(&podman.settings()).await;
    eventually("the engine to be followed", async || running.health().is_ok()).await;
    let container = running.get("by-label").await;
    for name in ["before", &before, &before[..12]] {
        assert_eq!(running.get(name).await.id, container.id, "{name}");
    }
    connects(&container, 8080).await.unwrap();

    podman.run("after", "plain", &["--label", "portsplice.ports=80"]);
    assert_eq!(running.get("after").await.policy.check(8080), Err(Denied::Port));
    podman.podman(&["rename", "before", "renamed"]);
    let renamed = running.until("by-label", |container| container.name == "renamed").await;
    assert!(renamed.netns.id() == container.netns.id() && !container.is_gone());

    // Paused it is there still, for a daemon that starts meanwhile too, though Podman does not list it by itself.
    podman.podman(&["pause", "renamed"]);
    connects(&*Running::start(&podman.settings()).await.get("renamed").await, 8080).await.unwrap();
    assert!(!running.get("by-label").await.is_gone());
    podman.podman(&["unpause", "renamed"]);

    podman.podman(&["restart", "--time", "0", "renamed"]);
    at_once("restart", container.gone()).await;
    connects(&*running.get("by-label").await, 8080).await.unwrap();
    podman.podman(&["rm", "--force", "--time", "0", "renamed"]);
    running.until_not("by-label", ResolveError::NotOnThisNode).await;
    eventually("one to be left", async || running.containers.list().len() == 1).await;
    assert_eq!(running.health(), Ok(()));
}

#[tokio::test]
async fn labels_of_podmans_images_claim_nothing_either() {
    if skipping() {
        return;
    }
    let podman = Podman::start();
    podman.import("sly", &["-c", "LABEL portsplice.uuid=victim", "-c", "LABEL portsplice.publish.8888=public"]);
    let running = Running::start(&podman.settings()).await;
    podman.run("innocent", "sly", &[]);
    let innocent = running.get("innocent").await;
    assert_eq!((innocent.uuid(), innocent.policy.publication.ports.len()), ("innocent", 0));
    assert_eq!(running.containers.resolve("victim").await.unwrap_err(), ResolveError::NotOnThisNode);
    podman.run("real", "plain", &["--label", "portsplice.uuid=victim"]);
    assert_eq!(running.get("victim").await.name, "real");
}
