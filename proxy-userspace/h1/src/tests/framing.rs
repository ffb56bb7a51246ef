use super::*;

/// Passes `bytes` through in one piece; the output, and how much was consumed if the body ended.
fn through(mode: ChunkMode, bytes: &[u8]) -> Result<(String, Option<usize>), FramingError> {
    let (mut chunked, mut out) = (Chunked::new(mode), Vec::new());
    let step = chunked.advance(bytes, &mut out)?;
    Ok((String::from_utf8(out).unwrap(), step.done.then_some(step.consumed)))
}

#[track_caller]
fn illegal(bytes: &[u8]) {
    assert!(through(ChunkMode::Rechunk, bytes).is_err(), "{}", bytes.escape_ascii());
}

#[test]
fn canonical_chunks() {
    let (out, end) = through(ChunkMode::Rechunk, b"05\r\nhello\r\n000\r\n").unwrap();
    assert_eq!((&*out, end), ("5\r\nhello\r\n", None));
    let body = b"05\r\nhello\r\nA;a=b ; c = \"d\\\" ;\"\r\n world 123\r\n000\r\n\r\nGET";
    let (out, end) = through(ChunkMode::Rechunk, body).unwrap();
    assert_eq!((&*out, end), ("5\r\nhello\r\na\r\n world 123\r\n0\r\n\r\n", Some(body.len() - 3)));
    let (out, end) = through(ChunkMode::Dechunk, body).unwrap();
    assert_eq!((&*out, end), ("hello world 123", Some(body.len() - 3)));
}

#[test]
fn trailers() {
    let body = b"0\r\nX-Sum:  1 \r\nx-arvados-authorization: a\r\nHost: evil\r\nContent-Length: 9\r\nConnection: x\r\nAuthorization: b\r\nX: \r\n\r\n";
    let (out, end) = through(ChunkMode::Rechunk, body).unwrap();
    assert_eq!((&*out, end), ("0\r\nX-Sum: 1\r\nX: \r\n\r\n", Some(body.len())));
    assert_eq!(through(ChunkMode::Dechunk, body).unwrap(), (String::new(), Some(body.len())));
    for bytes in [
        &b"0\r\n X: a\r\n"[..],
        b"0\r\nX : a\r\n",
        b"0\r\nX\r\n",
        b"0\r\nX: \0\r\n",
        b"0\r\nX: a\n",
        b"0\r\nX: a\rb",
        b"0\r\n\n",
        b"0\r\n\rX",
        b"0\r\n: a\r\n",
    ] {
        illegal(bytes);
    }
    let long = |n: usize| format!("0\r\nX:{}\r\n\r\n", "a".repeat(n));
    assert!(through(ChunkMode::Rechunk, long(8192 - 6).as_bytes()).is_ok());
    illegal(long(8192 - 5).as_bytes());
}

#[test]
fn illegal_chunks() {
    for bytes in [
        &b"\r\n"[..],
        b" 5",
        b"g",
        b"0x5",
        b"5 \r\n",
        b"5\n",
        b"5\rh",
        b"5;\r\n",
        b"5; \r\n",
        b"5;a\n",
        b"5;a\rX",
        b"5;a\0",
        b"5;a=\r\n",
        b"5;a=\"\n",
        b"5;a=\"\x7f",
        b"5;a \r\n",
        b"5 a",
        b"-5",
        b"1_0",
        b"2\r\nabc",
        b"2\r\nab\n",
        b"2\r\nab\rX",
        b"8000000000000000\r\n",
        b"10000000000000000\r\n",
    ] {
        illegal(bytes);
    }
    assert!(through(ChunkMode::Rechunk, b"7fffffffffffffff\r\nx").is_ok());
    illegal(format!("1;{}", "e".repeat(4096)).as_bytes());
    assert!(through(ChunkMode::Rechunk, format!("1;{}", "e".repeat(4092)).as_bytes()).is_ok());
    illegal(format!("1;{}\r\nx\r\n", "e".repeat(1000)).repeat(20).as_bytes());
    assert!(through(ChunkMode::Rechunk, b"1\r\nx\r\n".repeat(100_000).as_slice()).is_ok());
}

/// Of a response blanks are left out behind a size and before a colon; what else is illegal stays so.
#[test]
fn blanks_in_a_response() {
    let response = |bytes: &[u8]| {
        let (mut chunked, mut out) = (Chunked::of_response(ChunkMode::Rechunk), Vec::new());
        let step = chunked.advance(bytes, &mut out)?;
        Ok::<_, FramingError>((String::from_utf8(out).unwrap(), step.done))
    };
    let padded = b"5   \r\nhello\r\n1 \t;a=b \r\n!\r\n1;a \r\n!\r\n0  \r\nX-Sum : 1\r\n\r\n";
    assert_eq!(response(padded).unwrap(), ("5\r\nhello\r\n1\r\n!\r\n1\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n".to_owned(), true));
    illegal(b"5   \r\nhello\r\n");
    for bytes in [&b" 5\r\n"[..], b"5 5\r\n", b"5 \n", b"5;\r\n", b"5; \r\n", b"5;a= \r\n", b"5 \rX"] {
        assert!(response(bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn an_illegal_line_leaves_nothing_behind() {
    let (mut chunked, mut out) = (Chunked::new(ChunkMode::Rechunk), Vec::new());
    assert!(chunked.advance(b"1\r\na\r\n5;a\rX", &mut out).is_err());
    assert_eq!(out, b"1\r\na\r\n");
    assert!(chunked.advance(b"\r\n", &mut out).is_err(), "a fault is final");
}

#[test]
fn data_may_bypass_the_decoder() {
    let (mut chunked, mut out) = (Chunked::new(ChunkMode::Rechunk), Vec::new());
    chunked.advance(b"a\r\n0", &mut out).unwrap();
    assert_eq!((out.as_slice(), chunked.data_remaining()), (&b"a\r\n0"[..], 9));
    chunked.data_moved(4);
    assert_eq!(chunked.data_remaining(), 5);
    chunked.data_moved(5);
    assert_eq!(chunked.data_remaining(), 0);
    out.clear();
    let step = chunked.advance(b"\r\n0\r\n\r\n", &mut out).unwrap();
    assert_eq!((out.as_slice(), step), (&b"\r\n0\r\n\r\n"[..], Step { consumed: 7, done: true }));
    assert_eq!(chunked.data_remaining(), 0);
}
