//! Real servers.

use std::process::Command;

use portsplice_tests::node::Node;
use portsplice_tests::process::Process;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::servers::{Kind, Server};
use portsplice_tests::{privileged, wait};
use rustix::process::{Pid, Signal, kill_process};

use crate::{by_news, expect, rig};

fn looks(node: &Node) -> f64 {
    node.metric("portsplice_ports_dumps_total", &[])
}

/// `python3 -c` in the container.
#[track_caller]
fn python(rig: &Rig, script: &str) -> Process {
    Process::spawn("python", Command::new("python3").args(["-c", script]), Some(&rig.netns))
}

/// An nginx that becomes a daemon, with a master and workers, told to end when this is dropped.
struct Nginx {
    dir: tempfile::TempDir,
}

impl Nginx {
    #[track_caller]
    fn start(rig: &Rig, listen: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("portsplice-nginx-").tempdir().expect("a directory");
        let path = dir.path().to_str().expect("UTF-8");
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|what| format!("{what}_temp_path {path}/{what};\n"))
            .collect();
        let config = format!(
            "daemon on;\nworker_processes 3;\npid {path}/pid;\nerror_log {path}/error.log;\nevents {{}}\nhttp {{\n{temporary}\
             access_log off;\nserver {{ listen {listen}; return 200 nginx; }}\n}}\n"
        );
        std::fs::write(dir.path().join("nginx.conf"), config).expect("written");
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(path)
            .arg("-e")
            .arg(format!("{path}/error.log"))
            .arg("-c")
            .arg(format!("{path}/nginx.conf"));
        let mut nginx = Process::spawn("nginx", &mut command, Some(&rig.netns));
        assert!(nginx.wait().success(), "{}", nginx.log());
        Self { dir }
    }

    fn signal(&self, signal: Signal) {
        let pid = std::fs::read_to_string(self.dir.path().join("pid")).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        // Its files go with this: not before it has ended.
        let end = std::time::Instant::now() + portsplice_tests::HANG;
        while self.dir.path().join("pid").exists() && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Servers of different makes are known with their processes' names as they come, and forgotten as they go.
#[test]
fn of_different_makes_come_and_go() {
    if !privileged() {
        return;
    }
    let rig = rig();
    let before = looks(rig.node());
    let nginx = Server::start_on(Kind::Nginx, &rig.netns, "127.0.0.1", 8001);
    let python = Server::start_on(Kind::Threads, &rig.netns, "0.0.0.0", 8002);
    let mut node = Server::start_on(Kind::Node, &rig.netns, "::", 8003);
    // Node's main thread names itself after what it runs in newer versions.
    expect(rig.node(), &[("127.0.0.1", 8001, "nginx"), ("0.0.0.0", 8002, "python3"), ("::", 8003, "")]);
    node.process.kill();
    expect(rig.node(), &[("127.0.0.1", 8001, "nginx"), ("0.0.0.0", 8002, "python3")]);
    drop((nginx, python));
    expect(rig.node(), &[]);
    assert_eq!(looks(rig.node()), before, "all by the kernel's news");
}

/// A server that is killed and started again at once, again and again.
#[test]
fn that_restart() {
    if !privileged() {
        return;
    }
    let rig = rig();
    for _ in 0..3 {
        let mut server = Server::start_on(Kind::Threads, &rig.netns, "127.0.0.1", 8000);
        server.process.kill();
    }
    let mut server = Server::start_on(Kind::Asyncio, &rig.netns, "127.0.0.1", 8000);
    expect(rig.node(), &[("127.0.0.1", 8000, "python3")]);
    server.process.kill();
    expect(rig.node(), &[]);
}

/// A server that becomes a daemon: the process that called listen(2) ends, and the port listens on.
#[test]
fn that_become_daemons() {
    if !privileged() {
        return;
    }
    let rig = rig();
    let nginx = Nginx::start(&rig, "127.0.0.1:8000");
    expect(rig.node(), &[("127.0.0.1", 8000, "nginx")]);
    // A new configuration keeps the sockets that it needs still.
    nginx.signal(Signal::HUP);
    rig.use_port(8000);
    assert_eq!(rig.connect().get("/").text(), "nginx");
    expect(rig.node(), &[("127.0.0.1", 8000, "nginx")]);
    drop(nginx);
    expect(rig.node(), &[]);
}

/// One socket for each worker on the same port is one port.
#[test]
fn that_share_a_port() {
    if !privileged() {
        return;
    }
    let rig = rig();
    let nginx = Nginx::start(&rig, "127.0.0.1:8000 reuseport");
    expect(rig.node(), &[("127.0.0.1", 8000, "nginx")]);
    drop(nginx);
    expect(rig.node(), &[]);
}

/// A double fork, after which the grandchild listens; and one that inherits the listener from a parent that ends.
#[test]
fn that_fork_twice() {
    if !privileged() {
        return;
    }
    let rig = rig();
    let script = r#"
import os, socket, sys, time
s = socket.create_server(("127.0.0.1", 8000))
if os.fork() == 0:
    os.setsid()
    pid = os.fork()
    if pid == 0:
        t = socket.create_server(("127.0.0.1", 8001))
        print("up", os.getpid(), flush=True)
        time.sleep(600)
    os._exit(0)
os._exit(0)
"#;
    let first = python(&rig, script);
    let pid: i32 = first.line_with("up ").parse().expect("a pid");
    expect(rig.node(), &[("127.0.0.1", 8000, "python3"), ("127.0.0.1", 8001, "python3")]);
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("it runs");
    expect(rig.node(), &[]);
}

/// A server of another user, whose descriptors the daemon may not look at: the kernel tells its name.
#[test]
fn of_other_users() {
    if !privileged() {
        return;
    }
    let rig = rig();
    let script = r#"
import os, socket, time
os.setgid(65534)
os.setuid(65534)
s = socket.create_server(("127.0.0.1", 8000))
time.sleep(600)
"#;
    let mut server = python(&rig, script);
    expect(rig.node(), &[("127.0.0.1", 8000, "python3")]);
    server.kill();
    expect(rig.node(), &[]);
}

/// A port that opens and closes as fast as it can: in the end it is known as it is.
#[test]
fn that_flap() {
    if !privileged() {
        return;
    }
    let rig = rig();
    let script = r#"
import socket, sys
keep = socket.create_server(("127.0.0.1", 8000))
for n in range(20000):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", 8001))
    s.listen()
    s.close()
last = socket.create_server(("127.0.0.1", 8002))
print("done", flush=True)
sys.stdin.read()
import time
time.sleep(600)
"#;
    let mut server = python(&rig, script);
    server.line_with("done");
    expect(rig.node(), &[("127.0.0.1", 8000, "python3"), ("127.0.0.1", 8002, "python3")]);
    assert!(rig.node().metric("portsplice_ports_events_lost_total", &[]) > 0.0, "that was more than is told");
    server.kill();
    expect(rig.node(), &[]);
}

/// A container with more listeners than are told of, of which some close: the kernel's events go on counting as
/// complete.
#[test]
fn that_are_more_than_are_known() {
    if !privileged() {
        return;
    }
    let rig = Rig::with(Path::Splice, |config| {
        by_news(config);
        config.set("ports", "rescan", "\"1s\"");
    });
    let script = r#"
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (6000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
many = [socket.create_server(("127.0.0.1", 10000 + n)) for n in range(4200)]
print("open", flush=True)
time.sleep(3)
for server in many[:200]: server.close()
print("closed", flush=True)
time.sleep(600)
"#;
    let server = python(&rig, script);
    server.line_with("closed");
    let before = looks(rig.node());
    wait::until_true("looks at what is left", || looks(rig.node()) > before + 5.0);
    assert!(!rig.node().log().contains("missed a listening port"), "{}", rig.node().log());
}

/// What one container does is not told of another; containers that share a namespace share its ports.
#[test]
fn in_namespaces_that_containers_share() {
    if !privileged() {
        return;
    }
    let rig = rig();
    let node = rig.node();
    node.register("sidecar", &format!("netns = {:?}\n", rig.netns.path()));
    wait::until_true("the second container", || node.metric("portsplice_containers", &[]) == 2.0);
    let _server = Server::start_on(Kind::Threads, &rig.netns, "127.0.0.1", 8000);
    expect(node, &[("127.0.0.1", 8000, "python3")]);
    node.unregister(&rig.name);
    wait::until_true("the first container is gone", || node.metric("portsplice_containers", &[]) == 1.0);
    expect(node, &[("127.0.0.1", 8000, "python3")]);
    node.unregister("sidecar");
    expect(node, &[]);
}

/// A port that is found to listen may still not be reached, unless the container's owner says so.
#[test]
fn are_found_and_not_published() {
    if !privileged() {
        return;
    }
    let rig = rig();
    let node = rig.node();
    let text = format!("netns = {:?}\nports = [8000]\npublish.8002 = {{}}\n", rig.netns.path());
    node.register(&rig.name, &text);
    let _servers = [8000, 8001, 8002].map(|port| Server::start_on(Kind::Threads, &rig.netns, "127.0.0.1", port));
    let python = |port| ("127.0.0.1", port, "python3");
    expect(node, &[python(8000), python(8001), python(8002)]);
    for (port, status) in [(8000, 200), (8001, 403), (8002, 200)] {
        node.until_status(&rig.name, port, |s| (s == 403) == (status == 403));
    }
}
