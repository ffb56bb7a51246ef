//! Containers that are registered by the path of a namespace, when the path leads to none any more: hidden by a mount.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use portsplice_tests::client::{Conn, End, Proof};
use portsplice_tests::net::{Netns, unique};
use portsplice_tests::node::{Node, NodeConfig};
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::process::run;
use portsplice_tests::{privileged, wait};
use serde_json::json;

/// A directory as `/run/netns` is, with mounts of namespaces in it. That one is left alone: others work with it.
struct Names(PathBuf);

impl Names {
    fn new() -> Self {
        let at = std::env::temp_dir().join(format!("portsplice-names-{}-{}", std::process::id(), unique()));
        std::fs::create_dir(&at).expect("a directory");
        let this = Self(at);
        this.bind_on_itself();
        this
    }

    /// As `ip netns add` does when it runs the first time: what is mounted below is hidden by it.
    fn bind_on_itself(&self) {
        run(Command::new("mount").arg("--bind").args([&self.0, &self.0]), None);
        run(Command::new("mount").arg("--make-private").arg(&self.0), None);
    }

    fn uncover(&self) {
        run(Command::new("umount").arg(&self.0), None);
    }

    fn mount(&self, netns: &Netns) -> PathBuf {
        let name = self.0.join("web");
        std::fs::File::create(&name).expect("a file");
        run(Command::new("mount").arg("--bind").args([&netns.path(), &name]), None);
        name
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for _ in 0..4 {
            for at in [&self.0.join("web"), &self.0] {
                let _ = Command::new("umount").arg(at).stderr(std::process::Stdio::null()).status();
            }
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn is_namespace(path: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).expect("there").dev();
    device(path) == device(Path::new("/proc/self/ns/net"))
}

/// A tunnel that gives back what it is given.
fn tunnel(node: &Node, name: &str, port: u16) -> Conn {
    let mut tunnel = node.connect(name, port);
    tunnel.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
    assert_eq!(tunnel.final_head(Proof::Owed).1.status(), 101);
    tunnel
}

fn status(node: &Node, name: &str, port: u16) -> u16 {
    let mut conn = node.connect(name, port);
    conn.send("GET", "/bytes/10", &[], b"");
    conn.response().status()
}

/// Nothing is reset while the namespace is hidden, and everything answers, then and when the mount is gone. Another
/// namespace at the path ends all of it at once.
#[test]
fn a_mount_over_the_path() {
    if !privileged() {
        return;
    }
    let (netns, other, names) = (Netns::new(), Netns::new(), Names::new());
    let path = names.mount(&netns);
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    // What is left of the namespace is the mount that is hidden: its name elsewhere is gone, and no process is in it.
    drop(netns);
    let node = NodeConfig::new().container("file", &format!("netns = {path:?}\n")).start();
    let mut control = node.control();
    control.call("container.register", json!({ "name": "call", "netns": path }));
    let mut tunnels = ["file", "call"].map(|name| tunnel(&node, name, origin.port()));

    names.bind_on_itself();
    assert!(!is_namespace(&path));
    wait::until_true("both are told of", || {
        node.log().matches("no longer leads to its network namespace").count() == 2
    });
    std::thread::sleep(Duration::from_secs(3));
    for name in ["file", "call"] {
        assert_eq!(status(&node, name, origin.port()), 200, "{name}, hidden");
    }
    // The rules can be changed meanwhile, and connections stay.
    node.register("file", &format!("netns = {path:?}\nports = [1]\n"));
    wait::until_true("the new rules hold", || status(&node, "file", origin.port()) == 403);
    control.call("container.register", json!({ "name": "call", "netns": path, "ports": [1] }));
    assert_eq!(status(&node, "call", origin.port()), 403);
    assert!(tunnels.iter().all(Conn::is_quiet), "nothing is cut");

    names.uncover();
    assert!(is_namespace(&path));
    wait::until_true("both are back", || node.log().matches("is back at its path").count() == 2);
    node.register("file", &format!("netns = {path:?}\n"));
    wait::until_true("the old rules hold", || status(&node, "file", origin.port()) == 200);
    assert!(tunnels.iter().all(Conn::is_quiet), "nothing is cut");
    assert_eq!(node.log().matches("no longer leads to its network namespace").count(), 2, "once each");

    names.bind_on_itself();
    let _ = names.mount(&other);
    assert!(is_namespace(&path));
    for tunnel in &mut tunnels {
        assert_eq!(tunnel.end(), End::Cut);
    }
    assert_eq!(status(&node, "call", origin.port()), 421);
    wait::until_true("nothing listens in the other one", || status(&node, "file", origin.port()) == 502);
}
