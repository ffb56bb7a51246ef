//! Requests and responses of every framing arrive as they were meant (RFC 9112 section 6).

use std::io::Read;
use std::sync::mpsc::channel;

use portsplice_tests::client::{End, Proof};
use portsplice_tests::http::Framing;
use portsplice_tests::origin::{Request, contract};
use portsplice_tests::rig::Rig;
use portsplice_tests::{HANG, over_paths, pattern};

use portsplice_tests::over_gateway;

/// A chunked body whose chunks have all sorts of sizes, written in all legal spellings.
fn odd_chunks(len: usize) -> Vec<u8> {
    let bytes = pattern::bytes(len);
    let mut out = Vec::new();
    let (mut at, mut i) = (0, 0);
    while at < len {
        let size = [1, 15, 16, 255, 256, 4095, 4096, 65535, 65536, 70001][i % 10].min(len - at);
        let line = match i % 4 {
            0 => format!("{size:x}"),
            1 => format!("{size:X}"),
            2 => format!("000{size:x}"),
            _ => format!("{size:x};name=value;quoted=\"a;b\""),
        };
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&bytes[at..at + size]);
        out.extend_from_slice(b"\r\n");
        (at, i) = (at + size, i + 1);
    }
    out.extend_from_slice(b"0\r\n");
    out
}

