//! Where sock_diag(7) is missing: a kernel without it, or a filter of system calls.

use std::process::Command;

use portsplice_tests::net::Netns;
use portsplice_tests::node::{Node, NodeConfig, binary};
use portsplice_tests::origin::Origin;
use portsplice_tests::process::Process;
use portsplice_tests::sandbox::deny;
use portsplice_tests::servers::{Kind, Server};
use portsplice_tests::{privileged, wait};

use crate::{by_news, expect};

/// What a kernel without `CONFIG_NETLINK_DIAG`, or a filter, says to `socket(AF_NETLINK, …)`.
fn without_sock_diag(command: &mut Command) -> &mut Command {
    deny(command, libc::SYS_socket, Some(libc::AF_NETLINK), libc::EAFNOSUPPORT);
    command
}

fn start(netns: &Netns, adjust: impl FnOnce(&mut NodeConfig)) -> Node {
    let mut config = NodeConfig::new();
    adjust(config.container("web", &format!("netns = {:?}\n", netns.path())));
    let site = config.site();
    let process = Process::spawn("portsplice node", without_sock_diag(&mut site.command(&config)), None);
    Node::ready(site, process, None)
}

fn status(node: &Node, port: u16) -> u16 {
    let mut conn = node.connect("web", port);
    conn.send("GET", "/bytes/10", &[], b"");
    conn.response().status()
}

/// Servers are found wherever they listen, and what is missing is told, once.
#[test]
fn servers_are_found_by_proc() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    netns.add_address("fd00:201:7::3/128");
    let node = start(&netns, |_| ());
    for bound in ["127.0.0.53", "[fd00:201:7::3]", "[::ffff:127.0.0.9]", "127.0.0.1"] {
        let origin = Origin::start(&netns, &format!("{bound}:0"), |peer| {
            while peer.request()?.is_some() {
                peer.respond("200 OK", "found")?;
            }
            Ok(())
        });
        assert_eq!(status(&node, origin.port()), 200, "{bound}");
        let port = origin.port();
        drop(origin);
        assert_eq!(status(&node, port), 502, "{bound}");
    }
    let (head, text) = node.admin_get("/readyz");
    assert_eq!(head.status(), 200);
    assert!(text.contains("degraded sock_diag: "), "{text}");
    assert_eq!(node.log().matches("sock_diag(7) is not available").count(), 1, "{}", node.log());
}

/// The kernel's news and what /proc shows are of the same sockets, though only one of them has cookies.
#[test]
fn news_and_proc_together() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let mut before = Server::start_on(Kind::Threads, &netns, "127.0.0.53", 8000);
    let node = start(&netns, by_news);
    expect(&node, &[("127.0.0.53", 8000, "python3")]);
    let mut after = Server::start_on(Kind::Threads, &netns, "127.0.0.53", 8001);
    expect(&node, &[("127.0.0.53", 8000, "python3"), ("127.0.0.53", 8001, "python3")]);
    assert_eq!(status(&node, 8001), 200);
    before.process.kill();
    expect(&node, &[("127.0.0.53", 8001, "python3")]);
    after.process.kill();
    expect(&node, &[]);
    let again = Server::start_on(Kind::Threads, &netns, "127.0.0.53", 8001);
    expect(&node, &[("127.0.0.53", 8001, "python3")]);
    let closed = || node.log().matches("\"port closed\"").count();
    let so_far = closed();
    wait::until_steady("what is known", std::time::Duration::from_secs(3), closed);
    assert_eq!(closed(), so_far, "nothing that listens is taken for closed");
    drop(again);
}

/// The same without the kernel's events.
#[test]
fn proc_alone() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let node = start(&netns, |config| {
        by_news(config);
        config.set("bpf", "mode", "\"off\"");
    });
    let server = Server::start_on(Kind::Threads, &netns, "::1", 8000);
    expect(&node, &[("::1", 8000, "python3")]);
    drop(server);
    expect(&node, &[]);
}

/// `portsplice check` tells of it.
#[test]
fn check_says_what_is_missing() {
    if !privileged() {
        return;
    }
    let check = |command: &mut Command| {
        let output = command.arg("check").output().expect("it runs");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let text = check(&mut Command::new(binary()));
    assert!(text.contains("ok    listening sockets: read through sock_diag"), "{text}");
    let text = check(without_sock_diag(&mut Command::new(binary())));
    assert!(
        text.contains("note  listening sockets: sock_diag is not available (Address family not supported"),
        "{text}"
    );
}
