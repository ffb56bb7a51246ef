//! The daemon dies at once, in the middle of everything.

use std::process::Command;
use std::time::Duration;

use portsplice_tests::client::{Conn, Proof};
use portsplice_tests::kernel::Objects;
use portsplice_tests::over_gateway;
use portsplice_tests::pattern::{self, Cursor};
use portsplice_tests::process::{cpu_time, run};
use portsplice_tests::rig::Rig;
use portsplice_tests::wait;
use portsplice_tests::zoo::{Server, ServerVariant};

/// More than all buffers on the way hold together.
const LEN: u64 = 96 << 20;
/// Every way in which a server can be blocked in the middle of a response.
const BLOCKED: [ServerVariant; 6] = [
    ServerVariant::Write,
    ServerVariant::Turns,
    ServerVariant::Sendfile,
    ServerVariant::Splice,
    ServerVariant::Uring,
    ServerVariant::Edge,
];

over_gateway! {
    /// Killed while servers are blocked in their sends: each send ends, no client takes its part for the whole, nothing
    /// stays in the kernel, and a new daemon serves the same servers.
    fn killed_in_mid_transfer(path) {
        let mut rig = Rig::new(path);
        let servers = BLOCKED.map(|manner| Server::start(manner, &rig.netns));
        let mut conns: Vec<Conn> = servers.iter().map(|server| {
            let mut conn = rig.dialer(server.port).connect_with(|socket| socket.set_recv_buffer_size(32768));
            conn.send("GET", &format!("/bytes/{LEN}"), &[], b"");
            conn.final_head(Proof::Owed);
            pattern::read_from(&mut conn, 1 << 20, 65536).expect("a part");
            conn
        }).collect();
        // Long enough for all of them to be stuck.
        std::thread::sleep(Duration::from_millis(500));
        let held = Objects::of(rig.node().pid());
        assert_eq!(held.programs.is_empty(), path != portsplice_tests::rig::Path::Fast, "{held:?}");

        rig.restart();
        for (conn, manner) in conns.iter_mut().zip(BLOCKED) {
            let (rest, _) = conn.rest();
            Cursor::at(1 << 20).take(&rest).unwrap_or_else(|fault| panic!("{manner:?}: {fault}"));
            assert!((1 << 20) + (rest.len() as u64) < LEN, "{manner:?}: nobody was blocked");
        }
        wait::until_true("the servers' connections have ended", || {
            let mut ss = Command::new("ss");
            ss.args(["-Htan", "exclude", "time-wait", "exclude", "listening"]);
            run(&mut ss, Some(&rig.netns)).is_empty()
        });
        wait::until_true("nothing of it is left in the kernel", || held.remaining() == Objects::default());
        let idle = |server: &Server| {
            let before = cpu_time(server.process.pid());
            std::thread::sleep(Duration::from_millis(200));
            cpu_time(server.process.pid()) - before
        };
        for (server, manner) in servers.iter().zip(BLOCKED) {
            assert!(idle(server) < Duration::from_millis(100), "{manner:?} works though nobody asks");
            let mut conn = rig.connect_to(server.port);
            assert!(conn.get("/bytes/3000000").body == pattern::bytes(3_000_000), "{manner:?}");
        }
    }
}
