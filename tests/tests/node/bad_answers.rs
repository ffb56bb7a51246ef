//! A container's response that could be read in two ways, or in none, never reaches the client as if it were sound.

use portsplice_tests::client::{Conn, End};
use portsplice_tests::rig::Rig;

use portsplice_tests::over_gateway;

/// Answers nothing of which may pass: the client gets the gateway's 502.
const REFUSED: [(&str, &str); 26] = [
    ("silence", ""),
    ("garbage", "\0\x01\x02 hello\r\n\r\n"),
    ("another protocol", "220 mail.test ESMTP\r\n"),
    ("HTTP/0.9", "<html>hello</html>"),
    ("an unfinished head", "HTTP/1.1 200 OK\r\nContent-Le"),
    ("both framings", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    ("two lengths in one", "HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello!"),
    ("a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
    ("a signed length", "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello"),
    ("a hexadecimal length", "HTTP/1.1 200 OK\r\nContent-Length: 0x5\r\n\r\nhello"),
    ("a huge length", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nhello"),
    ("an empty length", "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nhello"),
    ("an unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello"),
    ("a coding after chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nhello"),
    ("chunked twice", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("chunks in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("bare line feeds", "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"),
    ("one bare line feed", "HTTP/1.1 200 OK\r\nA: b\nContent-Length: 5\r\n\r\nhello"),
    ("a folded line", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 5\r\n\r\nhello"),
    ("a control character", "HTTP/1.1 200 OK\r\nA: b\x01c\r\nContent-Length: 5\r\n\r\nhello"),
    ("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("a status of 99", "HTTP/1.1 099 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ("another version", "HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    (
        "a switch nobody asked for",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ),
    ("a bare switch", "HTTP/1.1 101 Switching Protocols\r\n\r\n"),
];

/// Answers that begin well: what has gone out cannot be taken back, so the connection is reset.
const CUT: [(&str, &str); 8] = [
    ("a body too short", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello"),
    ("no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ("half a chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello"),
    ("a chunk size that is none", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nxyz\r\n"),
    ("a huge chunk size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nfffffffffffffffff\r\n"),
    ("a chunk longer than it says", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n0\r\n\r\n"),
    ("bare line feeds between chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n"),
    ("an unfinished trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b"),
];

/// A server that gives one answer, whatever it is asked.
fn serve(rig: &Rig, answer: &'static str) -> portsplice_tests::origin::Origin {
    rig.serve(move |peer| {
        if peer.request()?.is_some() {
            peer.write(answer)?;
        }
        Ok(())
    })
}

/// Checks a 502 that the gateway made: one line of advice, and its proof.
#[track_caller]
fn refused(conn: &mut Conn, what: &str) {
    let response = conn.response();
    assert_eq!(response.status(), 502, "{what}: {response:?}");
    let text = response.text();
    assert!(text.ends_with('\n') && text.lines().count() == 1, "{what}: {text:?}");
}

over_gateway! {
    /// What cannot be read gives 502, with the gateway's proof and one line of advice.
    fn unreadable_answers_are_refused(path) {
        let rig = Rig::new(path);
        for (what, answer) in REFUSED {
            let _origin = serve(&rig, answer);
            let mut conn = rig.connect();
            conn.send("GET", "/", &[], b"");
            refused(&mut conn, what);
        }
    }

    /// A head beyond all limits is not gathered without end.
    fn endless_heads_are_refused(path) {
        let rig = Rig::new(path);
        for endless_line in [true, false] {
            let origin = rig.serve(move |peer| {
                if peer.request()?.is_some() {
                    peer.write("HTTP/1.1 200 OK\r\n")?;
                    loop {
                        peer.write(if endless_line { "A: bbbbbbbbbbbbbbbbb".replace(' ', "") } else { "A: b\r\n".to_owned() })?;
                    }
                }
                Ok(())
            });
            let mut conn = rig.connect();
            conn.send("GET", "/", &[], b"");
            refused(&mut conn, "an endless head");
            portsplice_tests::wait::until_true("the server is cut off", || origin.open() == 0);
        }
    }

    /// A 204 with a body does not put its bytes before the next answer.
    fn a_204_with_a_body_is_not_desynchronised(path) {
        let rig = Rig::new(path);
        let _origin = serve(&rig, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello");
        let mut conn = rig.connect();
        conn.send("GET", "/", &[], b"");
        let response = conn.response();
        assert_eq!((response.status(), response.head.get("content-length")), (204, None));
        assert!(!response.text().contains("hello"));
        conn.send("GET", "/", &[], b"");
        assert_eq!(conn.response().status(), 204, "its body is nobody's answer");
    }

    /// What RFC 9112 tells an intermediary to mend in a response is mended, and the next one is read in its place.
    fn answers_are_mended(path) {
        let rig = Rig::new(path);
        let chunks = "5   \r\nhello\r\n000001 \t\r\n!\r\n0 \r\nX-Sum : 1\r\n\r\n";
        for (what, answer, status, body) in [
            ("a space before the colon", "HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length : 5\r\n\r\nhello".to_owned(), 200, "hello"),
            ("blanks behind a chunk's size", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n{chunks}"), 200, "hello!"),
            ("a coding of no body", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), 204, ""),
            ("a coding and its end", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 204, ""),
            ("a coding of no interim body", "HTTP/1.1 103 Hints\r\nTransfer-Encoding: chunked\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello".to_owned(), 200, "hello"),
        ] {
            let _origin = rig.serve(move |peer| {
                while peer.request()?.is_some() {
                    peer.write(&answer)?;
                }
                Ok(())
            });
            let mut conn = rig.connect();
            for _ in 0..3 {
                let response = conn.get("/");
                assert_eq!((response.status(), response.text().as_str()), (status, body), "{what}");
                assert!(status == 200 || response.head.get("transfer-encoding").is_none(), "{what}: {response:?}");
                assert!(response.interim.iter().all(|head| head.get("transfer-encoding").is_none()), "{what}");
            }
        }
    }

    /// An answer that fails after its beginning went out ends in a cut, never in a tidy end.
    fn broken_bodies_are_cut(path) {
        let rig = Rig::new(path);
        for (what, answer) in CUT {
            let _origin = serve(&rig, answer);
            let mut conn = rig.connect();
            conn.send("GET", "/", &[], b"");
            let head = conn.any_head();
            if head.status() == 502 {
                // Nothing had gone out yet.
                continue;
            }
            assert_eq!(head.status(), 200, "{what}");
            let read = conn.input().body(head.response_framing("GET"));
            assert!(read.is_err(), "{what}: passed for whole: {:?}", read);
        }
    }

    /// For a client of HTTP/1.0 the end of the connection is the end of the body, so only a reset can say that it failed.
    fn broken_chunks_are_cut_for_http10(path) {
        let rig = Rig::new(path);
        for (what, answer) in CUT {
            if !answer.contains("chunked") {
                continue;
            }
            let _origin = serve(&rig, answer);
            let mut conn = rig.connect();
            let head = String::from_utf8(conn.head_for("GET", "/", &[])).expect("text").replace("HTTP/1.1", "HTTP/1.0");
            conn.write(head.as_bytes());
            let head = match conn.input().head() {
                Ok(Some(head)) => head,
                Ok(None) => panic!("{what}: a tidy end without an answer"),
                Err(_) => continue,
            };
            if head.status() == 502 {
                continue;
            }
            assert_eq!(head.get("transfer-encoding"), None, "{what}");
            let (_, end) = conn.rest();
            assert_eq!(end, End::Cut, "{what}");
        }
    }

    /// An upgrade is open only once the server has agreed to the very protocol that was offered.
    fn only_the_offered_protocol_is_switched_to(path) {
        let rig = Rig::new(path);
        let offers = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="];
        for answer in [
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
        ] {
            let _origin = serve(&rig, answer);
            let mut conn = rig.connect();
            conn.send("GET", "/", &offers, b"");
            refused(&mut conn, answer);
        }
        // Declined politely: the connection stays HTTP's.
        let _origin = rig.serve(|peer| {
            while peer.request()?.is_some() {
                peer.write("HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno")?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        for _ in 0..2 {
            conn.send("GET", "/", &offers, b"");
            assert_eq!(conn.response().status(), 426);
        }
    }
}
