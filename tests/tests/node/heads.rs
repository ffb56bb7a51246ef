//! Heads that come slowly, in numbers, or large: what they may cost, and who is told what.

use std::io::Write;
use std::time::Duration;

use portsplice_tests::client::{Conn, Proof};
use portsplice_tests::node::ListenOn;
use portsplice_tests::origin::{Origin, Peer, contract};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::{over_gateway, pattern, privileged, wait};

const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";

/// A server that gives these bytes over and over, until it is cut off.
fn endless(rig: &Rig, bytes: &'static str, pause: Duration) -> Origin {
    rig.serve(move |peer| {
        peer.must_request()?;
        loop {
            peer.write(bytes)?;
            std::thread::sleep(pause);
        }
    })
}

/// Asks as a client of HTTP/1.0.
fn ask_http10(conn: &mut Conn) {
    let head = String::from_utf8(conn.head_for("GET", "/", &[])).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    conn.write(head.as_bytes());
}

over_gateway! {
    /// Interim responses without end are ended, and the client is told why; one of HTTP/1.0 is sent none of them.
    fn endless_interim_responses(path) {
        let rig = Rig::new(path);
        let origin = endless(&rig, HINTS, Duration::ZERO);
        for old in [false, true] {
            let mut conn = rig.connect();
            if old { ask_http10(&mut conn) } else { conn.send("GET", "/", &[], b"") }
            let response = conn.response();
            assert_eq!(response.status(), 502, "{:?}", response.head);
            assert!(response.text().contains("too many interim responses (1xx)"), "{}", response.text());
            assert_eq!(response.interim.len(), if old { 0 } else { 256 });
            wait::until_true("the server is cut off", || origin.open() == 0);
        }
    }

    /// As many as an honest server sends pass, and so does the answer.
    fn some_interim_responses(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            while peer.request()?.is_some() {
                peer.write(HINTS.repeat(200))?;
                peer.respond("200 OK", "ok")?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        for _ in 0..2 {
            let response = conn.get("/");
            assert_eq!((response.interim.len(), response.text().as_str()), (200, "ok"));
        }
    }

    /// An interim response is not the answer: when that does not come, the client is told.
    fn an_end_after_an_interim_response(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            peer.must_request()?;
            peer.write(HINTS)
        });
        let mut conn = rig.connect();
        conn.send("GET", "/", &[], b"");
        let response = conn.response();
        assert_eq!((response.interim.len(), response.status()), (1, 502));
    }

    /// The time for an answer ends with its whole head: neither one that drips nor interim ones put it off.
    fn answer_timeout_is_a_deadline(path) {
        let rig = Rig::with(path, |config| {
            config.set("limits", "response-header-timeout", "\"500ms\"");
        });
        for (bytes, first) in [("X: y\r\n", "HTTP/1.1 200 OK\r\n"), (HINTS, "")] {
            let origin = rig.serve(move |peer| {
                peer.must_request()?;
                peer.write(first)?;
                loop {
                    peer.write(bytes)?;
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            let mut conn = rig.connect();
            conn.send("GET", "/", &[], b"");
            assert_eq!(conn.response().status(), 504, "{bytes:?}");
            wait::until_true("the server is cut off", || origin.open() == 0);
        }
        // A silent server is one too where the client waits for leave to send its body.
        let _origin = rig.serve(|peer| {
            peer.head()?;
            let _ = peer.rest();
            Ok(())
        });
        let mut conn = rig.connect();
        let head = conn.head_for("PUT", "/", &["Expect: 100-continue", "Content-Length: 5"]);
        conn.write(&head);
        assert_eq!(conn.response().status(), 504);
    }

    /// The same for the idle timeout: a server that sends nothing but interim responses moves nothing.
    fn interim_responses_are_no_activity(path) {
        let rig = Rig::with(path, |config| {
            config.set("limits", "idle-timeout", "\"700ms\"");
        });
        let _origin = endless(&rig, HINTS, Duration::from_millis(100));
        for old in [false, true] {
            let mut conn = rig.connect();
            if old { ask_http10(&mut conn) } else { conn.send("GET", "/", &[], b"") }
            assert_eq!(conn.response().status(), 504);
        }
    }

    /// The time for an answer begins when the request has been sent whole, however long that takes.
    fn uploads_take_none_of_the_answers_time(path) {
        let rig = Rig::with(path, |config| {
            config.set("limits", "response-header-timeout", "\"2s\"");
        });
        let _origin = rig.serve(|peer| {
            while let Some(head) = peer.head()? {
                if head.lists("expect", "100-continue") {
                    peer.write("HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                let (body, _) = peer.body(head.request_framing())?;
                peer.respond("200 OK", body.len().to_string())?;
            }
            Ok(())
        });
        for expect in [false, true] {
            let mut conn = rig.connect();
            let fields: &[&str] = if expect { &["Content-Length: 30", "Expect: 100-continue"] } else { &["Content-Length: 30"] };
            let head = conn.head_for("PUT", "/", fields);
            conn.write(&head);
            if expect {
                assert_eq!(conn.any_head().status(), 100);
            }
            for _ in 0..30 {
                std::thread::sleep(Duration::from_millis(100));
                conn.write(b"x");
            }
            assert_eq!(conn.response().text(), "30");
        }
    }

    /// As many and as long fields as the limits allow pass; beyond, body and setting say so.
    fn large_heads(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            while let Some(request) = peer.request()? {
                let n: usize = request.head.target().trim_start_matches('/').parse().unwrap_or_default();
                let links = "Link: </a.js>; rel=preload\r\n".repeat(n);
                let cookie = request.head.get("cookie").unwrap_or_default().len();
                peer.write(format!("HTTP/1.1 200 OK\r\n{links}X-Cookie: {cookie}\r\nContent-Length: 2\r\n\r\nok"))?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        let response = conn.get("/998");
        assert_eq!((response.status(), response.head.all("link").count()), (200, 998));
        for (target, setting) in [("/999", "limits.response-head-fields"), ("/9990", "limits.response-head-")] {
            let mut conn = rig.connect();
            let refused = conn.get(target);
            assert_eq!(refused.status(), 502);
            assert!(refused.text().contains(setting), "{}", refused.text());
        }
        conn.send("GET", "/1", &[&format!("Cookie: {}", "a".repeat(60_000))], b"");
        let response = conn.response();
        assert_eq!((response.status(), response.head.get("x-cookie")), (200, Some("60000")));
        let many: Vec<String> = (0..200).map(|i| format!("X-{i}: 1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let long = format!("Cookie: {}", "a".repeat(70_000));
        for (fields, setting) in [(&many[..], "limits.head-fields"), (&[&long[..]][..], "limits.head-bytes")] {
            let mut conn = rig.connect();
            conn.send("GET", "/1", fields, b"");
            let refused = conn.response_with(Proof::Absent);
            assert_eq!(refused.status(), 431);
            assert!(refused.text().contains(setting), "{}", refused.text());
        }
    }

    /// A server sees the client's request as one that came directly: no `Via`, and an upgrade in RFC 6455's spelling.
    fn what_servers_look_at(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            while let Some(request) = peer.request()? {
                let lines: Vec<String> = request.head.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
                peer.respond("200 OK", lines.concat())?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        let offer = ["via: 1.1 front", "connection: upgrade", "upgrade: websocket", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-Websocket-Version: 13", "x-own: 1"];
        conn.send("GET", "/", &offer, b"");
        let seen = conn.response().text();
        for line in ["Host: ", "Connection: Upgrade\n", "Upgrade: websocket\n", "Sec-WebSocket-Key: ", "Sec-WebSocket-Version: 13\n", "x-own: 1\n"] {
            assert!(seen.lines().any(|l| format!("{l}\n").starts_with(line)), "{line} in {seen}");
        }
        assert!(!seen.to_ascii_lowercase().contains("via:"), "{seen}");
    }
}

/// A request head that is whole but for its last bytes, large enough to count.
fn unfinished() -> Vec<u8> {
    let line = format!("X: {}\r\n", "a".repeat(7_900));
    format!("GET / HTTP/1.1\r\nHost: x\r\n{}Y: {}", line.repeat(7), "b".repeat(4_000)).into_bytes()
}

/// What is kept of unfinished heads is bounded; beyond, heads are refused, and those that come at once are not touched.
#[test]
fn unfinished_heads_have_a_budget() {
    if !privileged() {
        return;
    }
    let rig = Rig::with(Path::Splice, |config| {
        config.set("limits", "unfinished-heads-bytes", "1048576").set("limits", "connections-per-client", "0");
    });
    let _origin = rig.serve(contract::serve);
    let mut kept: Vec<Conn> = (0..40).map(|_| Conn::plain(rig.node().tcp(rig.node().plain[0]), None)).collect();
    for conn in &mut kept {
        conn.owe("GET", None);
        conn.write(&unfinished());
    }
    let refused = wait::until("heads are refused", || {
        let at = kept.iter().position(|conn| !conn.is_quiet())?;
        Some(kept.remove(at).response_with(Proof::Absent))
    });
    assert_eq!(refused.status(), 503);
    assert!(refused.head.get("retry-after").is_some() && refused.head.lists("connection", "close"));
    assert!(refused.text().contains("limits.unfinished-heads-bytes"), "{}", refused.text());
    assert!(rig.node().metric("portsplice_unfinished_heads_bytes", &[]) > 0.0);
    // Whole heads, however large, and the beginnings of ordinary ones are served all the same.
    let mut conn = rig.connect();
    conn.send("GET", "/bytes/5", &[&format!("Cookie: {}", "a".repeat(12_000))], b"");
    assert_eq!(conn.response().body, pattern::bytes(5));
    let head = conn.head_for("GET", "/bytes/5", &[]);
    let (first, rest) = head.split_at(head.len() - 10);
    conn.write(first);
    std::thread::sleep(Duration::from_millis(50));
    conn.write(rest);
    assert_eq!(conn.response().body, pattern::bytes(5));
    // And once those are gone, large ones that come in pieces are again.
    drop(kept);
    wait::until_true("nothing is kept", || rig.node().metric("portsplice_unfinished_heads_bytes", &[]) == 0.0);
    wait::until_true("there is room again", || {
        let mut conn = rig.connect();
        let head = conn.head_for("GET", "/bytes/5", &[&format!("Cookie: {}", "a".repeat(50_000))]);
        let (first, rest) = head.split_at(40_000);
        conn.write(first);
        std::thread::sleep(Duration::from_millis(50));
        let _ = conn.writer().write_all(rest);
        matches!(conn.input().head(), Ok(Some(head)) if head.status() == 200)
    });
}

/// How many connections hold an unfinished head at a time.
const CONNECTIONS: usize = 400;

/// A daemon that lets one client have them all, with this budget for their heads.
fn rig_for_heads(budget: &str) -> Rig {
    Rig::with(Path::Splice, |config| {
        config.set("limits", "connections-per-client", "0").set("limits", "head-timeout", "\"1m\"");
        config.set("limits", "unfinished-heads-bytes", budget);
    })
}

/// Heads beyond the budget cost no memory once they are refused, though their connections still stand.
#[test]
fn refused_heads_cost_no_memory() {
    if !privileged() {
        return;
    }
    let rig = rig_for_heads("1048576");
    let before = rig.node().status_kib("RssAnon") as usize;
    let mut conns: Vec<Conn> =
        (0..CONNECTIONS).map(|_| Conn::plain(rig.node().tcp(rig.node().plain[0]), None)).collect();
    let mut most = before;
    for conn in &mut conns {
        conn.write(&unfinished());
        most = most.max(rig.node().status_kib("RssAnon") as usize);
    }
    wait::until_true("nearly all are refused", || {
        most = most.max(rig.node().status_kib("RssAnon") as usize);
        conns.iter().filter(|conn| conn.is_quiet()).count() < 30
    });
    let sent = CONNECTIONS * unfinished().len() / 1024;
    assert!(most < before + sent / 2, "{most} KiB, {before} KiB before, for {sent} KiB of heads");
}

/// The memory of unfinished heads is about what was sent, and goes back to the system.
#[test]
fn memory_of_unfinished_heads_goes_back() {
    if !privileged() {
        return;
    }
    let rig = rig_for_heads("67108864");
    let rss = || rig.node().status_kib("RssAnon") as usize;
    let before = rss();
    let conns: Vec<Conn> = (0..CONNECTIONS)
        .map(|_| {
            let mut conn = Conn::plain(rig.node().tcp(rig.node().plain[0]), None);
            conn.write(&unfinished());
            conn
        })
        .collect();
    let sent = CONNECTIONS * unfinished().len() / 1024;
    wait::until_true("the heads are read", || rss() > before + sent / 2);
    std::thread::sleep(Duration::from_millis(500));
    let during = rss();
    assert!(during < before + sent * 3 / 2, "{during} KiB for {sent} KiB of heads, {before} KiB before");
    drop(conns);
    wait::until_true("the memory is given back", || rss() < before + sent / 4);
}

/// Clients that come by IPv4 to a listener of both families are known by their IPv4 address.
#[test]
fn ipv4_clients_of_a_listener_of_both_families() {
    if !privileged() {
        return;
    }
    let rig = Rig::with(Path::Splice, |config| {
        config.listen(vec![ListenOn { address: "[::]:0".to_owned(), tls: false, credentials: vec!["bound"] }]);
        config.set("limits", "connections-per-client", "1");
    });
    let origin = rig.serve(|peer: &mut Peer| {
        while peer.request()?.is_some() {
            peer.respond("200 OK", "ok")?;
        }
        Ok(())
    });
    let node = rig.node();
    let at = std::net::SocketAddr::from(([127, 0, 0, 1], node.plain[0].port()));
    let caller = node.caller(portsplice_tests::sign::Scheme::Bound, &rig.name, origin.port());
    let mut conn = Conn::plain(node.tcp(at), Some(caller));
    assert_eq!(conn.get("/").text(), "ok");
    let client = conn.local_addr().to_string();
    let listed = node.control().call("connections.list", serde_json::json!({}));
    assert_eq!(listed["connections"][0]["peer"], client.as_str(), "{listed}");
    wait::until_true("the access log names it", || {
        node.log_records().iter().any(|record| record.get("client").is_some_and(|value| *value == client.as_str()))
    });
}
