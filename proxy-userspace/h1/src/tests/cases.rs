//! The cases of `tests/h1` without sockets: each case's bytes go through
//! scanner, parser, rewriting and chunked decoder as a session would use them, and the class must be the strictest one
//! that the case allows. The end-to-end tests send the same cases through the real daemon.

use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;

const UUID: &str = "zzzzz-dz642-000000000000001";
const AUTH_VALUE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// How a byte stream ends.
#[derive(Debug, PartialEq)]
enum End {
    /// Between two requests.
    Clean,
    /// Within one.
    Wait,
    /// After a request that asks for it.
    Close,
    Tunnel,
    Refused(RequestError),
}

/// What reaches the container: head and decoded body of each complete request.
type Forwarded = Vec<(Vec<u8>, Vec<u8>)>;

fn session(mut bytes: &[u8], backend: &str) -> (Forwarded, End) {
    let mut forwarded = Vec::new();
    loop {
        match exchange(&mut bytes, backend, &mut forwarded) {
            Ok(None) => {}
            Ok(Some(end)) => return (forwarded, end),
            Err(refusal) => return (forwarded, End::Refused(refusal)),
        }
    }
}

fn exchange(bytes: &mut &[u8], backend: &str, forwarded: &mut Forwarded) -> Result<Option<End>, RequestError> {
    let limits = HeadLimits::default();
    let mut scanner = HeadScanner::new(limits);
    let Some(length) = scanner.advance(bytes)? else {
        return Ok(Some(if scanner.is_idle(bytes) { End::Clean } else { End::Wait }));
    };
    let (head, rest) = bytes.split_at(length);
    let head = RequestHead::parse(head, &limits)?;
    let credential = head.credential()?;
    if credential.uuid.as_str() != UUID || credential.authorization != AUTH_VALUE {
        return Err(CredentialError::Missing.into());
    }
    let mut out = Vec::new();
    write_request(&head, false, credential.port.get(), &mut out);
    assert_canonical(&out, &head);
    let mut body = Vec::new();
    match head.framing {
        BodyFraming::None => *bytes = rest,
        BodyFraming::Length(length) => {
            let Some((content, rest)) = rest.split_at_checked(length as usize) else { return Ok(Some(End::Wait)) };
            body.extend_from_slice(content);
            *bytes = rest;
        }
        BodyFraming::Chunked => {
            let mut rechunked = Vec::new();
            let step = Chunked::new(ChunkMode::Rechunk).advance(rest, &mut rechunked);
            let step = step.map_err(|error| RequestError::Malformed(error.reason()))?;
            if !step.done {
                return Ok(Some(End::Wait));
            }
            assert_eq!(Chunked::new(ChunkMode::Dechunk).advance(rest, &mut body), Ok(step));
            let mut again = Vec::new();
            Chunked::new(ChunkMode::Rechunk).advance(&rechunked, &mut again).unwrap();
            assert_eq!(rechunked, again);
            *bytes = &rest[step.consumed..];
        }
    }
    forwarded.push((out, body));
    let context = head.context();
    if backend == "ws101" && context.upgrade.is_some_and(|offered| offered.contains("websocket")) {
        return Ok(Some(End::Tunnel));
    }
    Ok(if head.keep_alive { None } else { Some(End::Close) })
}

/// What is forwarded reads the same here, and holds nothing private.
fn assert_canonical(out: &[u8], from: &RequestHead<'_>) {
    let head = request(out).unwrap();
    assert_eq!((head.method, head.target, head.framing), (from.method, &*from.origin_target, from.framing));
    assert!(!head.fields.iter().any(|field| matches!(field.kind, Kind::Private | Kind::GatewayAuthorization)));
}

/// The class of an outcome, in the words of the cases.
fn class(case: &Value, forwarded: &Forwarded, end: &End) -> &'static str {
    let expected = case["requests"].as_array().unwrap();
    let count = forwarded.len();
    let same = count <= expected.len() && forwarded.iter().zip(expected).all(|(got, expected)| is_same(got, expected));
    let all = same && count == expected.len() && count > 0;
    match end {
        End::Refused(_) if count == 0 => "reject",
        End::Refused(_) if same && case["reject_after"].as_array().unwrap().contains(&count.into()) => {
            "forward-then-reject"
        }
        // What followed a request that was to be the last on its connection was refused, as it should be.
        End::Refused(_) if all && count == 1 && case["then"] == "close" => "forward-one",
        End::Wait if count == 0 => "wait",
        End::Wait if all => "forward-n-wait",
        End::Tunnel if all => "tunnel",
        End::Clean | End::Close if all && count == 1 => "forward-one",
        End::Clean | End::Close if all => "forward-n",
        _ => "something else",
    }
}

