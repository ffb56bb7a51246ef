//! Response heads: however the bytes arrive the outcome is the same, and what the client gets is canonical.
//! The first octet says what was asked and who gets the answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portsplice_fuzz::h1::{
    HeadLimits, Kind, RequestHead, ResponseFraming, ResponseHead, ResponseLimits, ResponseScanner, ToClient, Version,
    write_response,
};

fuzz_target!(|data: &[u8]| {
    let Some((&how, data)) = data.split_first() else { return };
    let limits = ResponseLimits::default();
    let method = if how & 1 != 0 { "HEAD" } else { "GET" };
    let upgrade = if how & 2 != 0 { "Connection: upgrade\r\nUpgrade: websocket, x/1\r\n" } else { "" };
    let request = format!("{method} / HTTP/1.1\r\nHost: h\r\n{upgrade}\r\n");
    let context =
        RequestHead::parse(request.as_bytes(), &HeadLimits::default()).expect("the request is legal").context();

    let whole = ResponseScanner::new(limits).advance(data);
    let mut scanner = ResponseScanner::new(limits);
    let single = (0..=data.len()).find_map(|end| scanner.advance(&data[..end]).transpose()).transpose();
    assert!(whole == single || (whole.is_err() && single.is_err()), "{whole:?} in one piece, {single:?} byte by byte");
    let parsed = ResponseHead::parse(data, &context, &limits);
    let Ok(Some(length)) = whole else {
        assert!(parsed.is_err(), "accepted as {parsed:?}, and the scanner did not");
        return;
    };
    let Ok(head) = ResponseHead::parse(&data[..length], &context, &limits) else { return };
    let version = if how & 4 != 0 { Version::Http10 } else { Version::Http11 };
    let to = ToClient { version, close: how & 8 != 0, dechunk: how & 16 != 0, authorization_response: Some("f00d") };
    let mut out = Vec::new();
    write_response(&head, &to, &mut out);
    // The gateway's own fields come on top of as many as are allowed.
    let roomy = ResponseLimits { fields: limits.fields + 8, head_bytes: limits.head_bytes + 1024 };
    let again = ResponseHead::parse(&out, &context, &roomy).expect("what is forwarded is legal");
    assert_eq!(again.status, head.status);
    if !(head.framing == ResponseFraming::Chunked && to.dechunk) {
        assert_eq!(again.framing, head.framing);
    }
    let proofs = again.fields.iter().filter(|field| matches!(field.kind, Kind::Private | Kind::GatewayAuthorization));
    assert!(proofs.map(|field| field.value).eq([b"f00d"]), "a field of the gateway's was forged");
});
