//! One request head: parsed, authenticated and rewritten for the container, in one go and without waiting for anything.

use std::sync::Arc;

use crate::gateway_error::GatewayError;
use portsplice_auth::{Authenticator, Channel, Presented, Scheme};
use portsplice_discovery::container::Container;
use portsplice_h1::{self, BodyFraming, HeadLimits, RequestContext, RequestHead};
use portsplice_model::unix_time;

/// What the access log says of a request, and what a gateway error of it needs to know; filled as far as it could be
/// read.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestInfo {
    pub(super) method: String,
    /// Without the query, which may carry tokens. Logged as `request_target`: `target` is a name of tracing's own.
    pub(super) target: String,
    pub(super) container: String,
    pub(super) port: u16,
    /// The gateway's answering MAC, once the request is authenticated.
    pub(super) authorization_response: Option<String>,
    /// The container that it was sent to, once it was.
    pub(super) served: Option<Arc<Container>>,
    /// Whether the connection can carry another request when this one is refused: no body is on its way.
    pub(super) reusable: bool,
}

impl RequestInfo {
    pub(super) fn is_head(&self) -> bool {
        self.method == "HEAD"
    }
}

/// A legal, authentic request, ready to be sent.
#[derive(Debug)]
pub(super) struct Request {
    /// The head as the container gets it.
    pub(super) head: Vec<u8>,
    pub(super) framing: BodyFraming,
    /// Its `Host`, with or without a port.
    pub(super) host: Box<str>,
    pub(super) context: RequestContext,
    /// Whether the client wants to go on after the response.
    pub(super) keep_alive: bool,
    pub(super) expect_continue: bool,
    /// Whether it may be sent a second time when a kept-alive connection turns out closed: only reads something, and has no
    /// body. PUT and DELETE may be repeated too (RFC 9110, 9.2.2), but not without their client's knowledge: what another client
    /// has made meanwhile would be overwritten.
    pub(super) replayable: bool,
    /// Whether it asks for the port itself instead of HTTP.
    pub(super) tcp_tunnel: bool,
}

/// Checks `head` and writes what the container gets; says by which scheme it was granted. `info` is filled on the
/// way, also when the request is refused.
pub(super) fn prepare(
    head: &[u8],
    limits: &HeadLimits,
    authenticator: &Authenticator,
    channel: &Channel<'_>,
    info: &mut RequestInfo,
) -> Result<(Request, Scheme), GatewayError> {
    let head = RequestHead::parse(head, limits)?;
    info.method = head.method.to_owned();
    info.target = without_query(&head.origin_target).to_owned();
    let credential = head.credential()?;
    let (uuid, port) = (credential.uuid.as_str(), credential.port.get());
    info.container = uuid.to_owned();
    info.port = port;
    let presented =
        Presented { uuid, port, method: head.method, target: head.target, authorization: credential.authorization };
    let now = unix_time().as_secs();
    let granted = authenticator.check(&presented, channel, now).map_err(GatewayError::Unauthorized)?;
    info.authorization_response = granted.response;
    let bodiless = head.framing.is_empty();
    info.reusable = bodiless && head.keep_alive;

    let mut out = Vec::with_capacity(1024);
    portsplice_h1::write_request(&head, !head.keep_alive, port, &mut out);
    let safe = matches!(head.method, "GET" | "HEAD" | "OPTIONS" | "TRACE");
    let request = Request {
        head: out,
        framing: head.framing,
        // What a request without a host is given, see `portsplice_h1::write_request`.
        host: head.host.unwrap_or("localhost").into(),
        context: head.context(),
        keep_alive: head.keep_alive,
        expect_continue: head.expect_continue,
        replayable: safe && bodiless && head.upgrade.is_none(),
        tcp_tunnel: head.is_tcp_tunnel(),
    };
    Ok((request, granted.scheme))
}

fn without_query(target: &str) -> &str {
    target.split_once('?').map_or(target, |(path, _)| path)
}
