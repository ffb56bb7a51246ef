//! Every error that the gateway itself returns, in one exhaustive type: status, label and advice in one place.
//!
//! It is the gateway's own response. It may be written only while no byte of the container's response can have reached
//! the client; afterwards the connection is reset instead.

use std::borrow::Cow;
use std::io::Write;
use std::net::IpAddr;

use portsplice_auth::AuthFailure;
use portsplice_h1::{Bound, CredentialError, FramingError, RequestError, ResponseFault};
use portsplice_model::{Denied, Scope};

use crate::label::label_enum;

/// Why a port cannot be reached on which something listens (502).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreached {
    /// The loopback interface is down in the container's network namespace.
    LoopbackDown,
    /// The server listens on this address, which is none of the container's.
    Foreign(IpAddr),
    /// The server listens on loopback only, and the container's connections are to come from its own address
    /// (`portsplice.source=address`).
    LoopbackOnly,
    /// The container has no address but loopback, and its connections are to come from its own.
    NoAddress,
    /// What the kernel says is in the log.
    Other,
}

impl Unreached {
    fn advice(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::LoopbackDown => {
                "The loopback interface is down in the container's network namespace, so no server in it can be reached. Bring it up there (ip link set lo up), and try again."
            }
            Self::Foreign(address) => {
                return Cow::Owned(format!(
                    "The server listens on {address}, which is not one of the container's addresses. Have it listen on 127.0.0.1, on one of the container's addresses, or on all of them."
                ));
            }
            Self::LoopbackOnly => {
                "The server listens on loopback only, and connections to this container come from its own address (portsplice.source=address). Have it listen on all addresses, or ask the container's owner for portsplice.source=loopback."
            }
            Self::NoAddress => {
                "The container has no address of its own, and connections to it must not come from loopback (portsplice.source=address). Give it a network, or ask its owner for portsplice.source=loopback."
            }
            Self::Other => "The container's port cannot be reached. Check the server in the container, and try again.",
        })
    }
}

