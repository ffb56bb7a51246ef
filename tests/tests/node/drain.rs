//! The daemon goes without anyone losing what was running, or at once when told twice.

use std::io::Read;
use std::sync::Mutex;
use std::sync::mpsc::channel;

use rustix::process::Signal;

use portsplice_tests::client::{Conn, End, Proof};
use portsplice_tests::origin::contract;
use portsplice_tests::rig::Rig;
use portsplice_tests::{HANG, pattern, wait};

use portsplice_tests::over_gateway;

const LEN: u64 = 64 << 20;

/// Waits until the gateway takes no more connections.
fn until_refused(rig: &Rig) {
    let node = rig.node();
    wait::until_true("new connections are refused", || node.try_tcp(node.plain[0]).is_err());
}

over_gateway! {
    /// SIGTERM under load: downloads and uploads that run finish whole, new connections are refused, exit status 0.
    fn running_requests_finish(path) {
        let mut rig = Rig::new(path);
        let (go, gate) = channel::<()>();
        let gate = Mutex::new(gate);
        let origin = rig.serve(move |peer| {
            while let Some(head) = peer.head()? {
                if head.target() == "/gated" {
                    peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n"))?;
                    peer.write(pattern::slice(0, 1000))?;
                    gate.lock().expect("gate").recv_timeout(HANG).expect("the drain has begun");
                    let mut at = 1000;
                    while at < LEN {
                        let part = pattern::slice(at, 65536.min(LEN - at) as usize);
                        peer.write(part)?;
                        at += part.len() as u64;
                    }
                } else {
                    let (body, _) = peer.body(head.request_framing())?;
                    peer.respond("200 OK", body.len().to_string())?;
                }
            }
            Ok(())
        });
        let mut downloads: Vec<Conn> = (0..8).map(|_| rig.connect()).collect();
        for conn in &mut downloads {
            conn.send("GET", "/gated", &[], b"");
            let (_, head, _) = conn.final_head(Proof::Owed);
            assert_eq!(head.status(), 200);
        }
        let mut upload = rig.connect();
        let head = upload.head_for("POST", "/", &["Content-Length: 1000000"]);
        upload.write(&head);
        upload.write(pattern::slice(0, 1000));
        let mut idle = rig.connect();
        assert_eq!(idle.get("/").text(), "0");
        // A request that nobody has read yet does not run.
        wait::until_true("the upload has begun", || origin.accepted() == downloads.len() + 2);

        rig.node().signal(Signal::TERM);
        until_refused(&rig);
        for _ in &downloads {
            go.send(()).expect("the server waits");
        }
        for conn in &mut downloads {
            pattern::read_from(conn, LEN, 65536).expect("whole");
        }
        upload.write(&pattern::bytes(1_000_000)[1000..]);
        assert_eq!(upload.response().text(), "1000000");
        drop(downloads);
        drop(upload);
        // An idle connection does not hold the drain up.
        let (bytes, _) = idle.rest();
        assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 503 "), "{:?}", String::from_utf8_lossy(&bytes));
        let status = rig.node_mut().wait();
        assert!(status.success(), "{status}");
    }

    /// A request on a connection that stood before: answered or refused as the table says, never lost without a word.
    fn later_requests_are_told(path) {
        let mut rig = Rig::new(path);
        let (go, gate) = channel::<()>();
        let gate = Mutex::new(gate);
        let _origin = rig.serve(move |peer| {
            while let Some(head) = peer.head()? {
                if head.target() == "/first" {
                    gate.lock().expect("gate").recv_timeout(HANG).expect("the drain has begun");
                }
                peer.respond("200 OK", "ok")?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        conn.send("GET", "/first", &[], b"");
        wait::until_true("the request is with the server", || rig.node().open_files() > 0);
        std::thread::sleep(std::time::Duration::from_millis(100));
        rig.node().signal(Signal::TERM);
        until_refused(&rig);
        // The second is pipelined behind the first.
        conn.send("GET", "/second", &[], b"");
        go.send(()).expect("the server waits");
        let first = conn.response();
        assert_eq!(first.text(), "ok");
        if !first.head.lists("connection", "close") {
            let second = conn.response();
            assert!(second.head.lists("connection", "close"), "{second:?}");
            assert!(matches!(second.status(), 200 | 503), "{second:?}");
        }
        let status = rig.node_mut().wait();
        assert!(status.success(), "{status}");
    }

    /// What does not end by the deadline is reset, and not ended as if it were whole.
    fn the_deadline_cuts(path) {
        let mut rig = Rig::with(path, |config| {
            config.set("", "drain-timeout", "\"500ms\"");
        });
        let _origin = rig.serve(|peer| {
            if let Some(request) = peer.request()? {
                match request.head.target() {
                    "/close" => peer.write("HTTP/1.1 200 OK\r\n\r\nx")?,
                    _ => peer.write("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")?,
                }
                let _ = peer.rest();
            }
            Ok(())
        });
        let mut conns: Vec<Conn> = ["/close", "/length"]
            .into_iter()
            .map(|target| {
                let mut conn = rig.connect();
                conn.send("GET", target, &[], b"");
                conn.final_head(Proof::Owed);
                conn.read_exact(&mut [0]).expect("a byte");
                conn
            })
            .collect();
        let mut tunnel = rig.connect();
        crate::tunnels::open_tunnel(&mut tunnel);
        conns.push(tunnel);
        rig.node().signal(Signal::TERM);
        for conn in &mut conns {
            assert_eq!(conn.end(), End::Cut);
        }
        rig.node_mut().wait();
    }

    /// A second SIGTERM ends the daemon at once.
    fn second_sigterm(path) {
        let mut rig = Rig::with(path, |config| {
            config.set("", "drain-timeout", "\"1h\"");
        });
        let _origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        conn.set_receive_buffer(4096);
        conn.send("GET", "/bytes/10000000000", &[], b"");
        conn.final_head(Proof::Owed);
        rig.node().signal(Signal::TERM);
        until_refused(&rig);
        assert!(rig.node_mut().process().running(), "a transfer still runs");
        rig.node().signal(Signal::TERM);
        rig.node_mut().wait();
        let (_, end) = conn.rest();
        assert_eq!(end, End::Cut);
    }

    /// SIGINT, as a person at a terminal sends it, does the same as SIGTERM; with nothing to do it ends at once.
    fn idle_daemon_ends(path) {
        for signal in [Signal::TERM, Signal::INT] {
            let mut rig = Rig::new(path);
            rig.node().signal(signal);
            let status = rig.node_mut().wait();
            assert!(status.success(), "{signal:?}: {status}");
        }
    }

    /// While it drains it says so: not ready, but alive.
    fn readiness_while_draining(path) {
        let mut rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        assert_eq!(rig.node().admin_get("/readyz").0.status(), 200);
        let mut conn = rig.connect();
        conn.set_receive_buffer(4096);
        conn.send("GET", "/bytes/10000000000", &[], b"");
        conn.final_head(Proof::Owed);
        rig.node().signal(Signal::TERM);
        until_refused(&rig);
        wait::until_true("not ready", || rig.node().admin_get("/readyz").0.status() == 503);
        assert_eq!(rig.node().admin_get("/healthz").0.status(), 200);
        conn.reset();
        let status = rig.node_mut().wait();
        assert!(status.success(), "{status}");
    }
}
