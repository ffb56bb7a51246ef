//! The fast path is not only right: it is used. A test over it that went the slow way would prove nothing.

use std::io::Read;

use portsplice_tests::client::Proof;
use portsplice_tests::pattern;
use portsplice_tests::privileged;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::servers::{Kind, Server};
use portsplice_tests::zoo::{self, Manner};
use serde_json::Value;

use crate::access;

const LEN: u64 = 128 << 20;

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

/// A fast reader of each kind of server.
#[test]
fn by_servers_of_all_kinds() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Fast);
    for kind in [Kind::Nginx, Kind::NginxWrites, Kind::Asyncio, Kind::Node, Kind::Blocking, Kind::Go, Kind::Java] {
        let server = Server::start(kind, &rig.netns);
        server.offer(LEN);
        let w = way(&rig, server.port);
        eprintln!(
            "{kind:?} {w:?} {:?}",
            rig.node().metrics().into_iter().filter(|(k, v)| k.contains("fast_") && *v > 0.0).collect::<Vec<_>>()
        );
    }
    for manner in
        [Manner::Write, Manner::Vectored, Manner::More, Manner::Sendfile, Manner::Splice, Manner::Uring, Manner::Edge]
    {
        let server = zoo::Server::start(manner, &rig.netns);
        let w = way(&rig, server.port);
        eprintln!(
            "{manner:?} {w:?} {:?}",
            rig.node().metrics().into_iter().filter(|(k, v)| k.contains("fast_") && *v > 0.0).collect::<Vec<_>>()
        );
    }
}

/// For a reader that keeps up, by far the most of a long answer goes past the daemon.
#[test]
fn for_most_of_a_long_answer() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Fast);
    let server = zoo::Server::start(Manner::Edge, &rig.netns);
    let shares: Vec<f64> = (0..5).map(|_| way(&rig, server.port).1).collect();
    // The reader is this test, which a busy machine may keep from reading for a while: not each time, though.
    assert!(shares.iter().any(|&share| share >= 80.0), "{shares:?} percent");
}
