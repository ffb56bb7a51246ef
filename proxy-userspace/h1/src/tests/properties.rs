//! Properties that hold for all inputs, and for inputs made from the pieces that heads are made of.

use proptest::prelude::*;

use super::*;

/// A line end, mostly the right one.
fn line_end() -> impl Strategy<Value = &'static str> {
    prop_oneof![60 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("\r\r\n"), 1 => Just(" \r\n")]
}

fn field() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        3 => prop::sample::select(vec![
            "Host", "host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Expect", "Trailer", "TE", "Via",
            "X-Arvados-Authorization", "x-arvados-container-gateway-uuid", "X-Arvados-Container-Target-Port",
            "X_Arvados_User", "X.Arvados", "Content_Length", "Transfer_Encoding", "X-A", "X-B", "Cookie", "Keep-Alive",
        ]).prop_map(str::to_owned),
        1 => "[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}",
        1 => "[ -~]{0,6}",
    ];
    let value = prop_oneof![
        3 => prop::sample::select(vec![
            "", "0", "5", "05", "5, 5", "chunked", "Chunked", "gzip, chunked", "close", "keep-alive", "Upgrade", "X-A, close",
            "websocket", "h2c, websocket", "tcp", "100-continue", "gw.test", "gw.test:80", "[::1]", "a b", "trailers",
            "host", "x-arvados-authorization", "18446744073709551616", "zzzzz-dz642-abcdefghijklmno", "8080",
        ]).prop_map(str::to_owned),
        1 => "[ -~\t]{0,20}",
        1 => "\\PC{0,8}",
    ];
    let colon = prop_oneof![20 => Just(":"), 20 => Just(": "), 5 => Just(":\t "), 1 => Just(" : "), 1 => Just("")];
    let padding = prop_oneof![8 => Just(""), 1 => Just(" \t")];
    let composed = (name, colon, value, padding)
        .prop_map(|(name, colon, value, padding)| format!("{name}{colon}{value}{padding}"));
    let legal = prop::sample::select(vec![
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Connection: X-A, close",
        "connection: keep-alive,,te",
        "Connection: Upgrade",
        "Upgrade: websocket, h2c",
        "upgrade: tcp",
        "Expect: 100-continue",
        "Trailer: X-B",
        "TE: trailers",
        "X-A: \ta b\t",
        "X-Arvados-Authorization: v1",
        "X_Arvados_User: root",
        "X-Forwarded-For: ::1",
        "Cookie: a=1; b=2",
        "Keep-Alive: timeout=5",
        "Via: 1.0 front",
    ]);
    prop_oneof![9 => legal.prop_map(str::to_owned), 2 => composed]
}

fn fields() -> impl Strategy<Value = String> {
    prop::collection::vec((field(), line_end()), 0..8)
        .prop_map(|fields| fields.into_iter().map(|(field, end)| format!("{field}{end}")).collect())
}

fn start_line() -> impl Strategy<Value = String> {
    let method = prop_oneof![4 => prop::sample::select(vec!["GET", "POST", "HEAD", "OPTIONS", "TRACE", "CONNECT"]).prop_map(str::to_owned), 1 => "[!-~]{0,8}"];
    let target = prop_oneof![
        4 => prop::sample::select(vec!["/", "/a?b=c", "*", "http://gw.test/x", "https://gw.test", "http://gw.test?x", "http://other/", "//x"]).prop_map(str::to_owned),
        1 => "/[ -~]{0,20}",
        1 => "\\PC{0,6}",
    ];
    let version = prop_oneof![20 => Just("HTTP/1.1"), 4 => Just("HTTP/1.0"), 1 => Just("HTTP/1.2"), 1 => Just("HTTP/2.0"), 1 => Just("")];
    (method, target, version).prop_map(|(method, target, version)| format!("{method} {target} {version}"))
}

