//! The table of gateway errors: each with its status, one line of advice, its proof or none, and the connection's fate.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::Duration;

use portsplice_tests::client::{Conn, Proof, Response};
use portsplice_tests::node::NodeConfig;
use portsplice_tests::origin::contract;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::{pattern, privileged, wait};

use portsplice_tests::over_gateway;

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Closes,
    GoesOn,
}

/// Reads a gateway error and checks all that every refusal promises.
#[track_caller]
fn refusal(rig: &Rig, conn: &mut Conn, what: &str, status: u16, proof: Proof, then: Then) -> Response {
    let response = conn.response_with(proof);
    assert_eq!(response.status(), status, "{what}: {response:?}");
    let text = response.text();
    assert!(
        text.ends_with('\n') && text.lines().count() == 1 && text.len() > 20,
        "{what}: one line of advice: {text:?}"
    );
    let kind = response.head.get("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain"), "{what}: {kind:?}");
    let root = &rig.node().site.root;
    let key = portsplice_tests::sign::container_key(root, &rig.name);
    for secret in [root.as_str(), &key, &rig.name] {
        assert!(!text.contains(secret), "{what}: {text:?} tells {secret:?}");
    }
    match then {
        Then::Closes => {
            assert!(response.head.lists("connection", "close"), "{what}: {response:?}");
            // Whether by FIN or RST does not matter once the answer is there.
            conn.end();
        }
        Then::GoesOn => {
            assert!(!response.head.lists("connection", "close"), "{what}: {response:?}");
        }
    }
    response
}

/// A connection on which nobody signs by itself: the tests here write heads of their own.
fn raw(rig: &Rig, head: &str) -> Conn {
    let mut conn = rig.connect();
    conn.owe("GET", None);
    conn.write(head.as_bytes());
    conn
}

