use super::*;

/// `lines` as a request whose first line is `GET / HTTP/1.1` and that has a Host.
fn with(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: gw.test\r\n{lines}\r\n")
}

fn refused(bytes: &str) -> RequestError {
    match request(bytes.as_bytes()) {
        Ok(head) => panic!("{bytes:?} was accepted as {head:?}"),
        Err(refusal) => refusal,
    }
}

#[track_caller]
fn malformed(bytes: &str) {
    assert!(matches!(refused(bytes), RequestError::Malformed(_)), "{bytes:?}: {:?}", refused(bytes));
}

#[test]
fn a_plain_request() {
    let bytes = "POST /p?q=1 HTTP/1.1\r\nHost: gw.test:80\r\nContent-Length: 5\r\nX-A: \t a b\t \r\n\r\n";
    let head = request(bytes.as_bytes()).unwrap();
    assert_eq!((head.method, head.target, &*head.origin_target), ("POST", "/p?q=1", "/p?q=1"));
    assert_eq!((head.version, head.framing), (Version::Http11, BodyFraming::Length(5)));
    assert!(head.keep_alive && !head.expect_continue && head.upgrade.is_none());
    assert_eq!(head.host, Some("gw.test:80"));
    assert_eq!(head.fields[2].value, b"a b");
}

