//! Response heads of containers: read as strictly as requests, since a response that can be read in two ways lets one
//! request's answer reach another; except for what RFC 9112 tells an intermediary to mend in them.

use super::chars::{ascii, list};
use super::error::{Bound, HeadError, ResponseFault};
use super::field::{Field, Kind, Options, Reading, content_length, field_lines, take_line};
use super::head::{RequestContext, is_http};
use super::target::is_protocol;
use super::{ResponseLimits, Version};

/// What follows a response head (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseFraming {
    /// No body: the answer to HEAD, 204 or 304.
    None,
    /// This many octets.
    Length(u64),
    /// A chunked body.
    Chunked,
    /// Everything until the container closes.
    UntilClose,
    /// Another response: this one was 1xx.
    Interim,
    /// The upgraded protocol: the connection is opaque from here on.
    Switched,
}

/// A response head that is strictly legal, borrowed from the buffer it was read from.
#[derive(Debug, Clone)]
pub struct ResponseHead<'b> {
    /// 100 to 599.
    pub status: u16,
    /// The reason phrase as received; may be empty or hold obs-text.
    pub reason: &'b [u8],
    /// The container's version.
    pub version: Version,
    /// What follows.
    pub framing: ResponseFraming,
    /// Whether the container takes another request on this connection. Not behind a body that cannot be and was
    /// announced all the same: its octets may follow.
    pub keep_alive: bool,
    /// How long the container keeps an idle connection, in seconds, if it says so (`Keep-Alive: timeout`). No RFC in force has the
    /// field; RFC 2068 19.7.1.1 left its parameters open, and servers agree on this one.
    pub keep_alive_timeout: Option<u32>,
    /// `Content-Length` as received, where there is one: the body's, or for HEAD and 304 the one a GET would have.
    pub content_length: Option<u64>,
    /// The protocols of a 101, or those a 426 asks for.
    pub upgrade: Vec<&'b str>,
    /// All fields in their order, each with its meaning.
    pub fields: Vec<Field<'b>>,
}

impl<'b> ResponseHead<'b> {
    /// Reads a complete head, as [`super::ResponseScanner`] delimits it, as the answer to `asked`.
    ///
    /// # Errors
    /// What makes the answer illegal or ambiguous.
    pub fn parse(head: &'b [u8], context: &RequestContext, limits: &ResponseLimits) -> Result<Self, ResponseFault> {
        if head.len() > limits.head_bytes {
            return Err(HeadError::TooLarge(Bound::HeadBytes).into());
        }
        let (line, rest) = take_line(head)?;
        let (version, status, reason) = status_line(line)?;
        let mut fields = field_lines(rest, &Reading::from(limits))?;
        let options = Options::read(&fields, |kind| {
            matches!(kind, Kind::ContentLength | Kind::TransferEncoding | Kind::FoldedFraming)
        })?;
        let body = match status {
            100..=199 | 204 => Body::dropped(&fields),
            _ => Body::read(&fields, version)?,
        };
        let upgrade = match status {
            101 => switched(&fields, &options, context)?,
            426 => protocols(&fields).filter(|protocol| !is_http(protocol.as_bytes())).collect(),
            _ => Vec::new(),
        };
        options.mark(&mut fields);
        let framing = body.framing(status, version, context.head_method)?;
        Ok(Self {
            status,
            reason,
            version,
            framing,
            keep_alive: !options.close
                && !body.dropped
                && (version == Version::Http11 || options.keep_alive)
                && framing != ResponseFraming::UntilClose,
            keep_alive_timeout: keep_alive_timeout(&fields),
            content_length: body.length,
            upgrade,
            fields,
        })
    }
}

/// `status-line` (RFC 9112 4). The space before an empty reason phrase may be missing: many servers leave it out, and nothing
/// can be read differently for it.
pub(super) fn status_line(line: &[u8]) -> Result<(Version, u16, &[u8]), ResponseFault> {
    const NO_STATUS_LINE: ResponseFault = ResponseFault::new("it does not start with a status line");
    let (version, rest) = line.split_at_checked(b"HTTP/1.1 ".len()).ok_or(NO_STATUS_LINE)?;
    let version = match version {
        b"HTTP/1.1 " => Version::Http11,
        b"HTTP/1.0 " => Version::Http10,
        _ => return Err(NO_STATUS_LINE),
    };
    let (code, reason) = rest.split_at_checked(3).ok_or(NO_STATUS_LINE)?;
    if !matches!(code[0], b'1'..=b'5') || !code.iter().all(u8::is_ascii_digit) {
        return Err(ResponseFault::new("its status is not a number from 100 to 599"));
    }
    let status = code.iter().fold(0, |n, digit| n * 10 + u16::from(digit - b'0'));
    let reason = match reason.split_first() {
        None => reason,
        Some((b' ', reason)) => reason,
        Some(_) => return Err(NO_STATUS_LINE),
    };
    if !super::chars::is_field_value(reason) {
        return Err(ResponseFault::new("its reason phrase holds a control character"));
    }
    Ok((version, status, reason))
}

