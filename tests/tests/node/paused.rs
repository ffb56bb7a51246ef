//! Containers that are paused: their processes are frozen by a control group, as `docker pause` does it.

use std::io::Read;
use std::thread::sleep;
use std::time::{Duration, Instant};

use portsplice_tests::client::Proof;
use portsplice_tests::freezer::Freezer;
use portsplice_tests::rig::Rig;
use portsplice_tests::servers::{Kind, Server};
use portsplice_tests::{over_gateway, over_paths, pattern};

use crate::refusals::full_backlog;

const LEN: u64 = 20_000_000;
/// How long a container stands still.
const STILL: Duration = Duration::from_millis(300);

/// A server in each of this machine's freezers. The freezer is to be dropped first: what is frozen does not end either.
fn servers_in_freezers(rig: &Rig, kind: Kind) -> impl Iterator<Item = (Server, Freezer)> {
    Freezer::all().into_iter().map(move |freezer| {
        let server = Server::start(kind, &rig.netns);
        freezer.take(server.process.pid());
        (server, freezer)
    })
}

/// Registers a server's process as a container, which is known by its process then, and gives the name.
fn registered(rig: &Rig, server: &Server) -> String {
    let name = format!("zzzzz-dz642-{:015}", server.process.pid());
    rig.node().register(&name, &format!("pid = {}\n", server.process.pid()));
    rig.node().until_status(&name, server.port, |status| status != 421);
    name
}

over_paths! {
    /// An answer whose server stands still again and again in the middle of it comes whole.
    fn answers_come_whole(path) {
        let rig = Rig::new(path);
        for (kind, target) in [(Kind::Threads, "/bytes/"), (Kind::Asyncio, "/chunked/"), (Kind::Blocking, "/close/")] {
            for (server, freezer) in servers_in_freezers(&rig, kind) {
                let mut conn = rig.connect_to(server.port);
                conn.send("GET", &format!("{target}{LEN}"), &[], b"");
                let (_, _, framing) = conn.final_head(Proof::Owed);
                let mut check = pattern::Check::default();
                let mut next = LEN / 10;
                let whole = conn.body_into(framing, &mut |part| {
                    check.update(part);
                    if check.len() >= next {
                        next += LEN / 3;
                        freezer.freeze();
                        sleep(STILL);
                        freezer.thaw();
                    }
                });
                assert!(whole.is_ok() && check.len() == LEN, "{kind:?}: {whole:?} after {}", check.len());
                assert_eq!(check.sha256(), pattern::sha256(LEN));
            }
        }
    }

    /// Requests wait, on new connections and on kept ones, and are answered when it goes on.
    fn requests_wait(path) {
        let rig = Rig::new(path);
        for (server, freezer) in servers_in_freezers(&rig, Kind::Asyncio) {
            let mut kept = rig.connect_to(server.port);
            assert_eq!(kept.get("/bytes/10").body, pattern::bytes(10));
            freezer.freeze();
            let mut conns = [kept, rig.connect_to(server.port)];
            for conn in &mut conns {
                conn.send("POST", "/echo", &["Content-Length: 100000"], &pattern::bytes(100_000));
            }
            sleep(STILL);
            assert!(conns.iter().all(|conn| conn.is_quiet()), "who has answered?");
            freezer.thaw();
            for conn in &mut conns {
                assert_eq!(conn.response().body, pattern::bytes(100_000));
                assert_eq!(conn.get("/bytes/10").body, pattern::bytes(10));
            }
        }
    }
}

over_gateway! {
    /// Where there is a limit to waiting, the gateway error says why nothing came: no answer, or no room in the
    /// backlog.
    fn refusals_name_the_cause(path) {
        let rig = Rig::with(path, |config| {
            config.set("limits", "response-header-timeout", "\"500ms\"").set("limits", "connect-timeout", "\"500ms\"");
        });
        let (listener, _fill) = full_backlog(&rig);
        let full = listener.local_addr().expect("bound").port();
        for (server, freezer) in servers_in_freezers(&rig, Kind::Asyncio) {
            let name = registered(&rig, &server);
            let ask = |port: u16| {
                let mut conn = rig.dialer_for(&name, port).connect();
                conn.send("GET", "/bytes/10", &[], b"");
                let response = conn.response();
                (response.status(), response.text().contains("is paused"))
            };
            assert_eq!((ask(server.port), ask(full)), ((200, false), (504, false)));
            freezer.freeze();
            assert_eq!((ask(server.port), ask(full)), ((504, true), (504, true)));
            freezer.thaw();
            assert_eq!((ask(server.port), ask(full)), ((200, false), (504, false)));
        }
        assert_eq!(rig.node().metric("portsplice_refusals_total", &["paused"]), 2.0 * Freezer::all().len() as f64);
    }

    /// One that is withdrawn while it stands still loses its connections at once: answers under way, and requests that wait.
    fn access_ends(path) {
        let rig = Rig::new(path);
        for (server, freezer) in servers_in_freezers(&rig, Kind::Asyncio) {
            let name = registered(&rig, &server);
            let mut under_way = rig.dialer_for(&name, server.port).connect();
            under_way.send("GET", "/bytes/20000000000", &[], b"");
            under_way.final_head(Proof::Owed);
            pattern::read_from(&mut under_way, 1_000_000, 65536).expect("a part");
            freezer.freeze();
            let mut waiting = rig.dialer_for(&name, server.port).connect();
            waiting.send("GET", "/bytes/10", &[], b"");
            sleep(STILL);
            let began = Instant::now();
            rig.node().unregister(&name);
            let mut buffer = [0; 65536];
            let error = loop {
                match under_way.read(&mut buffer) {
                    Ok(0) => panic!("a part passed for the whole"),
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_ne!(error.kind(), std::io::ErrorKind::TimedOut);
            assert_eq!(waiting.response().status(), 502);
            // The promise is a second; a connection that nobody cuts would end after ten.
            assert!(began.elapsed() < Duration::from_secs(4), "{:?} later", began.elapsed());
        }
    }
}