/// An answer of the gateway itself instead of the container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayError {
    /// The head is not strictly RFC 9112, or its framing could be read in two ways. The text completes the sentence
    /// "the request was not understood: …" and never holds bytes of the request.
    Malformed(&'static str),
    /// The head is larger, or has more or longer fields, than this setting allows.
    HeadTooLarge(&'static str),
    /// So many heads are unfinished on this node that this one cannot be kept.
    HeadsFull,
    /// The request target is longer than the configuration allows.
    TargetTooLong,
    /// A transfer coding other than `chunked` alone.
    UnsupportedTransferCoding,
    /// A version of HTTP other than 1.0 and 1.1.
    UnsupportedVersion,
    /// CONNECT: a gateway is no forward proxy.
    ConnectRefused,
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
    /// The credential is missing, wrong, stale or replayed.
    Unauthorized(AuthFailure),
    /// No such container runs on this node.
    NotOnThisNode,
    /// More than one running container answers to the name.
    Ambiguous,
    /// The container engine could not be asked, so nothing is known about the name.
    EngineUnavailable,
    /// Policy forbids it.
    Forbidden(Denied),
    /// A cap on connections is reached; later it may work.
    Busy(Scope),
    /// Nothing listens on the port inside the container.
    NotListening,
    /// The port could not be reached for a reason other than that nothing listens.
    Unreachable(Unreached),
    /// The container's response is no HTTP that can be read in one way only.
    BadResponse(&'static str),
    /// The server in the container refuses the TLS handshake: the alert that says why, or what happened instead.
    TlsRefused(&'static str),
    /// The head of the container's response is larger, or has more fields, than this setting allows.
    ResponseHeadTooLarge(&'static str),
    /// The container closed its connection before its answer was whole.
    EarlyEnd,
    /// The container's port did not accept in time.
    ConnectTimeout,
    /// The container did not answer in time.
    ResponseHeaderTimeout,
    /// The container did not accept or answer in time, since it is paused.
    Paused,
    /// The request head did not arrive in time.
    HeadTimeout,
    /// The request body stopped arriving.
    BodyTimeout,
    /// The client ended the connection in the middle of the request's body.
    BodyEnded,
    /// The node is shutting down.
    Draining,
}

label_enum! {
    /// Why the gateway says no, without the details: what metrics and logs show. Stable, lower case, words joined by `_`.
    #[expect(missing_docs, reason = "each is explained at the refusal, or the part of it, that it stands for")]
    pub enum Reason("reason") {
        Malformed => "malformed",
        HeadTooLarge => "head_too_large",
        HeadsFull => "heads_full",
        TargetTooLong => "target_too_long",
        UnsupportedTransferCoding => "unsupported_transfer_coding",
        UnsupportedVersion => "unsupported_version",
        ConnectRefused => "connect_refused",
        ExpectationFailed => "expectation_failed",
        CredentialMissing => "credential_missing",
        CredentialDuplicate => "credential_duplicate",
        CredentialMalformed => "credential_malformed",
        CredentialWrong => "credential_wrong",
        CredentialStale => "credential_stale",
        CredentialReplayed => "credential_replayed",
        CredentialBeforeStart => "credential_before_start",
        NotOnThisNode => "not_here",
        AmbiguousContainer => "ambiguous_container",
        EngineUnavailable => "engine_unavailable",
        Denied => "denied",
        DeniedPort => "denied_port",
        DeniedHostNetwork => "denied_host_network",
        DeniedNoConnections => "denied_no_connections",
        BusyNode => "busy_node",
        BusyContainer => "busy_container",
        BusyClient => "busy_client",
        NotListening => "not_listening",
        LoopbackDown => "loopback_down",
        ForeignAddress => "foreign_address",
        LoopbackOnly => "loopback_only",
        NoAddress => "no_address",
        Unreachable => "unreachable",
        BadResponse => "bad_answer",
        TlsRefused => "tls_refused",
        ResponseHeadTooLarge => "answer_head_too_large",
        EarlyEnd => "early_end",
        ConnectTimeout => "connect_timeout",
        ResponseHeaderTimeout => "answer_timeout",
        Paused => "paused",
        HeadTimeout => "head_timeout",
        BodyTimeout => "body_timeout",
        BodyEnded => "body_ended",
        Draining => "draining",
    }
}

impl GatewayError {
    /// The status code of the answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Malformed(_) | Self::BodyEnded => 400,
            Self::Unauthorized(_) => 401,
            Self::Forbidden(_) => 403,
            Self::ConnectRefused => 405,
            Self::HeadTimeout | Self::BodyTimeout => 408,
            Self::TargetTooLong => 414,
            Self::ExpectationFailed => 417,
            Self::NotOnThisNode | Self::Ambiguous => 421,
            Self::HeadTooLarge(_) => 431,
            Self::UnsupportedTransferCoding => 501,
            Self::NotListening
            | Self::Unreachable(_)
            | Self::BadResponse(_)
            | Self::TlsRefused(_)
            | Self::ResponseHeadTooLarge(_)
            | Self::EarlyEnd => 502,
            Self::EngineUnavailable | Self::Busy(_) | Self::HeadsFull | Self::Draining => 503,
            Self::ConnectTimeout | Self::ResponseHeaderTimeout | Self::Paused => 504,
            Self::UnsupportedVersion => 505,
        }
    }

    /// The label of the gateway error in metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        self.reason().label()
    }

    /// Why, without the details.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Malformed(_) => Reason::Malformed,
            Self::HeadTooLarge(_) => Reason::HeadTooLarge,
            Self::HeadsFull => Reason::HeadsFull,
            Self::TargetTooLong => Reason::TargetTooLong,
            Self::UnsupportedTransferCoding => Reason::UnsupportedTransferCoding,
            Self::UnsupportedVersion => Reason::UnsupportedVersion,
            Self::ConnectRefused => Reason::ConnectRefused,
            Self::ExpectationFailed => Reason::ExpectationFailed,
            Self::Unauthorized(AuthFailure::Missing) => Reason::CredentialMissing,
            Self::Unauthorized(AuthFailure::Duplicate) => Reason::CredentialDuplicate,
            Self::Unauthorized(AuthFailure::Malformed) => Reason::CredentialMalformed,
            Self::Unauthorized(AuthFailure::Wrong) => Reason::CredentialWrong,
            Self::Unauthorized(AuthFailure::Stale) => Reason::CredentialStale,
            Self::Unauthorized(AuthFailure::Replayed) => Reason::CredentialReplayed,
            Self::Unauthorized(AuthFailure::BeforeStart) => Reason::CredentialBeforeStart,
            Self::NotOnThisNode => Reason::NotOnThisNode,
            Self::Ambiguous => Reason::AmbiguousContainer,
            Self::EngineUnavailable => Reason::EngineUnavailable,
            Self::Forbidden(Denied::Denied) => Reason::Denied,
            Self::Forbidden(Denied::Port) => Reason::DeniedPort,
            Self::Forbidden(Denied::HostNetwork) => Reason::DeniedHostNetwork,
            Self::Forbidden(Denied::NoConnections) => Reason::DeniedNoConnections,
            Self::Busy(Scope::Node) => Reason::BusyNode,
            Self::Busy(Scope::Container) => Reason::BusyContainer,
            Self::Busy(Scope::Client) => Reason::BusyClient,
            Self::NotListening => Reason::NotListening,
            Self::Unreachable(Unreached::LoopbackDown) => Reason::LoopbackDown,
            Self::Unreachable(Unreached::Foreign(_)) => Reason::ForeignAddress,
            Self::Unreachable(Unreached::LoopbackOnly) => Reason::LoopbackOnly,
            Self::Unreachable(Unreached::NoAddress) => Reason::NoAddress,
            Self::Unreachable(Unreached::Other) => Reason::Unreachable,
            Self::BadResponse(_) => Reason::BadResponse,
            Self::TlsRefused(_) => Reason::TlsRefused,
            Self::ResponseHeadTooLarge(_) => Reason::ResponseHeadTooLarge,
            Self::EarlyEnd => Reason::EarlyEnd,
            Self::ConnectTimeout => Reason::ConnectTimeout,
            Self::ResponseHeaderTimeout => Reason::ResponseHeaderTimeout,
            Self::Paused => Reason::Paused,
            Self::HeadTimeout => Reason::HeadTimeout,
            Self::BodyTimeout => Reason::BodyTimeout,
            Self::BodyEnded => Reason::BodyEnded,
            Self::Draining => Reason::Draining,
        }
    }

    /// The body of the answer: one line that says what to do next. It names no secret, no header value and no container.
    #[must_use]
    pub fn advice(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Malformed(why) => {
                return Cow::Owned(format!(
                    "The request was not understood: {why}. Send it as RFC 9112 requires, on a new connection."
                ));
            }
            Self::BadResponse(why) => {
                return Cow::Owned(format!(
                    "The server in the container did not send a valid HTTP/1.1 response: {why}. Check which program listens on this port."
                ));
            }
            Self::TlsRefused(why) => {
                return Cow::Owned(format!(
                    "The server in the container refused the TLS handshake ({why}). The name sent (SNI) is the request's Host; check it, and the server's TLS settings."
                ));
            }
            Self::ResponseHeadTooLarge(setting) => {
                return Cow::Owned(format!(
                    "The header of the container's response is larger than this node allows ({setting}). Send fewer or shorter fields, or ask the node's operator to raise that setting."
                ));
            }
            Self::HeadTooLarge(setting) => {
                return Cow::Owned(format!(
                    "The request's header is larger than this node allows ({setting}). Send fewer or shorter fields, cookies above all."
                ));
            }
            Self::HeadsFull => {
                "Too many incomplete request headers are pending on this node (limits.unfinished-heads-bytes). Send the whole header at once, or try again in a moment."
            }
            Self::Unreachable(why) => return why.advice(),
            Self::Unauthorized(failure) => failure.advice(),
            Self::TargetTooLong => {
                "The request's target is longer than this node allows (limits.target-bytes). Send the data in the body instead of the URL."
            }
            Self::UnsupportedTransferCoding => {
                "Only the transfer coding \"chunked\", alone, is understood. Send the body with it or with a Content-Length."
            }
            Self::UnsupportedVersion => {
                "Only HTTP/1.1 and HTTP/1.0 are supported here. Send the request in one of them."
            }
            Self::ConnectRefused => {
                "CONNECT is refused. For a raw TCP tunnel send GET with \"Connection: Upgrade\" and \"Upgrade: tcp\"."
            }
            Self::ExpectationFailed => {
                "The only expectation understood is \"100-continue\". Send the request without the Expect field."
            }
            Self::NotOnThisNode => {
                "This container does not run on this node. Ask the controller where it runs, and send the request there."
            }
            Self::Ambiguous => "More than one container on this node matches this name. Use the container's full ID.",
            Self::EngineUnavailable => {
                "The container engine of this node is unreachable at the moment. Try again in a few seconds."
            }
            Self::Forbidden(Denied::Denied) => {
                "Connections to this container are prohibited. Ask its owner to allow them."
            }
            Self::Forbidden(Denied::Port) => {
                "This port is not among the container's allowed ports. Ask its owner to allow it."
            }
            Self::Forbidden(Denied::HostNetwork) => {
                "This container shares the host's network, which this node does not serve. Run it with a network of its own."
            }
            Self::Forbidden(Denied::NoConnections) => {
                "This container's limit allows no connections. Ask its owner to raise the limit."
            }
            Self::Busy(Scope::Node) => "This node has reached its connection limit. Try again in a moment.",
            Self::Busy(Scope::Container) => {
                "This container has reached its connection limit. Close a connection, or try again in a moment."
            }
            Self::Busy(Scope::Client) => {
                "Your address has reached its connection limit. Close a connection, or try again in a moment."
            }
            Self::NotListening => {
                "Nothing listens on this port in the container. Start the server, or check the port number, and try again."
            }
            Self::EarlyEnd => {
                "The server in the container closed the connection before it sent a response. Check its log, then try again."
            }
            Self::ConnectTimeout => {
                "The container's port did not accept the connection in time. Check whether its server hangs, and try again."
            }
            Self::ResponseHeaderTimeout => {
                "The server in the container did not respond in time. Check whether it hangs, and try again."
            }
            Self::Paused => {
                "The container is paused: its processes are frozen, so it did not respond in time. Ask its owner to unpause it, and try again."
            }
            Self::HeadTimeout => "The request's header did not arrive in time. Send it at once, on a new connection.",
            Self::BodyTimeout => "The request's body stopped arriving. Send the request again on a new connection.",
            Self::BodyEnded => "The connection ended before the request's body did. Send the request again, whole.",
            Self::Draining => "This node is shutting down. Send the request again on a new connection.",
        })
    }

    /// Whether the connection must be closed after this answer, because what follows on it cannot be trusted or is not
    /// wanted. Where this is `false`, the caller still has to close when the refused request's body was not read.
    #[must_use]
    pub fn closes(&self) -> bool {
        match self {
            Self::Malformed(_)
            | Self::HeadTooLarge(_)
            | Self::HeadsFull
            | Self::TargetTooLong
            | Self::UnsupportedTransferCoding
            | Self::UnsupportedVersion
            | Self::ConnectRefused
            | Self::ExpectationFailed
            | Self::Unauthorized(_)
            | Self::Busy(Scope::Node | Scope::Client)
            | Self::HeadTimeout
            | Self::BodyTimeout
            | Self::BodyEnded
            | Self::Draining => true,
            Self::NotOnThisNode
            | Self::Ambiguous
            | Self::EngineUnavailable
            | Self::Forbidden(_)
            | Self::Busy(Scope::Container)
            | Self::NotListening
            | Self::Unreachable(_)
            | Self::BadResponse(_)
            | Self::TlsRefused(_)
            | Self::ResponseHeadTooLarge(_)
            | Self::EarlyEnd
            | Self::ConnectTimeout
            | Self::ResponseHeaderTimeout
            | Self::Paused => false,
        }
    }

    /// The seconds of a `Retry-After` field (RFC 9110 10.2.3), where another attempt makes sense.
    #[must_use]
    pub fn retry_after(&self) -> Option<u32> {
        match self {
            Self::Busy(_) | Self::HeadsFull | Self::Draining => Some(1),
            Self::EngineUnavailable => Some(5),
            _ => None,
        }
    }

    /// Appends the whole answer to `out`.
    ///
    /// `authorization_response` is given once the request's credential was valid. With `head_request` the body is left
    /// out, its length is not. `close` asks for `Connection: close` where [`GatewayError::closes`] does not demand it
    /// anyway; it has to be set for HTTP/1.0 clients, which keep a connection only when told so.
    pub fn render(&self, authorization_response: Option<&str>, head_request: bool, close: bool, out: &mut Vec<u8>) {
        let body = self.advice();
        let status = self.status();
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            "HTTP/1.1 {status} {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n",
            reason(status),
            body.len() + 1
        );
        match self {
            // RFC 9110 15.5.2 and 15.5.6 demand these two fields.
            Self::Unauthorized(_) => out.extend_from_slice(b"WWW-Authenticate: X-Arvados-Authorization\r\n"),
            Self::ConnectRefused => {
                out.extend_from_slice(b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE\r\n");
            }
            _ => {}
        }
        if let Some(seconds) = self.retry_after() {
            let _ = write!(out, "Retry-After: {seconds}\r\n");
        }
        if let Some(response) = authorization_response {
            let _ = write!(out, "X-Arvados-Authorization-Response: {response}\r\n");
        }
        if close || self.closes() {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !head_request {
            out.extend_from_slice(body.as_bytes());
            out.push(b'\n');
        }
    }
}

