//! Five thousand connections that do nothing cost little, and each still works.

use portsplice_tests::client::Conn;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::servers::{Kind, Server};
use portsplice_tests::{pattern, privileged, wait};

const CONNECTIONS: usize = 5000;
/// What an idle kept-alive plain connection may cost in the daemon's own memory.
const KIB_EACH: f64 = 16.0;

/// Opens so many kept-alive connections, each after one request.
fn open(rig: &Rig, n: usize) -> Vec<Conn> {
    let connect = |i: usize| {
        let mut conn = rig.connect();
        let len = 100 + i % 100;
        assert_eq!(conn.get(&format!("/bytes/{len}")).body, pattern::bytes(len));
        conn
    };
    (0..n).map(connect).collect()
}

/// Memory per connection is measured, not timed: the daemon's anonymous memory before and after, over 5,000.
#[test]
fn five_thousand_idle_connections() {
    if !privileged() {
        return;
    }
    let rig = Rig::with(Path::Splice, |config| {
        config.set("limits", "keep-alive-timeout", "\"1h\"").set("limits", "upstream-idle-timeout", "\"1h\"");
        config.set("log", "access", "false").without_caps();
    });
    // nginx in a process of its own: it keeps as many connections without a thread for each.
    let server = Server::start(Kind::Nginx, &rig.netns);
    (100..200).for_each(|len| server.offer(len));
    rig.use_port(server.port);
    let process_kib = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", rig.node().pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("a field");
        line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number")
    };
    // What is allocated once, not for each connection, is there after a first round.
    drop(open(&rig, 200));
    let files = wait::until_steady("open files", std::time::Duration::from_millis(300), || rig.node().open_files());
    let before = process_kib();
    let mut conns = open(&rig, CONNECTIONS);
    let after = process_kib();
    let each = (after.saturating_sub(before)) as f64 / CONNECTIONS as f64;
    #[expect(clippy::print_stderr, reason = "the figure is wanted, and `--nocapture` shows it")]
    {
        eprintln!(
            "idle kept-alive plain connection: {each:.2} KiB ({before} KiB before, {after} KiB with {CONNECTIONS})"
        );
    }
    assert!(rig.node().open_files() >= files + CONNECTIONS, "they are open");
    assert!(each <= KIB_EACH, "{each:.2} KiB for each idle connection");
    // All of them still work, in any order.
    for i in (0..CONNECTIONS).step_by(7).chain((0..CONNECTIONS).rev().step_by(11)) {
        assert_eq!(conns[i].get("/bytes/150").body, pattern::bytes(150));
    }
    drop(conns);
    rig.node().until_files(files);
}