/// A head that is often legal or nearly so.
fn request_bytes() -> impl Strategy<Value = Vec<u8>> {
    let host = prop_oneof![9 => Just("Host: gw.test\r\n"), 1 => Just("")];
    let empty_lines = prop_oneof![9 => Just(""), 1 => Just("\r\n"), 1 => Just("\r\n\r\n\r\n")];
    let head = (empty_lines, start_line(), line_end(), host, fields(), line_end(), "[ -~]{0,10}").prop_map(
        |(empty, start, end, host, fields, last, rest)| format!("{empty}{start}{end}{host}{fields}{last}{rest}"),
    );
    head.prop_map(String::into_bytes)
}

fn response_bytes() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![
        9 => prop::sample::select(vec![
            "HTTP/1.1 200 OK", "HTTP/1.1 200", "HTTP/1.0 200 OK", "HTTP/1.1 101 S", "HTTP/1.1 100 C", "HTTP/1.1 204 N",
            "HTTP/1.1 304 N", "HTTP/1.1 426 U", "HTTP/1.1 599 ", "HTTP/1.1 600 X", "HTTP/2 200 OK",
        ]).prop_map(str::to_owned),
        1 => "[ -~]{0,20}",
    ];
    (start, line_end(), fields(), line_end())
        .prop_map(|(start, end, fields, last)| format!("{start}{end}{fields}{last}").into_bytes())
}

/// The result of a scanner that is fed `bytes` in pieces that end at `cuts`.
fn scan<E>(
    bytes: &[u8],
    cuts: &[usize],
    mut advance: impl FnMut(&[u8]) -> Result<Option<usize>, E>,
) -> Result<Option<usize>, E> {
    for &cut in cuts {
        match advance(&bytes[..cut])? {
            Some(length) => return Ok(Some(length)),
            None => continue,
        }
    }
    Ok(None)
}

/// Feeding byte by byte and in one piece comes to the same end; an early refusal may tell another reason.
fn check_scanning<E: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    mut whole: impl FnMut(&[u8]) -> Result<Option<usize>, E>,
    single: impl FnMut(&[u8]) -> Result<Option<usize>, E>,
) {
    let at_once = scan(bytes, &[bytes.len()], &mut whole);
    let each: Vec<usize> = (0..=bytes.len()).collect();
    let byte_by_byte = scan(bytes, &each, single);
    match (&at_once, &byte_by_byte) {
        (Err(_), Err(_)) => {}
        (at_once, byte_by_byte) => assert_eq!(at_once, byte_by_byte),
    }
}

