//! What becomes of the daemon's knowledge.

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
    node.register("early", &format!("netns = {:?}\n", netns.path()));
    expect(node, &[("127.0.0.1", 8000, "nginx"), ("::1", 8001, "python3")]);
    first.process.kill();
    expect(node, &[("::1", 8001, "python3")]);
    drop(second);
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

/// Containers that come and go by the dozen leave nothing behind: no files, no ports.
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
