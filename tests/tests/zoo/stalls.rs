//! A client that stops reading: its server sleeps, and so does the daemon.

use std::time::Duration;

use portsplice_tests::client::Proof;
use portsplice_tests::over_paths;
use portsplice_tests::pattern;
use portsplice_tests::process::cpu_time;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::servers::{Kind, Server};
use portsplice_tests::zoo::{self, ServerVariant, Tally};

/// More than all buffers on the way hold together.
const LEN: u64 = 96 << 20;
/// What is read after the stop, to see that all goes on.
const REST: u64 = 6 << 20;
/// How long nobody reads.
const STILL: Duration = Duration::from_millis(1500);

/// Asks for the pattern, reads a part, stops, reads on; neither the server nor the daemon works meanwhile.
#[track_caller]
fn sleeps(rig: &Rig, port: u16, server: u32, what: &str) {
    let connect = || rig.dialer(port).connect_with(|socket| socket.set_recv_buffer_size(32768));
    let mut conns = [connect(), connect(), connect()];
    for conn in &mut conns {
        conn.send("GET", &format!("/bytes/{LEN}"), &[], b"");
        conn.final_head(Proof::Owed);
    }
    for (conn, part) in conns.iter_mut().zip([0, 1 << 20, 4 << 20]) {
        pattern::read_from(conn, part, 65536).expect("a part");
    }
    let daemon = if rig.path == Path::Direct { None } else { Some(rig.node().pid()) };
    // What was on its way gets where it can.
    std::thread::sleep(Duration::from_millis(300));
    let before = (cpu_time(server), daemon.map(cpu_time));
    std::thread::sleep(STILL);
    let spent = cpu_time(server) - before.0;
    assert!(spent < STILL / 5, "{what} worked for {spent:?} while nobody read for {STILL:?}");
    if let (Some(daemon), Some(before)) = (daemon, before.1) {
        let spent = cpu_time(daemon) - before;
        assert!(spent < STILL / 5, "the daemon worked for {spent:?} while nobody read for {STILL:?} ({what})");
    }
    for (conn, part) in conns.iter_mut().zip([0, 1 << 20, 4 << 20]) {
        let mut cursor = pattern::Cursor::at(part);
        while cursor.offset() < part + REST {
            conn.input().some(part + REST - cursor.offset(), &mut |part| cursor.take(part)).expect("the rest");
        }
    }
}

over_paths! {
    /// Servers as people run them.
    fn real_servers_sleep(path) {
        for kind in [Kind::Nginx, Kind::NginxWrites, Kind::Asyncio, Kind::Node, Kind::Go] {
            let rig = Rig::new(path);
            let server = Server::start(kind, &rig.netns);
            server.offer(LEN);
            sleeps(&rig, server.port, server.process.pid(), &format!("{kind:?}"));
        }
    }

    /// Servers made for one way of writing each, with buffers as they come and small ones.
    fn made_servers_sleep(path) {
        for manner in [ServerVariant::Write, ServerVariant::Sendfile, ServerVariant::Zerocopy, ServerVariant::Uring, ServerVariant::Edge] {
            for send_buffer in [None, Some(16384)] {
                let rig = Rig::new(path);
                let server = zoo::Server::start_on(manner, &rig.netns, "127.0.0.1:0", send_buffer);
                sleeps(&rig, server.port, server.process.pid(), &format!("{manner:?} {send_buffer:?}"));
            }
        }
    }

    /// An edge-triggered server with a small send buffer and readers of all kinds: it wakes for room and for nothing
    /// else, and every time it was told that there is no more room it is told later that there is.
    fn every_refusal_is_followed_by_room(path) {
        use std::sync::atomic::Ordering::Relaxed;
        let rig = Rig::new(path);
        let server = zoo::Server::start_on(ServerVariant::Edge, &rig.netns, "127.0.0.1:0", Some(16384));
        portsplice_tests::client_behaviours::all_at_once(&rig.dialer(server.port), 8 << 20);
        let tally = Tally::parse(&rig.connect_to(server.port).get("/tally").text());
        let full = tally.short.load(Relaxed) + tally.again.load(Relaxed);
        // A wake-up is for a new connection, a request, an end, or room after a gateway error.
        let (wakeups, writes) = (tally.wakeups.load(Relaxed), tally.writes.load(Relaxed));
        assert!(wakeups <= writes + full + 200, "{tally:?}");
    }
}
