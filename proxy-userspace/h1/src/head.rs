//! Request heads: a [`RequestHead`] that exists is legal and framed in one way only.

use std::borrow::Cow;

use super::chars::{ascii, list};
use super::credential::Credential;
use super::error::{Bound, HeadError, RequestError};
use super::field::{Field, Kind, Options, Reading, content_length, field_lines, take_line};
use super::target::{Absolute, is_host, is_protocol, request_line};
use super::{HeadLimits, LEADING_EMPTY_LINES, Version};

/// How the body of a request is delimited (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// Neither field: no body.
    None,
    /// `Content-Length`; zero is possible, and differs from `None` only in that the field is forwarded.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

impl BodyFraming {
    /// Whether no octet of a body follows the head.
    #[must_use]
    pub fn is_empty(self) -> bool {
        matches!(self, Self::None | Self::Length(0))
    }
}

/// The protocols that a request offers to upgrade to, in its order of preference; never empty, never HTTP/2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade<'b> {
    protocols: Vec<&'b str>,
}

impl<'b> Upgrade<'b> {
    /// Each `protocol-name [ "/" protocol-version ]`.
    pub fn protocols(&self) -> impl Iterator<Item = &'b str> + '_ {
        self.protocols.iter().copied()
    }

    /// Whether `protocol` is all that is offered, in any case.
    #[must_use]
    pub fn is_only(&self, protocol: &str) -> bool {
        matches!(self.protocols[..], [only] if only.eq_ignore_ascii_case(protocol))
    }
}

/// The same, kept while the answer is awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedUpgrades(Box<[Box<str>]>);

impl OfferedUpgrades {
    /// Whether `protocol` is among them; names are compared without case (RFC 9110 7.8).
    #[must_use]
    pub fn contains(&self, protocol: &str) -> bool {
        self.0.iter().any(|offered| offered.eq_ignore_ascii_case(protocol))
    }
}

/// What has to be remembered of a request in order to read the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestContext {
    /// The method is HEAD: the answer has no body whatever it says.
    pub head_method: bool,
    /// The client's version: it decides what may be sent to it.
    pub version: Version,
    /// The protocols offered; a 101 must choose among them.
    pub upgrade: Option<OfferedUpgrades>,
}

/// A request head that is strictly legal, borrowed from the buffer it was read from.
#[derive(Debug, Clone)]
pub struct RequestHead<'b> {
    /// The method; a token, case-sensitive.
    pub method: &'b str,
    /// The request target as received; what a `bound` credential covers.
    pub target: &'b str,
    /// The target for the container: origin-form, or `*`.
    pub origin_target: Cow<'b, str>,
    /// The client's version.
    pub version: Version,
    /// How the body is delimited.
    pub framing: BodyFraming,
    /// Whether the client wants to send another request on this connection.
    pub keep_alive: bool,
    /// Whether the client waits for a 100 before it sends the body. `false` without a body, and in HTTP/1.0.
    pub expect_continue: bool,
    /// What the connection may become after a 101. A body, if any, comes first: the stream is opaque only once the request
    /// has been sent whole.
    pub upgrade: Option<Upgrade<'b>>,
    /// All fields in their order, each with its meaning.
    pub fields: Vec<Field<'b>>,
    /// The `Host` for the container, where the request has one: the target's where that is in absolute-form.
    pub host: Option<&'b str>,
}

impl<'b> RequestHead<'b> {
    /// Reads a complete head, as [`super::HeadScanner`] delimits it.
    ///
    /// # Errors
    /// The gateway error to answer with; all of these close the connection.
    pub fn parse(head: &'b [u8], limits: &HeadLimits) -> Result<Self, RequestError> {
        let mut rest = head;
        for _ in 0..LEADING_EMPTY_LINES {
            rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
        }
        if rest.len() > limits.head_bytes {
            return Err(HeadError::TooLarge(Bound::HeadBytes).into());
        }
        let (line, rest) = take_line(rest)?;
        let line = request_line(line, limits)?;
        let mut fields = field_lines(rest, &Reading::from(limits))?;

        let options = Options::read(&fields, relied_on)?;
        let absolute = Absolute::split(line.target).filter(|_| !line.target.starts_with('/'));
        let known = Known::read(&fields, line.version)?;
        known.require_host(line.version)?;
        let framing = known.framing(line.version)?;
        if line.method == "TRACE" && !framing.is_empty() {
            return Err(RequestError::Malformed("a TRACE request has a body"));
        }
        let upgrade = if options.upgrade && line.version == Version::Http11 { offered(&fields) } else { None };
        options.mark(&mut fields);

        Ok(Self {
            method: line.method,
            target: line.target,
            origin_target: absolute
                .as_ref()
                .map_or(Cow::Borrowed(line.target), |absolute| absolute.origin_form(line.method)),
            version: line.version,
            framing,
            keep_alive: !options.close && (line.version == Version::Http11 || options.keep_alive),
            expect_continue: known.expect && line.version == Version::Http11 && !framing.is_empty(),
            upgrade,
            host: known.host(absolute.map(|absolute| absolute.authority))?,
            fields,
        })
    }