impl From<RequestError> for GatewayError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Malformed(why) => Self::Malformed(why),
            RequestError::TooLarge(Bound::HeadBytes) => Self::HeadTooLarge("limits.head-bytes"),
            RequestError::TooLarge(Bound::Fields) => Self::HeadTooLarge("limits.head-fields"),
            RequestError::TooLarge(Bound::FieldBytes) => Self::HeadTooLarge("limits.field-bytes"),
            RequestError::TargetTooLong => Self::TargetTooLong,
            RequestError::UnsupportedTransferCoding => Self::UnsupportedTransferCoding,
            RequestError::UnsupportedVersion => Self::UnsupportedVersion,
            RequestError::ConnectRefused => Self::ConnectRefused,
            RequestError::ExpectationFailed => Self::ExpectationFailed,
            RequestError::Credential(CredentialError::Missing) => Self::Unauthorized(AuthFailure::Missing),
            RequestError::Credential(CredentialError::Duplicate) => Self::Unauthorized(AuthFailure::Duplicate),
            RequestError::Credential(CredentialError::Malformed) => Self::Unauthorized(AuthFailure::Malformed),
        }
    }
}

impl From<ResponseFault> for GatewayError {
    fn from(fault: ResponseFault) -> Self {
        match fault {
            ResponseFault::Malformed(why) => Self::BadResponse(why),
            ResponseFault::TooLarge(Bound::Fields) => Self::ResponseHeadTooLarge("limits.response-head-fields"),
            ResponseFault::TooLarge(Bound::HeadBytes | Bound::FieldBytes) => {
                Self::ResponseHeadTooLarge("limits.response-head-bytes")
            }
        }
    }
}

impl From<FramingError> for GatewayError {
    /// For a body of a request; one of a response cannot be refused any more.
    fn from(error: FramingError) -> Self {
        Self::Malformed(error.reason())
    }
}

/// The reason phrase of a status that a gateway error can have (RFC 9110 15, RFC 6585 5).
fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}

#[cfg(test)]
mod tests;