over_paths! {
    /// A chunked upload, its trailers included.
    fn chunked_up(path) {
        const LEN: usize = 3_000_000;
        let rig = Rig::new(path);
        let (told, tell) = channel::<Request>();
        let _origin = rig.serve(move |peer| {
            while let Some(request) = peer.request()? {
                told.send(request).expect("the test waits");
                peer.respond("200 OK", "")?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        let mut body = odd_chunks(LEN);
        body.extend_from_slice(b"Digest: abc\r\nx-arvados-authorization: forged\r\n\r\n");
        conn.send("POST", "/", &["Transfer-Encoding: chunked", "Trailer: Digest"], &body);
        assert_eq!(conn.response().status(), 200);
        let request = tell.recv_timeout(HANG).expect("a request");
        assert_eq!(request.head.request_framing(), Framing::Chunked);
        assert!(request.body == pattern::bytes(LEN), "{} bytes", request.body.len());
        assert_eq!(request.trailers[0], ("Digest".to_owned(), "abc".to_owned()));
        assert_eq!(request.trailers.len(), if path.has_gateway() { 1 } else { 2 });
        // An empty one.
        conn.send("POST", "/", &["Transfer-Encoding: chunked"], b"0\r\n\r\n");
        assert_eq!(conn.response().status(), 200);
        assert_eq!(tell.recv_timeout(HANG).expect("a request").body, b"");
    }

    /// A chunked response, its trailers included.
    fn chunked_down(path) {
        const LEN: usize = 3_000_000;
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            while peer.request()?.is_some() {
                let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Digest\r\n\r\n".to_vec();
                answer.extend(odd_chunks(LEN));
                answer.extend(b"Digest: abc\r\nContent-Length: 3\r\n\r\n");
                peer.write(answer)?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        for _ in 0..3 {
            let response = conn.get("/");
            assert!(response.body == pattern::bytes(LEN), "{} bytes", response.body.len());
            assert_eq!(response.trailers[0], ("Digest".to_owned(), "abc".to_owned()));
            // A trailer must not change a message's framing (RFC 9110 section 6.5.1).
            assert_eq!(response.trailers.len(), if path.has_gateway() { 1 } else { 2 });
        }
    }

    /// Responses without content, whatever they announce, leave the connection in step.
    fn no_content(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            while let Some(request) = peer.request()? {
                let answer = match request.head.target() {
                    "/204" => "HTTP/1.1 204 No Content\r\nX-Kept: 1\r\n\r\n",
                    "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 1000\r\n\r\n",
                    "/304-chunked" => "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
                    "/205" => "HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",
                    "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
                    "/head-chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                    "/head-bare" => "HTTP/1.1 200 OK\r\nX-Kept: 1\r\n\r\n",
                    _ => "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nstep",
                };
                peer.write(answer)?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        let cases = [
            ("GET", "/204", 204),
            ("GET", "/304", 304),
            ("GET", "/304-chunked", 304),
            ("GET", "/205", 205),
            ("HEAD", "/head", 200),
            ("HEAD", "/head-chunked", 200),
            ("HEAD", "/head-bare", 200),
            ("HEAD", "/304", 304),
        ];
        for (method, target, status) in cases {
            conn.send(method, target, &[], b"");
            let response = conn.response();
            assert_eq!((response.status(), response.body.len()), (status, 0), "{method} {target}");
            if target == "/head" || target == "/304" {
                assert_eq!(response.head.get("content-length"), Some("1000"), "{method} {target}");
            }
            assert_eq!(conn.get("/in").text(), "step", "after {method} {target}");
        }
    }

    /// Interim responses pass, in order, before the final one.
    fn interim_responses(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            while peer.request()?.is_some() {
                peer.write("HTTP/1.1 102 Processing\r\n\r\n")?;
                peer.write("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>; rel=preload\r\n\r\n")?;
                peer.write("HTTP/1.1 103 Early Hints\r\nLink: </c>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        for _ in 0..3 {
            let response = conn.get("/");
            let seen: Vec<u16> = response.interim.iter().map(portsplice_tests::http::Head::status).collect();
            assert_eq!(seen, [102, 103, 103]);
            assert_eq!(response.interim[1].all("link").collect::<Vec<_>>(), ["</a>; rel=preload", "</b>; rel=preload"]);
            assert_eq!(response.text(), "ok");
        }
    }

    /// An interim response is with the client before the final one exists.
    fn interim_at_once(path) {
        let rig = Rig::new(path);
        let (go, gate) = channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        let _origin = rig.serve(move |peer| {
            peer.must_request()?;
            peer.write("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")?;
            gate.lock().expect("gate").recv_timeout(HANG).expect("the client has it");
            peer.respond("200 OK", "ok")
        });
        let mut conn = rig.connect();
        conn.send("GET", "/", &[], b"");
        assert_eq!(conn.any_head().status(), 103);
        go.send(()).expect("the server waits");
        assert_eq!(conn.response().text(), "ok");
    }

    /// A response delimited by the connection's end arrives whole, and ends in order.
    fn until_close(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            let request = peer.must_request()?;
            let version = if request.head.target() == "/1.0" { "1.0" } else { "1.1" };
            peer.write(format!("HTTP/{version} 200 OK\r\nX-Kept: 1\r\n\r\n"))?;
            let mut out = peer.stream();
            pattern::write_to(&mut out, 3_000_000, 10_000)
        });
        for target in ["/1.0", "/1.1"] {
            let mut conn = rig.connect();
            conn.send("GET", target, &[], b"");
            let (_, head, framing) = conn.final_head(Proof::Owed);
            assert_eq!(head.get("x-kept"), Some("1"));
            assert_eq!(framing, Framing::UntilClose, "{head:?}");
            pattern::read_from(&mut conn, 3_000_000, 65536).expect("the whole body");
            assert_eq!(conn.end(), End::Clean);
        }
    }

    /// A server of HTTP/1.0 with lengths.
    fn http10_server(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            let request = peer.must_request()?;
            peer.write(format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{}", request.head.target().len(), request.head.target()))
        });
        for target in ["/a", "/longer"] {
            let mut conn = rig.connect();
            assert_eq!(conn.get(target).text(), target);
        }
    }

    /// A client of HTTP/1.0: no chunks for it, and the connection closes after the answer.
    fn http10_client(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(move |peer| {
            let request = peer.must_request()?;
            if path.has_gateway() {
                assert!(request.head.line.ends_with(" HTTP/1.1"), "{:?}", request.head.line);
                assert!(request.head.get("host").is_some());
                if request.head.target() == "/chunked" {
                    peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                    contract::chunk(peer, &pattern::bytes(100_000))?;
                    contract::chunk(peer, b"end")?;
                    return peer.write("0\r\nTrailer: gone\r\n\r\n");
                }
            }
            let mut body = pattern::bytes(100_000);
            body.extend(b"end");
            peer.respond("200 OK", body)
        });
        for target in ["/length", "/chunked"] {
            let mut conn = rig.connect();
            let head = String::from_utf8(conn.head_for("GET", target, &[])).expect("text");
            // Without Host, as such a client may.
            let head = head.replace("HTTP/1.1", "HTTP/1.0").replace("Host: container.test\r\n", "");
            conn.write(head.as_bytes());
            let (_, head, framing) = conn.final_head(Proof::Owed);
            assert_eq!(head.get("transfer-encoding"), None, "{head:?}");
            let mut check = pattern::Check::default();
            if let Framing::Length(n) = framing {
                assert_eq!(n, 100_003);
            }
            conn.input().exactly(100_000, &mut |part| check.update(part)).expect("the body");
            let mut end = [0; 3];
            conn.read_exact(&mut end).expect("the body's end");
            assert_eq!(&end, b"end");
            assert_eq!(conn.end(), End::Clean);
        }
    }
}

over_gateway! {
    /// What a server gets of a request, and what a client gets of a response, field by field.
    fn what_is_passed_on(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            while let Some(request) = peer.request()? {
                let fields: String = request.head.fields.iter().map(|(n, v)| format!("{n}: {v}\n")).collect();
                let all = format!("{}\n{fields}", request.head.line);
                peer.write(format!(
                    "HTTP/1.1 200 Very Fine\r\nServer: origin\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nKeep-Alive: timeout=5\r\n\
                     Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nX-Arvados-Authorization-Response: forged\r\nX_Arvados_Secret: 1\r\n\
                     Proxy-Connection: keep-alive\r\nContent-Length: {}\r\n\r\n{all}",
                    all.len()
                ))?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        let fields = [
            "Cookie: a=b; c=d",
            "Authorization: Bearer token",
            "Accept:   spaced \t ",
            "X-Empty:",
            "X-Twice: 1",
            "X-Twice: 2",
            "X-Forwarded-For: 192.0.2.1",
            "X-Forwarded-Host: site.test",
            "X-Forwarded-Proto: https",
            "Connection: keep-alive, X-Hop",
            "X-Hop: 1",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: Basic x",
            "TE: trailers",
            "X_Arvados_Authorization: forged",
            "x-arvados-anything: 1",
            "X-Utf8: gr\u{fc}n",
        ];
        conn.send("GET", "/path/../x%2F?q=1&r=%20", &fields, b"");
        let response = conn.response();
        let text = response.text();
        let mut lines: Vec<String> = text.lines().map(str::to_lowercase).collect();
        assert_eq!(lines.remove(0), "get /path/../x%2f?q=1&r=%20 http/1.1");
        for kept in [
            "host: container.test",
            "cookie: a=b; c=d",
            "authorization: bearer token",
            "accept: spaced",
            "x-empty: ",
            "x-twice: 1",
            "x-twice: 2",
            "x-forwarded-for: 192.0.2.1",
            "x-forwarded-host: site.test",
            "x-forwarded-proto: https",
        ] {
            assert_eq!(lines.iter().filter(|l| *l == kept).count(), 1, "{kept} in\n{text}");
        }
        assert_eq!(lines.iter().filter(|l| l.starts_with("x-utf8: ")).count(), 1, "{text}");
        for gone in ["via:", "x-hop", "keep-alive", "proxy-connection", "proxy-authorization", "x_arvados", "x-arvados"] {
            assert!(!lines.iter().any(|l| l.starts_with(gone)), "{gone} in\n{text}");
        }
        let head = &response.head;
        assert_eq!(head.line, "HTTP/1.1 200 Very Fine");
        assert_eq!(head.get("server"), Some("origin"));
        assert_eq!(head.all("set-cookie").collect::<Vec<_>>(), ["a=1", "b=2"]);
        for gone in ["x-hop", "keep-alive", "proxy-connection", "x_arvados_secret"] {
            assert_eq!(head.all(gone).count(), 0, "{gone} in {head:?}");
        }
    }

    /// Absolute-form becomes origin-form; the asterisk form stays.
    fn target_forms(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        // The host field agrees with the target, as RFC 9112 section 3.2.2 has a client do.
        conn.send("GET", "http://container.test/head?x=1", &[], b"");
        assert_eq!(conn.response().text().lines().next(), Some("GET /head?x=1 HTTP/1.1"));
    }
}