fn scanned(bytes: &[u8]) -> Option<usize> {
    HeadScanner::new(HeadLimits::default()).advance(bytes).ok().flatten()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn requests_may_arrive_in_any_pieces(bytes in request_bytes()) {
        let limits = HeadLimits::default();
        let (mut whole, mut single) = (HeadScanner::new(limits), HeadScanner::new(limits));
        check_scanning(&bytes, |buf| whole.advance(buf), |buf| single.advance(buf));
    }

    #[test]
    fn responses_may_arrive_in_any_pieces(bytes in response_bytes()) {
        let limits = ResponseLimits::default();
        let (mut whole, mut single) = (ResponseScanner::new(limits), ResponseScanner::new(limits));
        check_scanning(&bytes, |buf| whole.advance(buf), |buf| single.advance(buf));
    }

    #[test]
    fn small_limits_hold_however_the_bytes_arrive(bytes in request_bytes()) {
        let limits = HeadLimits { head_bytes: 80, fields: 3, target_bytes: 6, field_bytes: 20 };
        let (mut whole, mut single) = (HeadScanner::new(limits), HeadScanner::new(limits));
        check_scanning(&bytes, |buf| whole.advance(buf), |buf| single.advance(buf));
        let Ok(Some(length)) = HeadScanner::new(limits).advance(&bytes) else { return Ok(()) };
        let Ok(head) = RequestHead::parse(&bytes[..length], &limits) else { return Ok(()) };
        prop_assert!(head.fields.len() <= 3 && head.target.len() <= 6);
    }

    /// What is written for an accepted request is accepted again, means the same, and is written the same again.
    #[test]
    fn forwarded_requests_are_canonical(bytes in request_bytes(), close: bool) {
        let limits = HeadLimits::default();
        let Some(length) = scanned(&bytes) else { return Ok(()) };
        let Ok(head) = RequestHead::parse(&bytes[..length], &limits) else { return Ok(()) };
        let mut out = Vec::new();
        write_request(&head, close, 8080, &mut out);
        prop_assert_eq!(scanned(&out), Some(out.len()));
        let again = RequestHead::parse(&out, &limits).unwrap();
        prop_assert_eq!((again.method, again.target, again.framing), (head.method, &*head.origin_target, head.framing));
        prop_assert_eq!((again.expect_continue, &again.upgrade), (head.expect_continue, &head.upgrade));
        prop_assert_eq!((again.version, again.keep_alive), (Version::Http11, !close));
        prop_assert!(again.host.is_some() && again.credential().is_err());
        for field in &again.fields {
            let folded: Vec<u8> = field.name.to_ascii_lowercase().iter().map(|&b| if b == b'_' { b'-' } else { b }).collect();
            prop_assert!(!folded.starts_with(b"x-arvados-"));
            prop_assert!(!matches!(field.kind, Kind::HopByHop | Kind::Named | Kind::FoldedFraming | Kind::Private));
        }
        let mut twice = Vec::new();
        write_request(&again, close, 8080, &mut twice);
        prop_assert_eq!(twice, out);
    }

    #[test]
    fn forwarded_responses_are_canonical(bytes in response_bytes(), head_method: bool, close: bool, dechunk: bool, http10: bool) {
        let limits = ResponseLimits::default();
        let context = RequestContext { head_method, ..request(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap().context() };
        let Ok(Some(length)) = ResponseScanner::new(limits).advance(&bytes) else { return Ok(()) };
        let Ok(head) = ResponseHead::parse(&bytes[..length], &context, &limits) else { return Ok(()) };
        let version = if http10 { Version::Http10 } else { Version::Http11 };
        let to = ToClient { version, close, dechunk, authorization_response: Some("f00d") };
        let mut out = Vec::new();
        write_response(&head, &to, &mut out);
        let again = ResponseHead::parse(&out, &context, &limits).unwrap();
        prop_assert_eq!(again.status, head.status);
        match head.framing {
            ResponseFraming::Chunked if dechunk => prop_assert_eq!(again.framing, ResponseFraming::UntilClose),
            framing => prop_assert_eq!(again.framing, framing),
        }
        if !matches!(head.framing, ResponseFraming::Interim | ResponseFraming::Switched) {
            prop_assert_eq!(again.keep_alive, !to.closes_after(&head));
        }
        let private = again.fields.iter().filter(|field| matches!(field.kind, Kind::Private | Kind::GatewayAuthorization));
        prop_assert_eq!(private.map(|field| field.value).collect::<Vec<_>>(), vec![b"f00d"]);
    }

    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let limits = HeadLimits::default();
        let _ = HeadScanner::new(limits).advance(&bytes);
        let _ = RequestHead::parse(&bytes, &limits).map(|head| head.credential().is_ok());
        let _ = ResponseScanner::new(ResponseLimits::default()).advance(&bytes);
        let _ = ResponseHead::parse(&bytes, &GET, &ResponseLimits::default());
        let _ = Chunked::new(ChunkMode::Rechunk).advance(&bytes, &mut Vec::new());
    }
}

/// The chunks of a body as a peer may send them: data, how the size is spelled, an extension.
fn chunked_body() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Vec<String>)> {
    let extension = prop_oneof![
        6 => Just(""), 1 => Just(";a"), 1 => Just(" ; a = b"), 1 => Just(";a=\"b;\\\"c\""), 1 => Just("\t;a=b;c=d"),
    ];
    let chunk = (prop::collection::vec(any::<u8>(), 1..40), 0usize..4, any::<bool>(), extension);
    let trailer = "[A-Z]{1,3}-[a-z]{0,5}: ?[a-z]{0,5}";
    (prop::collection::vec(chunk, 0..10), prop::collection::vec(trailer, 0..3), 1usize..4).prop_map(
        |(chunks, trailers, zeros)| {
            let (mut wire, mut data) = (Vec::new(), Vec::new());
            for (chunk, zeros, upper, extension) in chunks {
                let size = if upper { format!("{:X}", chunk.len()) } else { format!("{:x}", chunk.len()) };
                wire.extend_from_slice(format!("{}{size}{extension}\r\n", "0".repeat(zeros)).as_bytes());
                wire.extend_from_slice(&chunk);
                wire.extend_from_slice(b"\r\n");
                data.extend_from_slice(&chunk);
            }
            wire.extend_from_slice(format!("{}\r\n", "0".repeat(zeros)).as_bytes());
            for trailer in &trailers {
                wire.extend_from_slice(format!("{trailer}\r\n").as_bytes());
            }
            wire.extend_from_slice(b"\r\n");
            (wire, data, trailers)
        },
    )
}

