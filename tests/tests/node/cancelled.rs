//! A client that goes before the answer: the server is reported at once, and nothing is held for the client.

use std::net::Shutdown;
use std::sync::mpsc::channel;

use portsplice_tests::client::{Conn, End, Proof};
use portsplice_tests::http::Framing;
use portsplice_tests::origin::Origin;
use portsplice_tests::rig::Rig;
use portsplice_tests::{HANG, over_gateway, over_paths, wait};

over_paths! {
    /// The client ends its direction after a whole request (a person pressed stop): the server is told while it thinks, and
    /// its answer is delivered all the same if it gives one.
    fn the_end_is_passed_on_before_the_answer(path) {
        let rig = Rig::new(path);
        let (asked, asking) = channel();
        let (told, tell) = channel();
        let _origin = rig.serve(move |peer| {
            let request = peer.must_request()?;
            asked.send(()).expect("the test waits");
            let (rest, ended) = peer.rest();
            told.send((rest, ended.is_ok())).expect("the test waits");
            peer.respond("200 OK", format!("all the same, {}", request.body.len()))
        });
        for body in [&b""[..], b"a body"] {
            let mut conn = rig.connect();
            let length = format!("Content-Length: {}", body.len());
            let fields = if body.is_empty() { vec![] } else { vec![length.as_str()] };
            conn.send(if body.is_empty() { "GET" } else { "POST" }, "/", &fields, body);
            asking.recv_timeout(HANG).expect("the request came");
            conn.half_close();
            assert_eq!(tell.recv_timeout(HANG).expect("the server is told"), (Vec::new(), true));
            assert_eq!(conn.response().text(), format!("all the same, {}", body.len()));
            assert_eq!(conn.end(), End::Clean);
        }
    }

    /// The same while a response is under way: a stream of events ends when its reader has had enough.
    fn the_end_is_passed_on_in_mid_response(path) {
        let rig = Rig::new(path);
        let (told, tell) = channel();
        let _origin = rig.serve(move |peer| {
            peer.must_request()?;
            peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")?;
            let (rest, ended) = peer.rest();
            told.send((rest, ended.is_ok())).expect("the test waits");
            peer.write("4\r\nlast\r\n0\r\n\r\n")
        });
        let mut conn = rig.connect();
        conn.send("GET", "/", &[], b"");
        let (_, _, framing) = conn.final_head(Proof::Owed);
        assert_eq!(framing, Framing::Chunked);
        assert_eq!(conn.input().line().expect("a chunk's size"), "5");
        conn.half_close();
        assert_eq!(tell.recv_timeout(HANG).expect("the server is told"), (Vec::new(), true));
        assert_eq!(conn.rest().0, b"first\r\n4\r\nlast\r\n0\r\n\r\n");
    }

    /// A client that closes in order while the server streams to it: the first write that nobody takes ends the request at the
    /// server, though nothing more is written.
    fn a_client_that_is_gone_ends_a_silent_stream(path) {
        let rig = Rig::new(path);
        let (told, tell) = channel();
        let origin = rig.serve(move |peer| {
            peer.must_request()?;
            peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")?;
            let (_, ended) = peer.rest();
            told.send(ended.is_ok()).expect("the test waits");
            // It does not mind the end. One more event, then silence.
            peer.write("4\r\nmore\r\n")?;
            let mut poll = [rustix::event::PollFd::from_borrowed_fd(
                std::os::fd::AsFd::as_fd(peer.stream()),
                rustix::event::PollFlags::empty(),
            )];
            // Only an error or a hang-up of both directions is reported now.
            let patience = rustix::event::Timespec { tv_sec: 60, tv_nsec: 0 };
            let events = rustix::event::poll(&mut poll, Some(&patience)).expect("poll");
            assert_eq!(events, 1, "the server was not told");
            Ok(())
        });
        let mut conn = rig.connect();
        conn.send("GET", "/", &[], b"");
        let _ = conn.final_head(Proof::Owed);
        assert_eq!(conn.input().line().expect("a chunk's size"), "5");
        drop(conn);
        assert!(tell.recv_timeout(HANG).expect("the server is told of the end"));
        wait::until_true("the server is told that nobody is there", || origin.open() == 0);
    }
}

over_gateway! {
    /// A hundred clients that close before the answer hold nothing: neither connections of the node nor places of the container.
    fn nothing_is_held(path) {
        let rig = Rig::with(path, |config| {
            config.set("limits", "connections", "100").set("limits", "connections-per-container", "100");
        });
        let (asked, asking) = channel();
        let origin = rig.serve(move |peer| {
            let request = peer.must_request()?;
            if request.head.target() == "/" {
                asked.send(()).expect("the test waits");
                // The model stops computing when it reads an end.
                let _ = peer.rest();
                return Ok(());
            }
            peer.respond("200 OK", "served")
        });
        for _ in 0..100 {
            let mut conn = rig.connect();
            conn.send("GET", "/", &[], b"");
            asking.recv_timeout(HANG).expect("the request came");
            drop(conn);
        }
        wait::until_true("the server is told of all", || origin.open() == 0);
        wait::until_true("no connection is held", || rig.node().metric("portsplice_connections_open", &[]) == 0.0);
        assert_eq!(rig.connect().get("/served").text(), "served");
        assert_eq!(origin.accepted(), 101, "a request that nobody waits for any more went out twice");
    }

    /// A cancelled request on a connection that was used before is not sent again when the server closes at the news.
    fn a_cancelled_request_is_not_repeated(path) {
        let rig = Rig::new(path);
        let (asked, asking) = channel();
        let origin = rig.serve(move |peer| {
            while let Some(request) = peer.request()? {
                if request.head.target() == "/slow" {
                    asked.send(()).expect("the test waits");
                    let _ = peer.rest();
                    return Ok(());
                }
                peer.respond("200 OK", "fast")?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        assert_eq!(conn.get("/fast").text(), "fast");
        conn.send("GET", "/slow", &[], b"");
        asking.recv_timeout(HANG).expect("the request came");
        conn.half_close();
        assert_eq!(conn.response().status(), 502);
        assert!(asking.try_recv().is_err(), "it was sent again");
        assert_eq!(origin.accepted(), 1);
    }

    /// TLS or not, a FIN alone says that nothing more is asked: also where close_notify is left out.
    fn a_bare_fin_counts(path) {
        let rig = Rig::new(path);
        let (origin, conn) = asked(&rig);
        conn.stream().shutdown(Shutdown::Write).expect("a FIN");
        wait::until_true("the server is told", || origin.open() == 0);
    }
}

/// A server that has a request and reads until its client's end, as one does that watches for it while it thinks.
pub(crate) fn asked(rig: &Rig) -> (Origin, Conn) {
    let (asked, asking) = channel();
    let origin = rig.serve(move |peer| {
        peer.must_request()?;
        asked.send(()).expect("the test waits");
        let _ = peer.rest();
        Ok(())
    });
    let mut conn = rig.connect();
    conn.send("GET", "/", &[], b"");
    asking.recv_timeout(HANG).expect("the request came");
    (origin, conn)
}