    /// The fields that name and prove the destination.
    ///
    /// # Errors
    /// 401 where one is missing, empty or there twice, 400 where the name or the port cannot be one.
    pub fn credential(&self) -> Result<Credential<'b>, RequestError> {
        Credential::read(&self.fields)
    }

    /// Whether the request asks for a raw TCP tunnel to the port itself: GET, HTTP/1.1, `Upgrade: tcp` alone, no body.
    #[must_use]
    pub fn is_tcp_tunnel(&self) -> bool {
        self.method == "GET"
            && self.framing.is_empty()
            && self.upgrade.as_ref().is_some_and(|upgrade| upgrade.is_only("tcp"))
    }

    /// What has to be remembered for the answer.
    #[must_use]
    pub fn context(&self) -> RequestContext {
        RequestContext {
            head_method: self.method == "HEAD",
            version: self.version,
            upgrade: self
                .upgrade
                .as_ref()
                .map(|upgrade| OfferedUpgrades(upgrade.protocols.iter().map(|&protocol| protocol.into()).collect())),
        }
    }
}

/// The fields that a request's `Connection` must not name: without them the request would mean something else.
fn relied_on(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Host
            | Kind::ContentLength
            | Kind::TransferEncoding
            | Kind::FoldedFraming
            | Kind::Expect
            | Kind::Forwarded
            | Kind::GatewayUuid
            | Kind::GatewayPort
            | Kind::GatewayAuthorization
            | Kind::Private
    )
}

/// The fields that frame and route a request, each checked for number and form.
#[derive(Default)]
struct Known<'b> {
    host: Option<&'b str>,
    length: Option<u64>,
    transfer_encodings: usize,
    chunked: bool,
    expect: bool,
}

impl<'b> Known<'b> {
    fn read(fields: &[Field<'b>], version: Version) -> Result<Self, RequestError> {
        let mut known = Self::default();
        for field in fields {
            match field.kind {
                Kind::Host => known.add_host(field.value)?,
                Kind::ContentLength => known.add_length(field.value)?,
                Kind::TransferEncoding => {
                    known.transfer_encodings += 1;
                    known.chunked = field.value.eq_ignore_ascii_case(b"chunked");
                }
                Kind::FoldedFraming => {
                    return Err(RequestError::Malformed(
                        "Content_Length and Transfer_Encoding are ambiguous spellings",
                    ));
                }
                // RFC 9110 10.1.1: a 100-continue in an HTTP/1.0 request is to be ignored.
                Kind::Expect if field.value.eq_ignore_ascii_case(b"100-continue") => known.expect = true,
                Kind::Expect if version == Version::Http11 => return Err(RequestError::ExpectationFailed),
                _ => {}
            }
        }
        Ok(known)
    }

    fn add_length(&mut self, value: &[u8]) -> Result<(), RequestError> {
        match self.length.replace(content_length(value)?) {
            None => Ok(()),
            Some(_) => Err(RequestError::Malformed("there is more than one Content-Length")),
        }
    }

    fn add_host(&mut self, value: &'b [u8]) -> Result<(), RequestError> {
        if !is_host(value) {
            return Err(RequestError::Malformed("Host is not a host and optional port"));
        }
        match self.host.replace(ascii(value).unwrap_or_default()) {
            None => Ok(()),
            Some(_) => Err(RequestError::Malformed("there is more than one Host")),
        }
    }

    /// RFC 9112 6.1 and 6.3, with every choice made for refusal.
    fn framing(&self, version: Version) -> Result<BodyFraming, RequestError> {
        match (self.transfer_encodings, self.length) {
            (0, None) => Ok(BodyFraming::None),
            (0, Some(length)) => Ok(BodyFraming::Length(length)),
            (_, Some(_)) => Err(RequestError::Malformed("there are both Content-Length and Transfer-Encoding")),
            (_, None) if version == Version::Http10 => {
                Err(RequestError::Malformed("an HTTP/1.0 request has a Transfer-Encoding"))
            }
            (1, None) if self.chunked => Ok(BodyFraming::Chunked),
            (_, None) => Err(RequestError::UnsupportedTransferCoding),
        }
    }

    /// The host for the container (RFC 9112 3.2): one in the target must be the one in `Host`.
    fn host(&self, authority: Option<&'b str>) -> Result<Option<&'b str>, RequestError> {
        match (authority, self.host) {
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(host) => {
                Err(RequestError::Malformed("Host differs from the host in the request line"))
            }
            (Some(authority), _) => Ok(Some(authority)),
            (None, host) => Ok(host),
        }
    }

    /// RFC 9112 3.2: HTTP/1.1 requires `Host`.
    fn require_host(&self, version: Version) -> Result<(), RequestError> {
        if self.host.is_none() && version == Version::Http11 {
            return Err(RequestError::Malformed("there is no Host"));
        }
        Ok(())
    }
}

/// The protocols offered by all `Upgrade` fields, without HTTP itself: the gateway reads every request, and could not if the
/// connection turned to HTTP/2.
fn offered<'b>(fields: &[Field<'b>]) -> Option<Upgrade<'b>> {
    let protocols: Vec<&'b str> = fields
        .iter()
        .filter(|field| field.kind == Kind::Upgrade)
        .flat_map(|field| list(field.value))
        .filter(|protocol| is_protocol(protocol) && !is_http(protocol))
        .filter_map(ascii)
        .collect();
    (!protocols.is_empty()).then_some(Upgrade { protocols })
}

/// Whether a protocol is a version of HTTP.
pub(super) fn is_http(protocol: &[u8]) -> bool {
    let name = protocol.split(|&b| b == b'/').next().unwrap_or_default();
    [&b"h2c"[..], b"h2", b"h3", b"http"].iter().any(|http| name.eq_ignore_ascii_case(http))
}