#[test]
fn empty_lines_before_a_request() {
    assert!(request(b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n").is_ok());
    malformed("\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    malformed("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let mut scanner = HeadScanner::new(HeadLimits::default());
    assert_eq!(scanner.advance(b"\r\n"), Ok(None));
    assert!(scanner.is_idle(b"\r\n"));
    assert_eq!(scanner.advance(b"\r\nG"), Ok(None));
    assert!(!scanner.is_idle(b"\r\nG"));
}

#[test]
fn illegal_lines() {
    for line in [
        "X: a\nY: b\r\n",
        "X: a\rb\r\n",
        "X: a\0b\r\n",
        "X: a\x7fb\r\n",
        "X : a\r\n",
        "X\t: a\r\n",
        " X: a\r\n",
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n",
        ": a\r\n",
        "no colon\r\n",
        "X(: a\r\n",
        "X\u{e9}: a\r\n",
    ] {
        malformed(&with(line));
    }
    assert!(request(with("X: caf\u{e9}\r\nX.Custom|Pipe:ok\r\nEmpty:\r\n").as_bytes()).is_ok());
}

#[test]
fn illegal_request_lines() {
    for line in [
        "GET /",
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET /a b HTTP/1.1",
        "GET /a\tb HTTP/1.1",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\rX HTTP/1.1",
        "GET / HTTP/1",
        "GET / HTTP/01.1",
        "GET / http/1.1",
        "GET / FTP/1.1",
        "G(T / HTTP/1.1",
        "GET * HTTP/1.1",
        "GET index.html HTTP/1.1",
        "GET example.com:443 HTTP/1.1",
        "GET /a#b HTTP/1.1",
        "GET /\u{e9} HTTP/1.1",
        "GET ftp://h/ HTTP/1.1",
        "GET http:///a HTTP/1.1",
        "GET http://u@gw.test/ HTTP/1.1",
        "GET http://other.test/ HTTP/1.1",
    ] {
        malformed(&format!("{line}\r\nHost: gw.test\r\n\r\n"));
    }
    assert_eq!(refused("GET / HTTP/2.0\r\nHost: h\r\n\r\n"), RequestError::UnsupportedVersion);
    assert_eq!(refused("GET / HTTP/1.2\r\nHost: h\r\n\r\n"), RequestError::UnsupportedVersion);
    assert_eq!(refused("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"), RequestError::ConnectRefused);
}

#[test]
fn targets() {
    let origin = |target: &str, method: &str| {
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: gw.test\r\n\r\n");
        request(bytes.as_bytes()).unwrap().origin_target.into_owned()
    };
    assert_eq!(origin("http://gw.test/a?b", "GET"), "/a?b");
    assert_eq!(origin("HTTPS://GW.test?b", "GET"), "/?b");
    assert_eq!(origin("http://gw.test", "GET"), "/");
    assert_eq!(origin("http://gw.test", "OPTIONS"), "*");
    assert_eq!(origin("*", "OPTIONS"), "*");
    assert_eq!(origin("//gw.test/{a}|\\\"", "GET"), "//gw.test/{a}|\\\"");
    assert_eq!(origin("/x?u=http://other.test/", "GET"), "/x?u=http://other.test/");
}

#[test]
fn hosts() {
    for host in ["", "h", "h:", "h:80", "[::1]", "[::1]:8080", "a_b.%41~", "10.0.0.1:1"] {
        let bytes = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(request(bytes.as_bytes()).unwrap().host, Some(host));
    }
    for host in ["h:8x", "u@h", "h/p", "h h", "[::1", "[]", "[::1]x", ":80", "h\u{e9}", "h%4", "::1", "h:80:80"] {
        malformed(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    }
    malformed("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n");
    malformed("GET / HTTP/1.1\r\nX: h\r\n\r\n");
    assert_eq!(request(b"GET / HTTP/1.0\r\n\r\n").unwrap().host, None);
}

#[test]
fn framing_fields() {
    let framing = |lines: &str| request(with(lines).as_bytes()).map(|head| head.framing);
    assert_eq!(framing(""), Ok(BodyFraming::None));
    assert_eq!(framing("Content-Length: 0\r\n"), Ok(BodyFraming::Length(0)));
    assert_eq!(framing("Content-Length: 9223372036854775807\r\n"), Ok(BodyFraming::Length(i64::MAX as u64)));
    assert_eq!(framing("TRANSFER-encoding: CHUNKED\r\n"), Ok(BodyFraming::Chunked));
    for value in [
        "",
        "+5",
        "-5",
        "5 5",
        "5,5",
        "5, 5",
        "0x5",
        "5.0",
        "05",
        "00",
        "9223372036854775808",
        "99999999999999999999",
        "5\u{b2}",
    ] {
        malformed(&with(&format!("Content-Length: {value}\r\n")));
    }
    malformed(&with("Content-Length: 5\r\nContent-Length: 5\r\n"));
    malformed(&with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"));
    malformed(&with("Transfer_Encoding: chunked\r\n"));
    malformed(&with("Content_Length: 5\r\n"));
    malformed("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    malformed("TRACE / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
    for value in
        ["", "identity", "gzip, chunked", "chunked, chunked", "chunked;a", "\"chunked\"", "chunked,", "x chunked"]
    {
        assert_eq!(framing(&format!("Transfer-Encoding: {value}\r\n")), Err(RequestError::UnsupportedTransferCoding));
    }
    let twice = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(framing(twice), Err(RequestError::UnsupportedTransferCoding));
    let last_is_chunked = "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n";
    assert_eq!(framing(last_is_chunked), Err(RequestError::UnsupportedTransferCoding));
}

#[test]
fn connection_options() {
    let keeps = |bytes: &str| request(bytes.as_bytes()).unwrap().keep_alive;
    assert!(keeps(&with("Connection: , keep-alive,\r\n")));
    assert!(!keeps(&with("Connection: keep-alive\r\nConnection: X, Close\r\n")));
    assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
    assert!(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    for name in [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "x-arvados-authorization",
        "X_Arvados_User",
        "Expect",
        "X-Forwarded-For",
    ] {
        malformed(&with(&format!("Connection: close, {name}\r\n")));
    }
    let many: String = (0..40).map(|i| format!("x{i},")).collect();
    malformed(&with(&format!("Connection: {many}\r\n")));
}

#[test]
fn expectations() {
    let lines = "Expect: 100-Continue\r\nContent-Length: 1\r\n";
    assert!(request(with(lines).as_bytes()).unwrap().expect_continue);
    assert!(!request(with("Expect: 100-continue\r\n").as_bytes()).unwrap().expect_continue);
    assert_eq!(refused(&with("Expect: 200-ok\r\n")), RequestError::ExpectationFailed);
    let old = format!("POST / HTTP/1.0\r\n{lines}\r\n");
    assert!(!request(old.as_bytes()).unwrap().expect_continue);
}

#[test]
fn upgrades() {
    let offered = |lines: &str| {
        let bytes = with(lines);
        let head = request(bytes.as_bytes()).unwrap();
        (head.upgrade.map(|upgrade| upgrade.protocols().collect::<Vec<_>>().join("|"))).unwrap_or_default()
    };
    assert_eq!(offered("Connection: Upgrade\r\nUpgrade: websocket\r\n"), "websocket");
    assert_eq!(offered("Upgrade: websocket\r\n"), "");
    assert_eq!(offered("Connection: Upgrade\r\nUpgrade: h2c\r\n"), "");
    assert_eq!(
        offered("Connection: Upgrade\r\nUpgrade: H2C, HTTP/2.0, websocket\r\nUpgrade: made-up/1.0, a b\r\n"),
        "websocket|made-up/1.0"
    );
    let bytes = "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert!(request(bytes.as_bytes()).unwrap().upgrade.is_none());
    let is_tunnel = |bytes: &str| request(bytes.as_bytes()).unwrap().is_tcp_tunnel();
    assert!(is_tunnel(&with("Connection: upgrade\r\nUpgrade: TCP\r\n")));
    assert!(!is_tunnel(&with("Connection: upgrade\r\nUpgrade: tcp, websocket\r\n")));
    assert!(!is_tunnel(&with("Connection: upgrade\r\nUpgrade: tcp\r\nContent-Length: 1\r\n")));
    assert!(!is_tunnel("POST / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n"));
}

#[test]
fn limits() {
    let long = |n: usize| "a".repeat(n);
    assert!(request(format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", long(16_383)).as_bytes()).is_ok());
    assert_eq!(refused(&format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", long(16_384))), RequestError::TargetTooLong);
    let one = |n: usize| with(&format!("Cookie: {}\r\n", long(n)));
    let around = one(0).len();
    assert!(request(one(65_536 - around).as_bytes()).is_ok(), "one field may be as long as the head");
    assert_eq!(refused(&one(65_537 - around)), RequestError::TooLarge(Bound::HeadBytes));
    let short = HeadLimits { field_bytes: 8_192, ..HeadLimits::default() };
    let scanned = |n: usize| HeadScanner::new(short).advance(with(&format!("X:{}\r\n", long(n))).as_bytes());
    assert!(scanned(8_190).is_ok());
    assert_eq!(scanned(8_191), Err(RequestError::TooLarge(Bound::FieldBytes)));
    assert!(request(with(&"X: a\r\n".repeat(127)).as_bytes()).is_ok());
    assert_eq!(refused(&with(&"X: a\r\n".repeat(128))), RequestError::TooLarge(Bound::Fields));
    let big = with(&format!("X: {}\r\n", long(8_000)).repeat(9));
    assert_eq!(refused(&big), RequestError::TooLarge(Bound::HeadBytes));
    let exact = |padding: usize| {
        let lines = format!("X: {}\r\n", long(8_000)).repeat(8);
        with(&format!("{lines}Y: {}\r\n", long(padding)))
    };
    let padding = 65_536 - exact(0).len();
    assert!(request(exact(padding).as_bytes()).is_ok());
    assert_eq!(refused(&exact(padding + 1)), RequestError::TooLarge(Bound::HeadBytes));
    malformed(&format!("{} / HTTP/1.1\r\nHost: h\r\n\r\n", "A".repeat(65)));
}

#[test]
fn what_decides_is_refused_before_the_head_is_complete() {
    let early = |bytes: &[u8]| HeadScanner::new(HeadLimits::default()).advance(bytes);
    for bytes in [
        &b"\x16\x03\x01"[..],
        b" ",
        b"GET\0",
        b"GET / HTTP/1.1\rX",
        b"GET / HTTP/1.1\n",
        b"GET /\r\n",
        b"GET /a b",
        b"GET / FTP",
        b"GET / HTTP/1.1\r\n ",
        b"GET / HTTP/1.1\r\nX\r\n",
        b"GET / HTTP/1.1\r\nX: a\n",
        b"PRI * HTTP/2.0\r\n",
        b"CONNECT h:1 HTTP/1.1\r\n",
    ] {
        assert!(early(bytes).is_err(), "{:?}", bytes.escape_ascii().to_string());
    }
    assert_eq!(early(format!("GET /{}", "a".repeat(16_384)).as_bytes()), Err(RequestError::TargetTooLong));
    assert!(matches!(early("A".repeat(65).as_bytes()), Err(RequestError::Malformed(_))));
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(8_192));
    let short = HeadLimits { field_bytes: 8_192, ..HeadLimits::default() };
    let refused = HeadScanner::new(short).advance(endless.as_bytes());
    assert_eq!(refused, Err(RequestError::TooLarge(Bound::FieldBytes)));
    for bytes in [&b""[..], b"G", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\nX: a\r", b"GET /a HT"] {
        assert_eq!(early(bytes), Ok(None));
    }
}

#[test]
fn credentials() {
    let three = "X-Arvados-Container-Gateway-Uuid: zzzzz-dz642-000000000000001\r\nX-Arvados-Container-Target-Port: 8080\r\nX-Arvados-Authorization: v1 secret\r\n";
    let read = |lines: &str| {
        let bytes = with(lines);
        let head = request(bytes.as_bytes()).unwrap();
        head.credential().map(|c| (c.uuid.to_string(), c.port.get(), c.authorization.to_owned(), format!("{c:?}")))
    };
    let (uuid, port, authorization, debug) = read(three).unwrap();
    assert_eq!((&*uuid, port, &*authorization), ("zzzzz-dz642-000000000000001", 8080, "v1 secret"));
    assert!(!debug.contains("secret"));
    assert!(read(&three.to_lowercase()).is_ok());
    for (extra, failure) in [
        ("X-Arvados-Authorization: v1 secret\r\n", CredentialError::Duplicate),
        ("X-Arvados-Container-Target-Port: 22\r\n", CredentialError::Duplicate),
        ("X-Arvados-Container-Gateway-Uuid:\r\n", CredentialError::Duplicate),
    ] {
        assert_eq!(read(&format!("{three}{extra}")), Err(RequestError::Credential(failure)));
    }
    assert_eq!(read(""), Err(RequestError::Credential(CredentialError::Missing)));
    assert_eq!(read(&three.replace("8080", "")), Err(RequestError::Credential(CredentialError::Missing)));
    assert_eq!(read(&three.replace('-', "_")), Err(RequestError::Credential(CredentialError::Missing)));
    for port in ["0", "08080", "65536", "0x50", "80 80", "+80", "-1", "a.test:80", "80, 22", "99999999999999999999"] {
        assert!(matches!(read(&three.replace("8080", port)), Err(RequestError::Malformed(_))), "{port}");
    }
    let long = "a".repeat(256);
    for name in ["..", "-a", "a/b", "a b", "a%2f", "\"a\"", &long] {
        assert!(matches!(read(&three.replace("zzzzz-dz642-000000000000001", name)), Err(RequestError::Malformed(_))));
    }
}
