//! What becomes of the daemon's knowledge.

use std::path::PathBuf;
use std::process::Command;

use portsplice_tests::net::unique;
use portsplice_tests::process::Process;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::servers::{Kind, Server};
use portsplice_tests::{privileged, wait};

use crate::{by_news, expect, rig};

/// What listened before the daemon knew the container is found, with its process; and its end is seen.
#[test]
fn finds_what_listened_before() {
    if !privileged() {
        return;
    }
    let rig = rig();
    let node = rig.node();
    let netns = portsplice_tests::net::Netns::new();
    let mut first = Server::start_on(Kind::Nginx, &netns, "127.0.0.1", 8000);
    let second = Server::start_on(Kind::Threads, &netns, "::1", 8001);
    // As most containers' servers do, this one runs as a user of its own, whose descriptors root without further
    // capabilities may not list.
    let script = "import socket, signal\ns = socket.create_server(('127.0.0.1', 8002))\nprint('ready', flush=True)\nsignal.pause()";
    let mut other = Command::new("setpriv");
    other.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c", script]);
    let third = Process::spawn("python", &mut other, Some(&netns));
    third.line_with("ready");
    node.register("early", &format!("netns = {:?}\n", netns.path()));
    expect(node, &[("127.0.0.1", 8000, "nginx"), ("::1", 8001, "python3"), ("127.0.0.1", 8002, "python3")]);
    first.process.kill();
    expect(node, &[("::1", 8001, "python3"), ("127.0.0.1", 8002, "python3")]);
    drop((second, third));
    expect(node, &[]);
}

/// A daemon that is killed leaves nothing behind that is in the next one's way, and the next one knows it all again.
#[test]
fn is_killed_and_started_again() {
    if !privileged() {
        return;
    }
    let mut rig = rig();
    let mut server = Server::start_on(Kind::Threads, &rig.netns, "127.0.0.1", 8000);
    expect(rig.node(), &[("127.0.0.1", 8000, "python3")]);
    for _ in 0..2 {
        rig.restart();
        expect(rig.node(), &[("127.0.0.1", 8000, "python3")]);
    }
    let later = Server::start_on(Kind::Threads, &rig.netns, "127.0.0.1", 8001);
    expect(rig.node(), &[("127.0.0.1", 8000, "python3"), ("127.0.0.1", 8001, "python3")]);
    let events = rig.node().metric("portsplice_ports_events_total", &[]);
    server.process.kill();
    expect(rig.node(), &[("127.0.0.1", 8001, "python3")]);
    // The socket still asks for the callback at its end, as the first daemon's program made it.
    assert!(rig.node().metric("portsplice_ports_events_total", &[]) > events);
    drop(later);
    expect(rig.node(), &[]);
}

/// Without the kernel's programs ports are known a little later.
#[test]
fn looks_for_itself_without_the_kernels_help() {
    if !privileged() {
        return;
    }
    let rig = Rig::with(Path::Splice, |config| {
        by_news(config);
        config.set("bpf", "mode", "\"off\"");
    });
    let server = Server::start_on(Kind::Threads, &rig.netns, "127.0.0.1", 8000);
    expect(rig.node(), &[("127.0.0.1", 8000, "python3")]);
    drop(server);
    expect(rig.node(), &[]);
    assert_eq!(rig.node().metric("portsplice_ports_events_total", &[]), 0.0);
}

/// A cgroup without processes, removed when dropped.
struct EmptyCgroup(PathBuf);

impl EmptyCgroup {
    fn new() -> Self {
        let mounts = std::fs::read_to_string("/proc/mounts").expect("/proc");
        let is_v2 = |line: &str| line.split(' ').nth(2) == Some("cgroup2");
        let line = mounts.lines().find(|line| is_v2(line)).expect("cgroup2 is mounted");
        let top = line.split(' ').nth(1).expect("a mount point");
        let path = PathBuf::from(format!("{top}/portsplice-test-{}-{}", std::process::id(), unique()));
        std::fs::create_dir(&path).expect("a cgroup");
        Self(path)
    }
}

impl Drop for EmptyCgroup {
    fn drop(&mut self) {
        // The kernel lets it go once no program is attached: the daemon has stopped before.
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A daemon whose program does not see the containers, because it is attached to a cgroup that they are not in, finds that out
/// and looks for itself.
#[test]
fn finds_out_that_it_is_told_nothing() {
    if !privileged() {
        return;
    }
    let cgroup = EmptyCgroup::new();
    let rig = Rig::with(Path::Splice, |config| {
        by_news(config);
        config.set("ports", "rescan", "\"1s\"").set("bpf", "cgroup", &format!("{:?}", cgroup.0));
    });
    wait::until_true("the first look", || rig.node().metric("portsplice_ports_dumps_total", &[]) > 0.0);
    let server = Server::start_on(Kind::Threads, &rig.netns, "127.0.0.1", 8000);
    expect(rig.node(), &[("127.0.0.1", 8000, "python3")]);
    wait::until_true("it says so", || rig.node().log().contains("missed a listening port"));
    drop(server);
    expect(rig.node(), &[]);
}

/// Containers that start and stop by the dozen leave nothing behind: no files, no ports.
#[test]
fn forgets_containers() {
    if !privileged() {
        return;
    }
    let rig = rig();
    let node = rig.node();
    let round = || {
        let containers: Vec<_> = (0..12)
            .map(|n| {
                let netns = portsplice_tests::net::Netns::new();
                let listener = netns.listen("127.0.0.1:8000");
                node.register(&format!("c{n}"), &format!("netns = {:?}\n", netns.path()));
                (netns, listener)
            })
            .collect();
        wait::until_true("their ports", || node.metric("portsplice_ports_listening", &[]) == 12.0);
        (0..12).for_each(|n| node.unregister(&format!("c{n}")));
        wait::until_true("no ports", || node.metric("portsplice_ports_listening", &[]) == 0.0);
        drop(containers);
    };
    round();
    let files = node.open_files();
    round();
    node.until_files(files);
}