over_gateway! {
    /// Before the credential is looked at: no proof is due, and the connection closes.
    fn malformed_requests(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(contract::serve);
        let lines = {
            let conn = rig.connect();
            let caller = conn.caller.as_ref().expect("signed");
            caller.lines(&caller.credential("GET", "/", conn.channel()).value)
        };
        let host = "Host: container.test\r\n";
        let many: String = (0..130).map(|i| format!("X-{i}: 1\r\n")).collect();
        let cases = [
            ("no host", format!("GET / HTTP/1.1\r\n{lines}\r\n"), 400),
            ("two hosts", format!("GET / HTTP/1.1\r\n{host}{host}{lines}\r\n"), 400),
            ("bare line feed", format!("GET / HTTP/1.1\n{host}{lines}\r\n"), 400),
            ("space before the colon", format!("GET / HTTP/1.1\r\n{host}A : b\r\n{lines}\r\n"), 400),
            ("folded line", format!("GET / HTTP/1.1\r\n{host}A: b\r\n c\r\n{lines}\r\n"), 400),
            ("both framings", format!("POST / HTTP/1.1\r\n{host}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n{lines}\r\n"), 400),
            ("two lengths", format!("POST / HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 2\r\n{lines}\r\n"), 400),
            ("chunks in HTTP/1.0", format!("POST / HTTP/1.0\r\n{host}Transfer-Encoding: chunked\r\n{lines}\r\n"), 400),
            ("nominated credential", format!("GET / HTTP/1.1\r\n{host}Connection: X-Arvados-Authorization\r\n{lines}\r\n"), 400),
            ("unknown coding", format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n{lines}\r\n"), 501),
            ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), 505),
            ("head too large", format!("GET / HTTP/1.1\r\n{host}A: {}\r\n{lines}\r\n", "a".repeat(70_000)), 431),
            ("too many fields", format!("GET / HTTP/1.1\r\n{host}{many}{lines}\r\n"), 431),
            ("target too long", format!("GET /{} HTTP/1.1\r\n{host}{lines}\r\n", "a".repeat(17_000)), 414),
            ("CONNECT", format!("CONNECT container.test:80 HTTP/1.1\r\n{host}{lines}\r\n"), 405),
            ("TLS on this port", "\x16\x03\x01\x02\x00\x01\x00".to_owned(), 400),
        ];
        for (what, head, status) in cases {
            let mut conn = raw(&rig, &head);
            refusal(&rig, &mut conn, what, status, Proof::Absent, Then::Closes);
        }
        assert_eq!(origin.accepted(), 0, "none of it may reach the server");
    }

    /// A head without a body's end: the gateway error does not wait for more.
    fn refusals_do_not_wait(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        for head in ["GET / HTTP/1.1\n", "\r\n\r\n GET", "G\0T", "GET / HTTP/1.1\r\n A: b"] {
            let mut conn = raw(&rig, head);
            refusal(&rig, &mut conn, head, 400, Proof::Absent, Then::Closes);
        }
    }

    /// Gateway errors of authenticated requests carry the proof, and the connection goes on.
    fn authenticated_refusals(path) {
        let denied = "zzzzz-dz642-denied000000000";
        let limited = "zzzzz-dz642-limited00000000";
        let capped = "zzzzz-dz642-capped000000000";
        let netns = portsplice_tests::net::Netns::new();
        let rig = Rig::with(path, |config| {
            let at = format!("netns = {:?}\n", netns.path());
            config.container(denied, &format!("{at}deny = true\n"));
            config.container(limited, &format!("{at}ports = [1, 2]\n"));
            config.container(capped, &format!("{at}max-connections = 0\n"));
        });
        let origin = rig.serve(contract::serve);
        let nobody = rig.netns.free_port();
        let cases = [
            ("unknown container", "zzzzz-dz642-nowhere00000000", 80, 421),
            ("connections denied", denied, 80, 403),
            ("port not allowed", limited, 3, 403),
            ("no connections for good", capped, 80, 403),
            ("nothing listens", &rig.name, nobody, 502),
            ("nothing listens on an allowed port", limited, 1, 502),
        ];
        let mut conn = rig.connect();
        let good = conn.caller.clone();
        for (what, uuid, port, status) in cases {
            let caller = conn.caller.as_mut().expect("signed");
            (caller.uuid, caller.port) = (uuid.to_owned(), port);
            for method in ["GET", "HEAD"] {
                conn.send(method, "/", &[], b"");
                if method == "HEAD" {
                    let response = conn.response();
                    assert_eq!((response.status(), response.body.len()), (status, 0), "{what}");
                } else {
                    refusal(&rig, &mut conn, what, status, Proof::Owed, Then::GoesOn);
                }
            }
            // With a small body that was sent: the next request must not be looked for inside it.
            conn.send("POST", "/", &["Content-Length: 40"], b"GET /smuggled HTTP/1.1\r\nHost: evil\r\n\r\nxxx");
            let response = conn.response();
            assert_eq!(response.status(), status, "{what}");
            if response.head.lists("connection", "close") {
                conn = rig.connect();
            }
            conn.caller = good.clone();
            assert_eq!(conn.get("/bytes/7").body, pattern::bytes(7), "after {what}");
        }
        origin.check();
    }

    /// A client that sends a large body to a place that refuses it can read the gateway error.
    fn refusals_of_large_uploads_arrive(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        conn.caller.as_mut().expect("signed").uuid = "zzzzz-dz642-nowhere00000000".to_owned();
        let len = 4 << 20;
        let head = conn.head_for("POST", "/", &[&format!("Content-Length: {len}")]);
        conn.write(&head);
        let mut writer = conn.writer();
        let response = std::thread::scope(|scope| {
            scope.spawn(move || pattern::write_to(&mut writer, len, 65536).is_ok());
            conn.response()
        });
        assert_eq!(response.status(), 421);
    }

    /// A client that asked for permission to send its body is refused before it sends any.
    fn refusal_instead_of_100(path) {
        let rig = Rig::new(path);
        rig.use_port(rig.netns.free_port());
        let mut conn = rig.connect();
        let head = conn.head_for("PUT", "/", &["Expect: 100-continue", "Content-Length: 1000000000"]);
        conn.write(&head);
        let response = conn.response();
        assert!(response.interim.is_empty(), "{response:?}");
        assert_eq!(response.status(), 502);
    }

    /// An expectation that nobody can meet.
    fn unknown_expectation(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        conn.send("GET", "/", &["Expect: the-unexpected"], b"");
        assert_eq!(conn.response_with(Proof::Absent).status(), 417);
    }

    /// The server accepts nothing: its backlog is full.
    fn connect_timeout(path) {
        let rig = Rig::with(path, |config| {
            config.set("limits", "connect-timeout", "\"300ms\"");
        });
        let (listener, _fill) = full_backlog(&rig);
        rig.use_port(listener.local_addr().expect("bound").port());
        let mut conn = rig.connect();
        conn.send("GET", "/", &[], b"");
        refusal(&rig, &mut conn, "a full backlog", 504, Proof::Owed, Then::GoesOn);
    }

    /// The server accepts and says nothing, where a limit for that is set.
    fn response_header_timeout(path) {
        let rig = Rig::with(path, |config| {
            config.set("limits", "response-header-timeout", "\"300ms\"");
        });
        let origin = rig.serve(|peer| {
            while let Some(request) = peer.request()? {
                if request.head.target() == "/never" {
                    let _ = peer.rest();
                    return Ok(());
                }
                peer.respond("200 OK", "ok")?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        assert_eq!(conn.get("/").text(), "ok");
        conn.send("GET", "/never", &[], b"");
        refusal(&rig, &mut conn, "no answer", 504, Proof::Owed, Then::GoesOn);
        wait::until_true("the silent server is cut off", || origin.open() == 0);
        assert_eq!(conn.get("/").text(), "ok");
    }

    /// A head that does not come to its end.
    fn head_timeout(path) {
        let rig = Rig::with(path, |config| {
            config.set("limits", "head-timeout", "\"300ms\"");
        });
        let _origin = rig.serve(contract::serve);
        let mut conn = raw(&rig, "GET / HTTP/1.1\r\nHost: a");
        refusal(&rig, &mut conn, "half a head", 408, Proof::Absent, Then::Closes);
        // Also after a good request, and for one who sends a byte now and then.
        let mut conn = rig.connect();
        assert_eq!(conn.get("/bytes/1").status(), 200);
        conn.owe("GET", None);
        let mut writer = conn.writer();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for byte in b"GET / HTTP/1.1\r\nHost: container.test\r\nA: ".iter().chain(std::iter::repeat(&b'a')).take(2000) {
                    if std::io::Write::write_all(&mut writer, &[*byte]).is_err() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
            refusal(&rig, &mut conn, "a head in drops", 408, Proof::Absent, Then::Closes);
            drop(conn);
        });
    }

    /// An idle kept-alive connection is closed in order, without a word that could be taken for an answer.
    fn keep_alive_timeout(path) {
        let rig = Rig::with(path, |config| {
            config.set("limits", "keep-alive-timeout", "\"300ms\"");
        });
        let _origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        assert_eq!(conn.get("/bytes/1").status(), 200);
        let (bytes, _) = conn.rest();
        assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 408 "), "{:?}", String::from_utf8_lossy(&bytes));
    }

    /// A stream in which nothing moves for the idle timeout is reset; one in which something does is not.
    fn idle_timeout(path) {
        let rig = Rig::with(path, |config| {
            config.set("limits", "idle-timeout", "\"700ms\"");
        });
        let _origin = rig.serve(|peer| {
            let request = peer.must_request()?;
            peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            contract::chunk(peer, b"x")?;
            if request.head.target() == "/alive" {
                for _ in 0..20 {
                    std::thread::sleep(Duration::from_millis(100));
                    contract::chunk(peer, b"x")?;
                }
                return peer.write("0\r\n\r\n");
            }
            let _ = peer.rest();
            Ok(())
        });
        let mut alive = rig.connect();
        alive.send("GET", "/alive", &[], b"");
        let mut idle = rig.connect();
        idle.send("GET", "/idle", &[], b"");
        assert_eq!(alive.response().text(), "x".repeat(21));
        let head = idle.any_head();
        assert!(idle.input().body(head.response_framing("GET")).is_err());
    }

    /// With `hold`, a request waits for a server that is about to listen.
    fn hold_waits_for_a_listener(path) {
        let rig = Rig::with(path, |config| {
            config.set("containers", "wait-for-port", "\"30s\"");
        });
        let port = rig.netns.free_port();
        rig.use_port(port);
        let mut conn = rig.connect();
        conn.send("GET", "/bytes/9", &[], b"");
        // No promise about when; only that the request is not refused meanwhile.
        std::thread::sleep(Duration::from_millis(300));
        assert!(conn.is_quiet(), "the request was not held");
        let _origin = portsplice_tests::origin::Origin::start(&rig.netns, &format!("127.0.0.1:{port}"), contract::serve);
        assert_eq!(conn.response().body, pattern::bytes(9));
    }

    /// `hold` ends: then nothing listens.
    fn hold_ends(path) {
        let rig = Rig::with(path, |config| {
            config.set("containers", "wait-for-port", "\"300ms\"");
        });
        rig.use_port(rig.netns.free_port());
        let mut conn = rig.connect();
        conn.send("GET", "/", &[], b"");
        refusal(&rig, &mut conn, "held in vain", 502, Proof::Owed, Then::GoesOn);
    }
}

/// A listener in the container whose queue of connections is full, so that a further SYN gets no answer.
pub(crate) fn full_backlog(rig: &Rig) -> (TcpListener, Vec<socket2::Socket>) {
    rig.netns.enter(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let any: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&any.into()).expect("bound");
        socket.listen(0).expect("listening");
        let listener = TcpListener::from(socket);
        let address = listener.local_addr().expect("bound");
        let fill = (0..8).map(|_| {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("non-blocking");
            let _ = socket.connect(&address.into());
            assert!(socket.as_fd().try_clone_to_owned().is_ok());
            socket
        });
        let fill = fill.collect();
        // The first ones have to be queued before the gateway comes.
        std::thread::sleep(Duration::from_millis(50));
        (listener, fill)
    })
}

/// Handshakes that do not come to their end, or are none.
#[test]
fn tls_handshakes_that_fail() {
    if !privileged() {
        return;
    }
    let rig = Rig::with(Path::Tls, |config: &mut NodeConfig| {
        config.set("limits", "handshake-timeout", "\"300ms\"");
    });
    let _origin = rig.serve(contract::serve);
    let node = rig.node();
    for first in [&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut conn = Conn::plain(node.tcp(node.tls[0]), None);
        conn.write(first);
        let (bytes, _) = conn.rest();
        assert!(!bytes.starts_with(b"HTTP/1.1 200"), "{first:?}");
    }
    assert_eq!(rig.connect().get("/bytes/2").body, pattern::bytes(2));
}
