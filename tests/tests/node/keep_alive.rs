//! One connection, many requests: in order, each answered by its own server.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portsplice_tests::client::End;
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::{over_gateway, over_paths, pattern, wait};

over_paths! {
    /// 1,000 requests of all sorts on one connection, over one connection to the server.
    fn a_thousand_requests(path) {
        let rig = Rig::with(path, |config| {
            // However long it takes.
            config.set("limits", "upstream-idle-timeout", "\"1h\"");
        });
        let origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        for i in 0..1000_usize {
            let len = (i * 37) % 5000;
            match i % 5 {
                0 => assert_eq!(conn.get(&format!("/bytes/{len}")).body, pattern::bytes(len)),
                1 => assert_eq!(conn.get(&format!("/chunked/{len}")).body, pattern::bytes(len)),
                2 => {
                    let answer = conn.post("/sink", &pattern::bytes(len)).text();
                    assert_eq!(answer, format!("{len} {}\n", pattern::sha256(len as u64)));
                }
                3 => {
                    conn.send("HEAD", &format!("/bytes/{len}"), &[], b"");
                    let response = conn.response();
                    assert_eq!(response.head.get("content-length"), Some(len.to_string().as_str()));
                }
                _ => assert_eq!(conn.get("/status/204").status(), 204),
            }
        }
        // A server that blocks gets a new connection after an answer on the fast path.
        assert!(origin.accepted() == 1 || path == Path::Fast, "{} connections", origin.accepted());
    }

    /// 200 requests at once, with and without bodies, answered in order.
    fn two_hundred_pipelined(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(|peer| {
            while let Some(request) = peer.request()? {
                let answer = format!("{} {}", request.head.target(), String::from_utf8_lossy(&request.body));
                peer.respond("200 OK", answer)?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        let mut all = Vec::new();
        for i in 0..200 {
            match i % 3 {
                0 => all.extend(conn.head_for("GET", &format!("/{i}"), &[])),
                1 => {
                    let body = format!("body of {i}");
                    all.extend(conn.head_for("POST", &format!("/{i}"), &[&format!("Content-Length: {}", body.len())]));
                    all.extend(body.into_bytes());
                }
                _ => {
                    all.extend(conn.head_for("POST", &format!("/{i}"), &["Transfer-Encoding: chunked"]));
                    all.extend(b"5\r\nchunk\r\n3;ext=1\r\n ed\r\n0\r\n\r\n");
                }
            }
        }
        conn.write(&all);
        for i in 0..200 {
            let body = match i % 3 {
                0 => String::new(),
                1 => format!("body of {i}"),
                _ => "chunk ed".to_owned(),
            };
            assert_eq!(conn.response().text(), format!("/{i} {body}"));
        }
        origin.check();
    }

    /// Pipelined requests that arrive a few bytes at a time, cut anywhere.
    fn pipelined_in_pieces(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        let mut all = Vec::new();
        for i in 0..20 {
            all.extend(conn.head_for("POST", "/sink", &[&format!("Content-Length: {i}")]));
            all.extend(pattern::bytes(i));
        }
        for piece in all.chunks(7) {
            conn.write(piece);
        }
        for i in 0..20 {
            assert_eq!(conn.response().text(), format!("{i} {}\n", pattern::sha256(i)));
        }
    }

    /// A client that closes its sending side after a request still gets the answer.
    fn client_half_closes_after_its_request(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        conn.send("GET", "/bytes/1000000", &[], b"");
        conn.half_close();
        assert_eq!(conn.response().body, pattern::bytes(1_000_000));
        assert_eq!(conn.end(), End::Clean);
    }

    /// `Connection: close` is honoured.
    fn client_asks_to_close(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        conn.send("GET", "/bytes/10", &["Connection: close"], b"");
        let response = conn.response();
        assert_eq!(response.body, pattern::bytes(10));
        if path.has_gateway() {
            assert!(response.head.lists("connection", "close"), "{:?}", response.head);
        }
        assert_eq!(conn.end(), End::Clean);
    }
}

over_gateway! {
    /// A server that closes after each response costs the client's connection nothing.
    fn server_closes_each_time(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(|peer| {
            let request = peer.must_request()?;
            peer.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")?;
            assert!(!request.head.lists("connection", "close") || request.head.target() == "/last");
            Ok(())
        });
        let mut conn = rig.connect();
        for i in 0..20 {
            let response = conn.get(&format!("/{i}"));
            assert_eq!(response.text(), "ok");
            assert!(!response.head.lists("connection", "close"), "{:?}", response.head);
        }
        assert_eq!(origin.accepted(), 20);
        origin.check();
    }

    /// A server that closes an idle connection without a word: the next request gets a new one, not an error.
    fn server_closes_while_idle(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(|peer| {
            let request = peer.must_request()?;
            peer.respond("200 OK", request.body)
        });
        let mut conn = rig.connect();
        assert_eq!(conn.post("/", b"first").status(), 200);
        wait::until_true("the server has closed", || origin.open() == 0);
        let sockets = || rig.node().open_sockets();
        let idle = wait::until_steady("open sockets", std::time::Duration::from_millis(200), sockets);
        for i in 0..20 {
            let body = format!("number {i}");
            let response = conn.post("/", body.as_bytes());
            assert_eq!((response.status(), response.text()), (200, body));
            wait::until_true("the server has closed", || origin.open() == 0);
            // Pacing may hold the FIN back for a moment; a request that cannot be sent twice would then get a 502.
            wait::until_true("the node has let its connection go", || sockets() <= idle);
        }
        assert_eq!(origin.accepted(), 21);
    }

    /// Requests for another port and another container on the same connection each reach their own.
    fn second_container_on_one_connection(path) {
        let other_netns = portsplice_tests::net::Netns::new();
        let other_name = "zzzzz-dz642-another00000000";
        let rig = Rig::with(path, |config| {
            config.container(other_name, &format!("netns = {:?}\n", other_netns.path()));
        });
        let say = |what: &'static str| move |peer: &mut portsplice_tests::origin::Peer| {
            while let Some(request) = peer.request()? {
                peer.respond("200 OK", format!("{what}{}", request.head.target()))?;
            }
            Ok(())
        };
        let first = rig.serve(say("first"));
        let second = Origin::start(&rig.netns, "127.0.0.1:0", say("second"));
        // The same port number as the first's, in the other namespace.
        let other = Origin::start(&other_netns, &format!("127.0.0.1:{}", first.port()), say("other"));
        let mut conn = rig.connect();
        let here = rig.name.clone();
        let places = [(here.as_str(), first.port(), "first"), (&here, second.port(), "second"), (other_name, other.port(), "other")];
        let go_to = |conn: &mut portsplice_tests::client::Conn, i: usize| {
            let (uuid, port, says) = places[(i * 7 + i / 3) % 3];
            let caller = conn.caller.as_mut().expect("signed");
            (caller.uuid, caller.port) = (uuid.to_owned(), port);
            says
        };
        for i in 0..30 {
            let says = go_to(&mut conn, i);
            assert_eq!(conn.get(&format!("/{i}")).text(), format!("{says}/{i}"));
        }
        // And pipelined.
        let mut all = Vec::new();
        let mut expected = Vec::new();
        for i in 0..30 {
            let says = go_to(&mut conn, i);
            all.extend(conn.head_for("GET", &format!("/p{i}"), &[]));
            expected.push(format!("{says}/p{i}"));
        }
        conn.write(&all);
        for want in expected {
            assert_eq!(conn.response().text(), want);
        }
    }

    /// What a server sends beyond its answer is not the answer to somebody's next request.
    fn unasked_answers_are_not_delivered(path) {
        let rig = Rig::new(path);
        let turn = Arc::new(AtomicUsize::new(0));
        let _origin = rig.serve(move |peer| {
            while let Some(request) = peer.request()? {
                let n = turn.fetch_add(1, Ordering::SeqCst);
                let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
                let answer = request.head.target().to_owned();
                peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}{evil}", answer.len()))?;
                assert!(n < 100);
            }
            Ok(())
        });
        for _ in 0..5 {
            let mut conn = rig.connect();
            assert_eq!(conn.get("/one").text(), "/one");
            std::thread::sleep(std::time::Duration::from_millis(5));
            let request = conn.head_for("GET", "/two", &[]);
            // The connection may be cut instead: then there is no answer at all.
            if conn.writer().write_all(&request).is_ok()
                && let Ok(Some(head)) = conn.input().head()
            {
                let (body, _) = conn.input().body(head.response_framing("GET")).expect("a body");
                assert_eq!(String::from_utf8_lossy(&body), "/two");
            }
        }
    }
}