/// The least `timeout` of all `Keep-Alive` fields. What is no number of seconds says nothing.
fn keep_alive_timeout(fields: &[Field<'_>]) -> Option<u32> {
    let seconds = |parameter: &[u8]| {
        let (name, value) = ascii(parameter)?.split_once('=')?;
        let digits = value.trim().trim_matches('"');
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        // What is too large for a number is for ever.
        (name.trim().eq_ignore_ascii_case("timeout") && is_number).then(|| digits.parse().unwrap_or(u32::MAX))
    };
    fields
        .iter()
        .filter(|field| field.kind == Kind::HopByHop && field.name.eq_ignore_ascii_case(b"keep-alive"))
        .flat_map(|field| list(field.value))
        .filter_map(seconds)
        .min()
}

/// The protocols that all `Upgrade` fields name; malformed ones are left out.
fn protocols<'a, 'b>(fields: &'a [Field<'b>]) -> impl Iterator<Item = &'b str> + 'a {
    fields
        .iter()
        .filter(|field| field.kind == Kind::Upgrade)
        .flat_map(|field| list(field.value))
        .filter(|protocol| is_protocol(protocol))
        .filter_map(ascii)
}

/// The protocols of a 101; all of them must have been offered (RFC 9110 7.8 and 15.2.2).
fn switched<'b>(
    fields: &[Field<'b>],
    options: &Options<'b>,
    context: &RequestContext,
) -> Result<Vec<&'b str>, ResponseFault> {
    let offered =
        context.upgrade.as_ref().ok_or(ResponseFault::new("it switches protocols although none was offered"))?;
    let elements =
        fields.iter().filter(|field| field.kind == Kind::Upgrade).flat_map(|field| list(field.value)).count();
    let chosen: Vec<&str> = protocols(fields).filter(|protocol| offered.contains(protocol)).collect();
    if !options.upgrade || chosen.is_empty() || chosen.len() != elements {
        return Err(ResponseFault::new("it switches to a protocol that was not offered"));
    }
    Ok(chosen)
}

/// The fields that frame a response.
#[derive(Default)]
struct Body {
    length: Option<u64>,
    chunked: bool,
    /// A body was announced that the status does not allow.
    dropped: bool,
}

impl Body {
    /// Of a 1xx or a 204, which end with their heads whatever they announce (RFC 9112 6.3): what is announced is not
    /// passed on.
    fn dropped(fields: &[Field<'_>]) -> Self {
        let announces = |field: &Field<'_>| match field.kind {
            Kind::ContentLength => field.value != b"0",
            Kind::TransferEncoding | Kind::FoldedFraming => true,
            _ => false,
        };
        Self { dropped: fields.iter().any(announces), ..Self::default() }
    }

    fn read(fields: &[Field<'_>], version: Version) -> Result<Self, ResponseFault> {
        let mut body = Self::default();
        for field in fields {
            match field.kind {
                Kind::ContentLength => body.add_length(field.value)?,
                Kind::TransferEncoding if version == Version::Http10 => {
                    return Err(ResponseFault::new("it is HTTP/1.0 and has a Transfer-Encoding"));
                }
                Kind::TransferEncoding if body.chunked || !field.value.eq_ignore_ascii_case(b"chunked") => {
                    return Err(ResponseFault::new("it has a transfer coding other than \"chunked\" alone"));
                }
                Kind::TransferEncoding => body.chunked = true,
                Kind::FoldedFraming => {
                    return Err(ResponseFault::new("it has Content_Length or Transfer_Encoding, which are ambiguous"));
                }
                _ => {}
            }
        }
        if body.chunked && body.length.is_some() {
            return Err(ResponseFault::new("it has both Content-Length and Transfer-Encoding"));
        }
        Ok(body)
    }

    fn add_length(&mut self, value: &[u8]) -> Result<(), ResponseFault> {
        match self.length.replace(content_length(value)?) {
            None => Ok(()),
            Some(_) => Err(ResponseFault::new("it has more than one Content-Length")),
        }
    }

    /// RFC 9112 6.3 for responses.
    fn framing(&self, status: u16, version: Version, head_method: bool) -> Result<ResponseFraming, ResponseFault> {
        match status {
            100..=199 if version == Version::Http10 => Err(ResponseFault::new("it is HTTP/1.0 and interim")),
            101 => Ok(ResponseFraming::Switched),
            100..=199 => Ok(ResponseFraming::Interim),
            204 | 304 => Ok(ResponseFraming::None),
            _ if head_method => Ok(ResponseFraming::None),
            _ if self.chunked => Ok(ResponseFraming::Chunked),
            _ => Ok(self.length.map_or(ResponseFraming::UntilClose, ResponseFraming::Length)),
        }
    }
}
