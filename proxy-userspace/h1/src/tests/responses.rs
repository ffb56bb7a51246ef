use super::*;

fn faulty(bytes: &str, context: &RequestContext) -> ResponseFault {
    match response(bytes.as_bytes(), context) {
        Ok(head) => panic!("{bytes:?} was accepted as {head:?}"),
        Err(fault) => fault,
    }
}

/// What has been asked by a request that offers these protocols.
fn offering(protocols: &str) -> RequestContext {
    let bytes = format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: {protocols}\r\n\r\n");
    request(bytes.as_bytes()).unwrap().context()
}

#[test]
fn framing_by_status_and_method() {
    let head_method = RequestContext { head_method: true, ..GET };
    let framing = |bytes: &str, context: &RequestContext| response(bytes.as_bytes(), context).unwrap().framing;
    for (bytes, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", ResponseFraming::Length(5)),
        ("HTTP/1.1 200 \r\nTransfer-Encoding: Chunked\r\n\r\n", ResponseFraming::Chunked),
        ("HTTP/1.1 200\r\n\r\n", ResponseFraming::UntilClose),
        ("HTTP/1.0 200 OK\r\n\r\n", ResponseFraming::UntilClose),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", ResponseFraming::None),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", ResponseFraming::None),
        ("HTTP/1.1 100 Continue\r\n\r\n", ResponseFraming::Interim),
        ("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n", ResponseFraming::Interim),
        ("HTTP/1.1 404 \u{e9}\r\nContent-Length: 0\r\n\r\n", ResponseFraming::Length(0)),
    ] {
        assert_eq!(framing(bytes, &GET), expected, "{bytes:?}");
    }
    let bytes = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(framing(bytes, &head_method), ResponseFraming::None);
    assert_eq!(response(bytes.as_bytes(), &head_method).unwrap().content_length, Some(5));
    assert_eq!(framing("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &head_method), ResponseFraming::None);
}

#[test]
fn keep_alive() {
    let keeps = |bytes: &str| response(bytes.as_bytes(), &GET).unwrap().keep_alive;
    assert!(keeps("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"));
    assert!(!keeps("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"));
    assert!(!keeps("HTTP/1.1 200 OK\r\n\r\n"));
    assert!(!keeps("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n"));
    assert!(keeps("HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"));
}

#[test]
fn keep_alive_timeout() {
    for (fields, seconds) in [
        ("", None),
        ("Keep-Alive: timeout=5\r\n", Some(5)),
        ("keep-alive: Timeout=5, max=100\r\nConnection: keep-alive\r\n", Some(5)),
        ("Keep-Alive: max=100, timeout = \"15\"\r\n", Some(15)),
        ("Keep-Alive: timeout=15\r\nKeep-Alive: timeout=0\r\n", Some(0)),
        ("Keep-Alive: timeout=99999999999999999999\r\n", Some(u32::MAX)),
        ("Keep-Alive: timeout, timeout=, timeout=-1, timeout=5s, max=1, 7, \u{e9}=3\r\n", None),
        ("X-Keep-Alive: timeout=5\r\n", None),
    ] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n{fields}\r\n");
        assert_eq!(response(head.as_bytes(), &GET).unwrap().keep_alive_timeout, seconds, "{fields:?}");
    }
}

#[test]
fn faults() {
    for bytes in [
        "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 600 OK\r\n\r\n",
        "HTTP/1.1 +20 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer_Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.0 100 Continue\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        faulty(bytes, &GET);
    }
    let mut scanner = ResponseScanner::new(ResponseLimits::default());
    assert!(scanner.advance(b"220 mail").is_err());
    let mut scanner = ResponseScanner::new(ResponseLimits::default());
    assert_eq!(scanner.advance(b"HTT"), Ok(None));
    assert_eq!(scanner.advance(b"HTTP/1.1 2"), Ok(None));
}

/// What RFC 9112 tells an intermediary to mend is mended (5.1, 6.1, 6.3).
#[test]
fn mended() {
    let bytes = "HTTP/1.1 200 OK\r\nX \t: a\r\nContent-Length : 5\r\n\r\n";
    let head = response(bytes.as_bytes(), &GET).unwrap();
    assert_eq!(
        (head.framing, head.fields[0].name, head.fields[0].value),
        (ResponseFraming::Length(5), &b"X"[..], &b"a"[..])
    );
    for faulty_still in
        ["HTTP/1.1 200 OK\r\n : a\r\n\r\n", "HTTP/1.1 200 OK\r\nX y: a\r\n\r\n", "HTTP/1.1 200 OK\r\nX \r\n\r\n"]
    {
        faulty(faulty_still, &GET);
    }
    for (status, framing) in
        [(100, ResponseFraming::Interim), (103, ResponseFraming::Interim), (204, ResponseFraming::None)]
    {
        for (announced, in_step) in [
            ("Content-Length: 0", true),
            ("Content-Length: 5", false),
            ("Transfer-Encoding: chunked", false),
            ("Transfer-Encoding: gzip", false),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked", false),
        ] {
            let bytes = format!("HTTP/1.1 {status} X\r\n{announced}\r\n\r\n");
            let head = response(bytes.as_bytes(), &GET).unwrap();
            assert_eq!((head.framing, head.keep_alive), (framing, in_step), "{bytes:?}");
            let to = ToClient { version: Version::Http11, close: false, dechunk: false, authorization_response: None };
            let mut out = Vec::new();
            write_response(&head, &to, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), format!("HTTP/1.1 {status} X\r\n\r\n"));
        }
    }
    let switch = "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(response(switch.as_bytes(), &offering("websocket")).unwrap().framing, ResponseFraming::Switched);
}

/// Responses have limits of their own; each fault names its setting.
#[test]
fn limits() {
    let fields = |n: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "Link: a\r\n".repeat(n));
    assert_eq!(response(fields(1000).as_bytes(), &GET).unwrap().fields.len(), 1000);
    assert_eq!(faulty(&fields(1001), &GET), ResponseFault::TooLarge(Bound::Fields));
    let cookie = |n: usize| format!("HTTP/1.1 200 OK\r\nSet-Cookie: {}\r\n\r\n", "a".repeat(n));
    let around = cookie(0).len();
    assert!(response(cookie(262_144 - around).as_bytes(), &GET).is_ok());
    assert_eq!(faulty(&cookie(262_145 - around), &GET), ResponseFault::TooLarge(Bound::HeadBytes));
}

#[test]
fn switching_protocols() {
    let answer = |lines: &str| format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n");
    let websocket = answer("Upgrade: WebSocket\r\nConnection: Upgrade\r\n");
    let head = response(websocket.as_bytes(), &offering("websocket, x/1")).unwrap().clone();
    assert_eq!((head.framing, &head.upgrade[..]), (ResponseFraming::Switched, &["WebSocket"][..]));
    let both = answer("Upgrade: x/1, websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n");
    assert_eq!(response(both.as_bytes(), &offering("websocket, x/1")).unwrap().upgrade, ["x/1", "websocket"]);
    for lines in [
        "",
        "Upgrade: websocket\r\n",
        "Connection: upgrade\r\n",
        "Connection: upgrade\r\nUpgrade: h2c\r\n",
        "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n",
        "Connection: upgrade\r\nUpgrade: websocket, a b\r\n",
    ] {
        faulty(&answer(lines), &offering("websocket"));
    }
}
