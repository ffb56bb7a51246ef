//! Writes heads canonically: what the other side gets was read here, and can be read in no other way.

use std::io::Write;

use super::Version;
use super::field::{Field, Kind};
use super::head::{BodyFraming, RequestHead};
use super::response::{ResponseFraming, ResponseHead};

/// Appends the head for the container to `out`: origin-form, HTTP/1.1, end-to-end fields as received and in their order,
/// framing and connection fields written anew, no `Via`. The fields
/// of a WebSocket handshake are spelled as in RFC 6455.
///
/// `close` announces that no further request follows on the connection to the container. `port` names the host where an
/// HTTP/1.0 request has none.
pub fn write_request(head: &RequestHead<'_>, close: bool, port: u16, out: &mut Vec<u8>) {
    put(out, &[head.method.as_bytes(), b" ", head.origin_target.as_bytes(), b" HTTP/1.1\r\n"]);
    match head.host {
        Some(host) => put(out, &[b"Host: ", host.as_bytes(), b"\r\n"]),
        None => put_number(out, "Host: localhost:", u64::from(port)),
    }
    let to = Direction::ToContainer { upgrade: head.upgrade.is_some() };
    end_to_end(&head.fields, head.framing == BodyFraming::Chunked, to, out);
    if head.expect_continue {
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    match head.framing {
        BodyFraming::None => {}
        BodyFraming::Length(length) => put_number(out, "Content-Length: ", length),
        BodyFraming::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    connection(out, close, head.upgrade.as_ref().map(|upgrade| upgrade.protocols()), false);
    out.extend_from_slice(b"\r\n");
}

/// How a response is to be written for the client at hand.
#[derive(Debug, Clone, Copy)]
pub struct ToClient<'a> {
    /// The client's version.
    pub version: Version,
    /// The connection is closed after this response.
    pub close: bool,
    /// A chunked body is sent without its chunks, delimited by the end of the connection: for HTTP/1.0 clients.
    pub dechunk: bool,
    /// The gateway's proof, `X-Arvados-Authorization-Response`.
    pub authorization_response: Option<&'a str>,
}

impl ToClient<'_> {
    /// Whether the client's connection must be closed after this response: because the caller wants it, or because its
    /// end delimits the body.
    #[must_use]
    pub fn closes_after(&self, head: &ResponseHead<'_>) -> bool {
        self.close
            || head.framing == ResponseFraming::UntilClose
            || (head.framing == ResponseFraming::Chunked && self.dechunk)
    }
}

/// Appends the head for the client to `out`: end-to-end fields as received and in their order, framing and connection
/// fields written anew. Interim responses and 101 too; clients of HTTP/1.0 know none (RFC 9110 15.2).
pub fn write_response(head: &ResponseHead<'_>, to: &ToClient<'_>, out: &mut Vec<u8>) {
    let _ = write!(out, "HTTP/1.1 {} ", head.status);
    put(out, &[head.reason, b"\r\n"]);
    let chunked = head.framing == ResponseFraming::Chunked && !to.dechunk;
    end_to_end(&head.fields, chunked, Direction::ToClient, out);
    match (head.framing, head.content_length) {
        (ResponseFraming::Length(length), _) => put_number(out, "Content-Length: ", length),
        // The length that a GET would have got.
        (ResponseFraming::None, Some(length)) if head.status != 204 => put_number(out, "Content-Length: ", length),
        (ResponseFraming::Chunked, _) if chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    if let Some(response) = to.authorization_response {
        put(out, &[b"X-Arvados-Authorization-Response: ", response.as_bytes(), b"\r\n"]);
    }
    let upgrade = (!head.upgrade.is_empty()).then(|| head.upgrade.iter().copied());
    match head.framing {
        ResponseFraming::Interim => {}
        ResponseFraming::Switched => connection(out, false, upgrade, false),
        _ => connection(out, to.closes_after(head), upgrade, to.version == Version::Http10),
    }
    out.extend_from_slice(b"\r\n");
}

/// Whom a head is written for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToContainer {
        /// It asks for another protocol.
        upgrade: bool,
    },
    ToClient,
}

/// The fields of a WebSocket handshake as RFC 6455 spells them. What has come through HTTP/2 or Go's net/http has another
/// spelling, and there are servers that look for this one.
const WEBSOCKET: [&str; 5] =
    ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Origin"];

/// The fields that pass through a gateway. `Trailer` announces what only a chunked body can bring.
fn end_to_end(fields: &[Field<'_>], chunked: bool, to: Direction, out: &mut Vec<u8>) {
    for field in fields {
        let passes = match field.kind {
            Kind::Plain | Kind::Forwarded => true,
            Kind::Trailer => chunked,
            Kind::Via => to == Direction::ToClient,
            Kind::Host
            | Kind::ContentLength
            | Kind::TransferEncoding
            | Kind::Connection
            | Kind::Upgrade
            | Kind::Expect
            | Kind::HopByHop
            | Kind::GatewayUuid
            | Kind::GatewayPort
            | Kind::GatewayAuthorization
            | Kind::Private
            | Kind::FoldedFraming
            | Kind::Named => false,
        };
        if passes {
            let shown = match to {
                Direction::ToContainer { upgrade: true } => {
                    WEBSOCKET.iter().map(|name| name.as_bytes()).find(|name| name.eq_ignore_ascii_case(field.name))
                }
                _ => None,
            };
            put(out, &[shown.unwrap_or(field.name), b": ", field.value, b"\r\n"]);
        }
    }
}

/// `Connection` and `Upgrade` for the next hop. HTTP/1.0 keeps a connection only when told so.
fn connection<'a>(out: &mut Vec<u8>, close: bool, upgrade: Option<impl Iterator<Item = &'a str>>, http10: bool) {
    let option: &[u8] = match (&upgrade, close, http10) {
        (Some(_), true, _) => b"Connection: Upgrade, close\r\n",
        (Some(_), false, true) => b"Connection: Upgrade, keep-alive\r\n",
        (Some(_), false, false) => b"Connection: Upgrade\r\n",
        (None, true, _) => b"Connection: close\r\n",
        (None, false, true) => b"Connection: keep-alive\r\n",
        (None, false, false) => b"",
    };
    out.extend_from_slice(option);
    for (i, protocol) in upgrade.into_iter().flatten().enumerate() {
        put(out, &[if i == 0 { b"Upgrade: " } else { b", " }, protocol.as_bytes()]);
    }
    if option.starts_with(b"Connection: Upgrade") {
        out.extend_from_slice(b"\r\n");
    }
}

#[inline]
fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.reserve(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn put_number(out: &mut Vec<u8>, name: &str, number: u64) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{name}{number}\r\n");
}
