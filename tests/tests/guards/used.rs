//! The fast path is not only right: it is used. A test over it that went the slow way would prove nothing.

use std::io::Read;

use portsplice_tests::client::Proof;
use portsplice_tests::pattern;
use portsplice_tests::privileged;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::servers::{Kind, Server};
use portsplice_tests::zoo::{self, ServerVariant};
use serde_json::Value;

use crate::access;

const LEN: u64 = 64 << 20;

/// Downloads once and gives the way it took, and how many percent of it went past the daemon.
fn way(rig: &Rig, port: u16) -> (String, f64) {
    let nth = rig.node().log_records().iter().filter(|record| record.contains_key("bytes_down")).count();
    let mut conn = rig.connect_to(port);
    conn.send("GET", &format!("/bytes/{LEN}"), &[], b"");
    conn.final_head(Proof::Owed);
    // Without a hash: a reader that cannot keep up is another story.
    let mut cursor = pattern::Cursor::default();
    let mut buf = vec![0; 1 << 20];
    while cursor.offset() < LEN {
        let n = conn.read(&mut buf).expect("more");
        assert!(n > 0, "it ended early");
        cursor.take(&buf[..n]).expect("the pattern");
    }
    drop(conn);
    let line = access(rig, nth + 1).remove(nth);
    let path = line.get("path").and_then(Value::as_str).unwrap_or_default().to_owned();
    (path, line.get("fast_percent").and_then(Value::as_f64).unwrap_or(0.0))
}

/// How many of a hundred bytes went past the daemon, at best: the reader is this test, which a busy machine keeps from
/// reading now and then, and while it does not read nothing can go past.
fn at_best(rig: &Rig, port: u16) -> f64 {
    let shares = (0..5).map(|_| way(rig, port)).inspect(|(path, _)| assert!(path == "fast" || path == "splice"));
    shares.map(|(_, share)| share).fold(0.0, f64::max)
}

/// Servers of each kind, whatever they write with. How much of it goes past is another matter: what a corked socket
/// (nginx's `tcp_nopush`) holds back keeps a flow that was interrupted once from coming back.
#[test]
fn by_servers_of_all_kinds() {
    if !privileged() {
        return;
    }
    let _memory = crate::without_crowd();
    let rig = Rig::new(Path::Fast);
    for kind in
        [Kind::Nginx, Kind::NginxWrites, Kind::Asyncio, Kind::Threads, Kind::Node, Kind::Blocking, Kind::Go, Kind::Java]
    {
        let server = Server::start(kind, &rig.netns);
        server.offer(LEN);
        let share = at_best(&rig, server.port);
        assert!(share > 0.0, "{kind:?}: {share} %");
    }
    for manner in [
        ServerVariant::Write,
        ServerVariant::Vectored,
        ServerVariant::More,
        ServerVariant::Turns,
        ServerVariant::Sendfile,
        ServerVariant::Splice,
        ServerVariant::Edge,
    ] {
        let server = zoo::Server::start(manner, &rig.netns);
        let share = at_best(&rig, server.port);
        assert!(share > 0.0, "{manner:?}: {share} %");
    }
}

/// What a ring sends shows no flags, so it always passes.
#[test]
fn not_by_servers_with_a_ring() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Fast);
    let server = zoo::Server::start(ServerVariant::Uring, &rig.netns);
    assert_eq!(at_best(&rig, server.port), 0.0);
}

/// For a reader that keeps up, the most of a long answer goes past the daemon.
#[test]
fn for_most_of_a_long_answer() {
    if !privileged() {
        return;
    }
    let _memory = crate::without_crowd();
    let rig = Rig::new(Path::Fast);
    let server = zoo::Server::start(ServerVariant::Edge, &rig.netns);
    let share = at_best(&rig, server.port);
    assert!(share >= 50.0, "{share} %");
}
