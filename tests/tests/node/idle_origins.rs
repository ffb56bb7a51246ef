//! A connection to a server that waits for the next request is in nobody's way: not of other connections, not of a server with
//! one thread, not of one that wants to end; and no request goes out on one that its server is about to give up.

use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use portsplice_tests::client::Conn;
use portsplice_tests::origin::{Origin, Peer};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::{HANG, over_gateway, wait};

/// A daemon that keeps connections to servers for longer than any test lasts.
#[track_caller]
fn patient(path: Path) -> Rig {
    Rig::with(path, |config| {
        config.set("limits", "upstream-idle-timeout", "\"1h\"");
    })
}

/// Answers until its client ends, however long that takes.
fn polite(peer: &mut Peer) -> std::io::Result<()> {
    while peer.request()?.is_some() {
        peer.respond("200 OK", "ok")?;
    }
    Ok(())
}

/// A client whose connection stays open after its answer.
#[track_caller]
fn served(rig: &Rig) -> Conn {
    let mut conn = rig.connect();
    assert_eq!(conn.get("/").text(), "ok");
    conn
}

#[track_caller]
fn until_closed(origin: &Origin) {
    wait::until_true("the server's connections have ended", || origin.open() == 0);
}

over_gateway! {
    /// It ends long before the client's, which goes on with a new one.
    fn ends_before_the_clients(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(polite);
        let mut conn = served(&rig);
        until_closed(&origin);
        assert_eq!(conn.post("/", b"x").text(), "ok");
        until_closed(&origin);
        assert_eq!(origin.accepted(), 2);
    }

    /// It leaves its place among the container's connections to whoever needs one; a busy one keeps it.
    fn leaves_its_place(path) {
        let rig = Rig::with(path, |config| {
            config.set("limits", "upstream-idle-timeout", "\"1h\"").set("limits", "connections-per-container", "2");
        });
        let _origin = rig.serve(polite);
        let mut conns: Vec<Conn> = (0..6).map(|_| served(&rig)).collect();
        for conn in conns.iter_mut().rev() {
            assert_eq!(conn.post("/", b"x").text(), "ok");
        }
        let mut tunnels: Vec<Conn> = (0..2).map(|_| rig.connect()).collect();
        tunnels.iter_mut().for_each(crate::tunnels::open_tunnel);
        assert_eq!(conns[0].get("/").status(), 503);
        drop(tunnels);
        wait::until_true("there is room again", || conns[0].get("/").status() == 200);
    }

    /// A server that serves one connection at a time comes to the next one, though the first is kept open.
    fn leaves_a_server_with_one_thread(path) {
        let rig = patient(path);
        let thread = Mutex::new(());
        let _origin = rig.serve(move |peer| {
            let _only = thread.lock();
            polite(peer)
        });
        let mut conns: Vec<Conn> = (0..3).map(|_| served(&rig)).collect();
        for conn in &mut conns {
            assert_eq!(conn.get("/").text(), "ok");
        }
    }

    /// A server that stops listening and waits for its connections need not wait: not for those that are idle, and not for those
    /// whose request it still answers.
    fn does_not_hold_up_a_graceful_stop(path) {
        let rig = Rig::with(path, |config| {
            config.set("limits", "upstream-idle-timeout", "\"1h\"");
            config.set("bpf", "mode", "\"required\"").set("ports", "rescan", "\"24h\"");
        });
        let ((begun, has_begun), (go_on, stopped)) = (channel(), channel());
        let stopped = Mutex::new(stopped);
        let mut origin = rig.serve(move |peer| {
            while let Some(request) = peer.request()? {
                if request.head.target() == "/slow" {
                    begun.send(()).expect("the test waits");
                    stopped.lock().expect("one waits").recv().expect("it goes on");
                }
                peer.respond("200 OK", "ok")?;
            }
            Ok(())
        });
        let mut idle = served(&rig);
        let mut busy = served(&rig);
        busy.send("GET", "/slow", &[], b"");
        has_begun.recv_timeout(HANG).expect("the request came");
        wait::until_true("the port is known", || rig.node().metric("portsplice_ports_listening", &[]) == 1.0);
        origin.stop_listening();
        wait::until_true("the idle one has ended", || origin.open() == 1);
        go_on.send(()).expect("it waits");
        assert_eq!(busy.response().text(), "ok");
        until_closed(&origin);
        // Neither client has lost its own.
        assert_eq!((idle.get("/").status(), busy.get("/").status()), (502, 502));
    }

    /// A server that ends its direction is answered at once, and not at the next request.
    fn ends_with_its_server(path) {
        let rig = patient(path);
        let origin = rig.serve(|peer| {
            peer.must_request()?;
            peer.respond("200 OK", "ok")?;
            peer.finish()?;
            let (rest, _) = peer.rest();
            assert!(rest.is_empty());
            Ok(())
        });
        let mut conn = served(&rig);
        for _ in 0..3 {
            until_closed(&origin);
            assert_eq!(conn.post("/", b"x").text(), "ok");
        }
        origin.check();
    }

    /// What a server says of its patience is believed: nothing goes out on a connection that it may just give up, though it is slow
    /// to do so.
    fn is_not_used_when_its_server_may_give_it_up(path) {
        for (timeout, used_again) in [(0, false), (1, false), (3600, true)] {
            let rig = patient(path);
            let origin = rig.serve(move |peer| {
                while peer.request()?.is_some() {
                    let head = format!("HTTP/1.1 200 OK\r\nKeep-Alive: timeout={timeout}, max=99\r\n");
                    peer.write(head + "Content-Length: 2\r\n\r\nok")?;
                    if !used_again {
                        // It has decided, and is busy elsewhere.
                        std::thread::sleep(Duration::from_millis(20));
                        break;
                    }
                }
                Ok(())
            });
            let mut conn = rig.connect();
            for _ in 0..10 {
                assert_eq!(conn.post("/", b"x").text(), "ok", "timeout={timeout}");
            }
            assert_eq!(origin.accepted(), if used_again { 1 } else { 10 }, "timeout={timeout}");
        }
    }

    /// And a connection whose server is known to have no more patience is closed, and its server is not left to do it.
    fn ends_before_its_servers_patience(path) {
        let rig = patient(path);
        let origin = rig.serve(|peer| {
            while peer.request()?.is_some() {
                peer.write("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2\r\nContent-Length: 2\r\n\r\nok")?;
            }
            Ok(())
        });
        let mut conn = served(&rig);
        until_closed(&origin);
        assert_eq!(conn.get("/").text(), "ok");
    }
}
