//! Request heads: however the bytes arrive the outcome is the same, and what is forwarded is canonical.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portsplice_fuzz::h1::{HeadLimits, HeadScanner, Kind, RequestHead, Version, write_request};

fuzz_target!(|data: &[u8]| {
    let limits = HeadLimits::default();
    let whole = HeadScanner::new(limits).advance(data);
    let mut scanner = HeadScanner::new(limits);
    let single = (0..=data.len()).find_map(|end| scanner.advance(&data[..end]).transpose()).transpose();
    assert!(whole == single || (whole.is_err() && single.is_err()), "{whole:?} in one piece, {single:?} byte by byte");
    // What the scanner has not seen must not harm the parser.
    let parsed = RequestHead::parse(data, &limits);
    let Ok(Some(length)) = whole else {
        assert!(parsed.is_err(), "accepted as {parsed:?}, and the scanner did not");
        return;
    };
    let Ok(head) = RequestHead::parse(&data[..length], &limits) else { return };
    let _ = head.credential();
    let mut out = Vec::new();
    write_request(&head, false, 8080, &mut out);
    // The gateway's own fields come on top of as many as are allowed.
    let roomy = HeadLimits { fields: limits.fields + 8, head_bytes: limits.head_bytes + 1024, ..limits };
    assert_eq!(HeadScanner::new(roomy).advance(&out), Ok(Some(out.len())));
    let again = RequestHead::parse(&out, &roomy).expect("what is forwarded is legal");
    assert_eq!((again.method, again.target, again.framing), (head.method, &*head.origin_target, head.framing));
    assert_eq!((again.version, again.keep_alive, &again.upgrade), (Version::Http11, true, &head.upgrade));
    assert!(again.credential().is_err(), "a credential was forwarded");
    let ends_here = |kind| !matches!(kind, Kind::HopByHop | Kind::Named | Kind::Private | Kind::FoldedFraming);
    assert!(again.fields.iter().all(|field| ends_here(field.kind)));
});