/// Feeds `wire` in pieces of these sizes, in turn; moves chunk data past the decoder where `bypass` says so.
fn feed(mode: ChunkMode, wire: &[u8], sizes: &[usize], bypass: bool) -> Result<(Vec<u8>, Option<usize>), FramingError> {
    let (mut chunked, mut out, mut at) = (Chunked::new(mode), Vec::new(), 0);
    let mut sizes = sizes.iter().cycle();
    while at < wire.len() {
        let size = (*sizes.next().unwrap()).min(wire.len() - at);
        let raw = (chunked.data_remaining() as usize).min(size);
        if bypass && raw > 0 {
            out.extend_from_slice(&wire[at..at + raw]);
            chunked.data_moved(raw as u64);
            at += raw;
            continue;
        }
        let step = chunked.advance(&wire[at..at + size], &mut out)?;
        at += step.consumed;
        if step.done {
            assert!(chunked.is_done());
            return Ok((out, Some(at)));
        }
        assert_eq!(step.consumed, size);
    }
    Ok((out, None))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn chunked_bodies_survive((mut wire, data, trailers) in chunked_body(), sizes in prop::collection::vec(1usize..30, 1..6), bypass: bool) {
        let end = wire.len();
        wire.extend_from_slice(b"GET / HTTP/1.1\r\n");
        let (out, consumed) = feed(ChunkMode::Dechunk, &wire, &sizes, bypass).unwrap();
        prop_assert_eq!((&out, consumed), (&data, Some(end)));
        let (canonical, consumed) = feed(ChunkMode::Rechunk, &wire, &sizes, bypass).unwrap();
        prop_assert_eq!(consumed, Some(end));
        let (out, consumed) = feed(ChunkMode::Dechunk, &canonical, &[1], false).unwrap();
        prop_assert_eq!((&out, consumed), (&data, Some(canonical.len())));
        let (again, _) = feed(ChunkMode::Rechunk, &canonical, &sizes, bypass).unwrap();
        prop_assert_eq!(&again, &canonical);
        let text = String::from_utf8_lossy(&canonical);
        prop_assert!(trailers.iter().all(|trailer| text.contains(trailer.split(':').next().unwrap())));
        // A body that was cut off is never taken for a whole one.
        for cut in 0..end {
            prop_assert_eq!(feed(ChunkMode::Rechunk, &wire[..cut], &[cut.max(1)], false).unwrap().1, None);
        }
    }

    /// Whatever comes: in pieces or at once the output is the same, and what is written is always the beginning of a legal
    /// body.
    #[test]
    fn damaged_chunked_bodies((mut wire, _, _) in chunked_body(), at: prop::sample::Index, with: u8, sizes in prop::collection::vec(1usize..9, 1..6)) {
        let at = at.index(wire.len());
        wire[at] = with;
        let at_once = feed(ChunkMode::Rechunk, &wire, &[wire.len()], false);
        let in_pieces = feed(ChunkMode::Rechunk, &wire, &sizes, true);
        prop_assert_eq!(&at_once, &in_pieces);
        let (mut chunked, mut out) = (Chunked::new(ChunkMode::Rechunk), Vec::new());
        let _ = chunked.advance(&wire, &mut out);
        prop_assert!(feed(ChunkMode::Rechunk, &out, &[1], false).is_ok());
    }
}
