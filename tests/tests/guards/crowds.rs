//! More flows than usual, and more than fit.

use portsplice_tests::client::{Conn, Proof};
use portsplice_tests::pattern;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::zoo::{Server, ServerVariant};
use portsplice_tests::{privileged, wait};

use crate::{access, by_path};

/// What each answer sends before it is held back, and after: several messages, the last of which always passes the daemon.
const PARTS: (u64, u64) = (20_000, 110_000);

/// Opens so many answers that all begin and wait.
fn held(rig: &Rig, port: u16, n: usize) -> Vec<Conn> {
    let dialer = rig.dialer(port);
    let open = |_| {
        let mut conn = dialer.connect();
        conn.send("GET", &format!("/hold/{}/{}", PARTS.0, PARTS.1), &[], b"");
        conn
    };
    let mut conns: Vec<Conn> = (0..n).map(open).collect();
    for conn in &mut conns {
        conn.final_head(Proof::Owed);
        pattern::read_from(conn, PARTS.0, 65536).expect("the first part");
    }
    conns
}

/// Lets all of them go on, and reads their ends; each connection then serves another request.
fn release(rig: &Rig, port: u16, conns: &mut [Conn]) {
    assert_eq!(rig.connect_to(port).get("/release").status(), 200);
    for conn in &mut *conns {
        let mut cursor = pattern::Cursor::at(PARTS.0);
        while cursor.offset() < PARTS.0 + PARTS.1 {
            let left = PARTS.0 + PARTS.1 - cursor.offset();
            conn.input().some(left, &mut |part| cursor.take(part)).expect("the second part");
        }
    }
    for conn in conns {
        assert_eq!(conn.get("/bytes/1000").body, pattern::bytes(1000));
    }
}

/// Thousands of answers under way at the same time, each on a flow of its own. A flow takes the daemon two descriptors, and
/// 20,000 are what a process may have open on an ordinary host.
#[test]
fn nine_thousand_flows_at_once() {
    const FLOWS: usize = 9000;
    if !privileged() {
        return;
    }
    let _memory = crate::crowd();
    let rig = Rig::with(Path::Fast, |config| {
        config.set("log", "access", "false").without_caps();
    });
    let server = Server::start(ServerVariant::Edge, &rig.netns);
    release(&rig, server.port, &mut held(&rig, server.port, 10));
    let files = rig.node().open_files();
    let mut conns = held(&rig, server.port, FLOWS);
    assert!(rig.node().open_files() >= 2 * FLOWS);
    assert_eq!(rig.node().metric("portsplice_fast_flows", &[]), FLOWS as f64);
    release(&rig, server.port, &mut conns);
    drop(conns);
    rig.node().until_files(files + 2 * 64);
    assert!(rig.node().metric("portsplice_fast_bytes_total", &[]) > 0.0);
    for gauge in ["portsplice_connections_open", "portsplice_fast_flows"] {
        wait::until_true(gauge, || rig.node().metric(gauge, &[]) == 0.0);
    }
}

/// More answers than the flow table has room for: those that find none are served by splice, and nobody notices.
#[test]
fn a_full_table() {
    const ROOM: usize = 8;
    const FLOWS: usize = 40;
    if !privileged() {
        return;
    }
    let rig = Rig::with(Path::Fast, |config| {
        config.set("bpf", "max-flows", &ROOM.to_string());
    });
    let server = Server::start(ServerVariant::Edge, &rig.netns);
    for round in 1..=3 {
        let mut conns = held(&rig, server.port, FLOWS);
        release(&rig, server.port, &mut conns);
        // For each connection its long answer and its short one, and one release.
        let lines = access(&rig, round * (2 * FLOWS + 1));
        let fast = by_path(&lines, "fast");
        // Flows that had no room may find some when others have ended.
        assert!((round..=round * FLOWS).contains(&fast), "{fast} fast ones in {round} rounds");
        assert!(by_path(&lines, "splice") > 0, "all found room");
    }
    assert!(rig.node().metric("portsplice_fast_attach_failed_total", &["table-full"]) > 0.0);
}
