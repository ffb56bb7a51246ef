use super::*;

/// One of each variant, and of each of its own variants.
fn all() -> Vec<GatewayError> {
    use GatewayError::*;
    let mut all = vec![
        Malformed("a reason"),
        HeadTooLarge("limits.head-bytes"),
        HeadsFull,
        TargetTooLong,
        UnsupportedTransferCoding,
        UnsupportedVersion,
        ConnectRefused,
        ExpectationFailed,
        NotOnThisNode,
        Ambiguous,
        EngineUnavailable,
        NotListening,
        Unreachable(Unreached::LoopbackDown),
        Unreachable(Unreached::Foreign(IpAddr::from([192, 0, 2, 1]))),
        Unreachable(Unreached::LoopbackOnly),
        Unreachable(Unreached::NoAddress),
        Unreachable(Unreached::Other),
        BadResponse("a reason"),
        TlsRefused("a reason"),
        ResponseHeadTooLarge("limits.response-head-bytes"),
        EarlyEnd,
        ConnectTimeout,
        ResponseHeaderTimeout,
        Paused,
        HeadTimeout,
        BodyTimeout,
        BodyEnded,
        Draining,
    ];
    all.extend([Denied::Denied, Denied::Port, Denied::HostNetwork, Denied::NoConnections].map(Forbidden));
    all.extend([Scope::Node, Scope::Container, Scope::Client].map(Busy));
    use AuthFailure as Auth;
    all.extend(
        [Auth::Missing, Auth::Duplicate, Auth::Malformed, Auth::Wrong, Auth::Stale, Auth::Replayed, Auth::BeforeStart]
            .map(Unauthorized),
    );
    all
}

#[test]
fn every_refusal_is_one_complete_message() {
    for error in all() {
        let mut out = Vec::new();
        error.render(Some("f00d"), false, false, &mut out);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {} ", error.status())), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        assert!(head.contains("\r\nX-Arvados-Authorization-Response: f00d"), "{head}");
        assert_eq!(head.contains("\r\nConnection: close"), error.closes(), "{head}");
        assert_eq!(body.lines().count(), 1, "{body}");
        assert!(body.ends_with(".\n") && body.len() > 40, "{body}");
        assert_ne!(reason(error.status()), "Internal Server Error", "{error:?} has no phrase");
    }
}

#[test]
fn labels_are_distinct_and_fit_for_metrics() {
    let mut labels: Vec<_> = all().iter().map(GatewayError::label).collect();
    assert!(labels.iter().all(|label| label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    labels.sort_unstable();
    let count = labels.len();
    labels.dedup();
    assert_eq!(labels.len(), count);
}

#[test]
fn the_answer_to_head_has_no_body() {
    let mut out = Vec::new();
    GatewayError::NotOnThisNode.render(None, true, true, &mut out);
    let text = String::from_utf8(out).unwrap();
    assert!(text.ends_with("Connection: close\r\n\r\n"));
    assert!(!text.contains("Content-Length: 0"));
}

#[test]
fn required_fields_are_there() {
    let render = |error: GatewayError| {
        let mut out = Vec::new();
        error.render(None, false, false, &mut out);
        String::from_utf8(out).unwrap()
    };
    assert!(render(GatewayError::ConnectRefused).contains("\r\nAllow: GET, "));
    assert!(render(GatewayError::Unauthorized(AuthFailure::Missing)).contains("\r\nWWW-Authenticate: "));
    assert!(render(GatewayError::Busy(Scope::Container)).contains("\r\nRetry-After: 1\r\n"));
}

/// docs/protocol.md lists every refusal with its status, and says which close the connection.
#[test]
fn the_protocol_document_lists_all() {
    let document = include_str!("../../../docs/protocol.md");
    let rows: Vec<_> = document.lines().filter(|line| line.starts_with("| ") && line.contains(" | `")).collect();
    for error in all() {
        let begin = format!("| {} | `{}` | ", error.status(), error.label());
        let row = rows.iter().find(|row| row.starts_with(&begin)).unwrap_or_else(|| panic!("no row {begin}"));
        assert_eq!(row.ends_with("| closes |"), error.closes(), "{row}");
        assert_eq!(row.contains("`Retry-After`"), error.retry_after().is_some(), "{row}");
    }
}