fn is_same((head, body): &(Vec<u8>, Vec<u8>), expected: &Value) -> bool {
    let head = request(head).unwrap();
    let target = expected["target"].as_str().unwrap();
    let path = target.split_once("://").map_or(target, |(_, rest)| rest.find('/').map_or("/", |slash| &rest[slash..]));
    let body_is = |key: &str, actual: &dyn Fn() -> Vec<u8>| {
        expected.get(key).is_none_or(|value| decode(key, value.as_str().unwrap()) == actual())
    };
    head.method == expected["method"]
        && (head.target == target || head.target == path)
        && body_is("body_b64", &|| body.clone())
        && body_is("body_sha256", &|| Sha256::digest(body).to_vec())
}

fn decode(key: &str, value: &str) -> Vec<u8> {
    if key == "body_b64" { base64(value) } else { hex::decode(value).unwrap() }
}

#[test]
fn every_case_gives_its_strictest_class() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/h1/cases.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let mut wrong = Vec::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let backend = case["backend"].as_str().unwrap();
        // What the server does before it has read the request is the session's business.
        if backend.starts_with("early") {
            continue;
        }
        let (forwarded, end) = session(&expand(&template(&case)), backend);
        let class = class(&case, &forwarded, &end);
        let fits = match case["prefer"].as_str() {
            Some(preferred) => class == preferred,
            None => case["expect"].as_array().unwrap().contains(&class.into()),
        };
        if !fits {
            wrong.push(format!("{}: {class}, {end:?}; wanted {} {}", case["id"], case["prefer"], case["expect"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn template(case: &Value) -> Vec<u8> {
    match case.get("parts").and_then(Value::as_array) {
        Some(parts) => parts.iter().flat_map(|part| base64(part["b64"].as_str().unwrap())).collect(),
        None => base64(case["request_b64"].as_str().unwrap()),
    }
}

/// Fills in the placeholders as `h1expand.py` does.
fn expand(template: &[u8]) -> Vec<u8> {
    let lines = format!(
        "X-Arvados-Container-Gateway-Uuid: {UUID}\r\nX-Arvados-Container-Target-Port: 18080\r\nX-Arvados-Authorization: {AUTH_VALUE}\r\n"
    );
    let mut bytes = template.to_vec();
    for (name, value) in [
        ("{{AUTH}}", &*lines),
        ("{{AUTH_VALUE:-1}}", &AUTH_VALUE[1..]),
        ("{{AUTH_VALUE}}", AUTH_VALUE),
        ("{{GATEWAY_UUID}}", UUID),
        ("{{TARGET_PORT}}", "18080"),
    ] {
        bytes = replace(&bytes, name, |_| value.to_owned());
    }
    bytes = replace(&bytes, "{{CL}}", |rest| length(rest, b"\r\n\r\n").to_string());
    bytes = replace(&bytes, "{{CHUNK}}", |rest| format!("{:x}", length(rest, b"\r\n")));
    bytes = replace(&bytes, "{{CHUNK4}}", |rest| format!("{:04x}", length(rest, b"\r\n")));
    replace(&bytes, "{{ENDBODY}}", |_| String::new())
}

/// Octets between the next `start` and the body's end.
fn length(rest: &[u8], start: &[u8]) -> usize {
    let start = find(rest, start).unwrap() + start.len();
    find(rest, b"{{ENDBODY}}").unwrap_or(rest.len()) - start
}

fn replace(bytes: &[u8], name: &str, value: impl Fn(&[u8]) -> String) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    while let Some(at) = find(rest, name.as_bytes()) {
        let after = &rest[at + name.len()..];
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(value(after).as_bytes());
        rest = after;
    }
    out.extend_from_slice(rest);
    out
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |b: u8| match b {
        b'A'..=b'Z' => b - b'A',
        b'a'..=b'z' => b - b'a' + 26,
        b'0'..=b'9' => b - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let mut out = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group.iter().fold(0u32, |bits, &b| bits << 6 | u32::from(digit(b))) << (6 * (4 - group.len()));
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    out
}
