//! The kernel is short of memory for sockets: everyone waits, nobody for ever.
//!
//! A part of its own, since all sockets of the machine share that memory (tcp(7), `tcp_mem`).

use std::time::{Duration, Instant};

use portsplice_tests::client::{Conn, Proof};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::zoo::{Server, ServerVariant};
use portsplice_tests::{pattern, privileged};

/// Answers under way at the same time.
const ANSWERS: usize = 9000;
/// What each sends before it is held back.
const BEFORE: u64 = 20_000;
/// Longer than TCP waits before it sends again what was dropped for want of memory (RFC 6298: twice as long each time).
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes for all TCP sockets together at which the kernel is short of memory, but has some: between the second limit, from
/// which on it refuses a socket more than its share, and the third, from which on it refuses everyone.
fn shortage() -> u64 {
    let limits = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_mem").expect("tcp_mem");
    let limits: Vec<u64> = limits.split_whitespace().map(|pages| pages.parse().expect("a number")).collect();
    (limits[1] + limits[2]) / 2 * rustix::param::page_size() as u64
}

/// Thousands of answers that together are as much as makes memory short, to clients that do not read yet. When a message
/// was taken in part for want of memory, its server must be told when there is some again.
#[test]
fn short_of_memory() {
    if !privileged() {
        return;
    }
    let rig = Rig::with(Path::Fast, |config| {
        config.set("log", "access", "false").without_caps();
    });
    let server = Server::start(ServerVariant::Edge, &rig.netns);
    let dialer = rig.dialer(server.port);
    let len = BEFORE + shortage() / ANSWERS as u64;
    let open = |_| {
        let mut conn = dialer.connect();
        conn.send("GET", &format!("/hold/{BEFORE}/{}", len - BEFORE), &[], b"");
        conn
    };
    let mut conns: Vec<Conn> = (0..ANSWERS).map(open).collect();
    for conn in &mut conns {
        conn.final_head(Proof::Owed);
        pattern::read_from(conn, BEFORE, 65536).expect("the first part");
    }
    assert_eq!(rig.connect_to(server.port).get("/release").status(), 200);
    // All of it that can get anywhere has got there.
    std::thread::sleep(Duration::from_secs(5));

    let mut under_way: Vec<_> = conns.into_iter().map(|conn| (conn, pattern::Cursor::at(BEFORE))).collect();
    let mut moved = Instant::now();
    while !under_way.is_empty() {
        assert!(moved.elapsed() < PATIENCE, "{} answers do not go on though there is memory again", under_way.len());
        for (conn, cursor) in &mut under_way {
            if !conn.is_quiet() {
                conn.input().some(len - cursor.offset(), &mut |part| cursor.take(part)).expect("the rest");
                moved = Instant::now();
            }
        }
        under_way.retain(|(_, cursor)| cursor.offset() < len);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(rig.node().metric("portsplice_fast_bytes_total", &[]) > 0.0, "nothing took the fast path");
}
