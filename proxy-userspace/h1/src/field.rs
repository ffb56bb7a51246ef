//! One field line of a head, what it means to a gateway, and the options of `Connection`.

use super::chars::{is_field_value, is_tchar, list, trim_ows};
use super::error::{Bound, HeadError};
use super::{HeadLimits, ResponseLimits};

/// What a field is to the gateway, decided once from its name when the head is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Passes as it is.
    Plain,
    /// `Host`.
    Host,
    /// `Content-Length`; written anew.
    ContentLength,
    /// `Transfer-Encoding`; written anew.
    TransferEncoding,
    /// `Connection`; written anew.
    Connection,
    /// `Upgrade`; written anew.
    Upgrade,
    /// `Expect`; written anew.
    Expect,
    /// `Trailer`; passes with a chunked body only.
    Trailer,
    /// `Via`: passes from a container, and not to one.
    Via,
    /// `X-Forwarded-For`, `-Host`, `-Proto`: pass, but `Connection` must not remove them.
    Forwarded,
    /// Meant for the next hop only, and of no use to it here: `Keep-Alive`, `TE` and the like.
    HopByHop,
    /// `X-Arvados-Container-Gateway-Uuid`, spelled exactly.
    GatewayUuid,
    /// `X-Arvados-Container-Target-Port`, spelled exactly.
    GatewayPort,
    /// `X-Arvados-Authorization`, spelled exactly.
    GatewayAuthorization,
    /// Any other field that a server might take for an `X-Arvados-*` one.
    Private,
    /// `Content_Length` or `Transfer_Encoding`: some servers take them for the real ones.
    FoldedFraming,
    /// Named by `Connection`, and so ends here.
    Named,
}

/// One field of a head, borrowed from the buffer it was read from.
#[derive(Debug, Clone, Copy)]
pub struct Field<'b> {
    /// The name as received; a token.
    pub name: &'b [u8],
    /// The value as received without surrounding whitespace; may hold obs-text.
    pub value: &'b [u8],
    /// What the name means here.
    pub kind: Kind,
}

/// How strictly a head is read, and how large it may be: what differs between the two kinds of heads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    pub(super) head_bytes: usize,
    pub(super) fields: usize,
    pub(super) field_bytes: usize,
    pub(super) blanks: Blanks,
}

impl From<&HeadLimits> for Reading {
    fn from(limits: &HeadLimits) -> Self {
        let HeadLimits { head_bytes, fields, field_bytes, .. } = *limits;
        Self { head_bytes, fields, field_bytes, blanks: Blanks::Refused }
    }
}

impl From<&ResponseLimits> for Reading {
    fn from(limits: &ResponseLimits) -> Self {
        let ResponseLimits { head_bytes, fields } = *limits;
        Self { head_bytes, fields, field_bytes: usize::MAX, blanks: Blanks::LeftOut }
    }
}

/// What becomes of whitespace where none belongs: before a colon, behind a chunk's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blanks {
    /// The message is refused: what a request's sender means by them, a server may read differently.
    Refused,
    /// They are not passed on, as RFC 9112 5.1 wants it for responses.
    LeftOut,
}

/// Reads one field line without its line end (RFC 9112 5).
#[inline]
pub(super) fn field_line(line: &[u8], blanks: Blanks) -> Result<Field<'_>, HeadError> {
    let mut end = line.iter().position(|&b| !is_tchar(b)).unwrap_or(line.len());
    let name = &line[..end];
    if blanks == Blanks::LeftOut && end > 0 {
        end += line[end..].iter().take_while(|&&b| matches!(b, b' ' | b'\t')).count();
    }
    match line.get(end) {
        Some(b':') if end > 0 => {}
        Some(b':') => return Err(HeadError::Malformed("a header field has no name")),
        Some(b' ' | b'\t') if end == 0 => {
            return Err(HeadError::Malformed("a header line starts with whitespace; folded lines are obsolete"));
        }
        Some(b' ' | b'\t') => {
            return Err(HeadError::Malformed("there is whitespace between a field name and its colon"));
        }
        Some(_) => return Err(HeadError::Malformed("a field name holds a character that is not allowed")),
        None => return Err(HeadError::Malformed("a header line has no colon")),
    }
    let value = trim_ows(&line[end + 1..]);
    if !is_field_value(value) {
        return Err(HeadError::Malformed("a field value holds a control character"));
    }
    Ok(Field { name, value, kind: classify(name) })
}

/// The meaning of a field name, in any case.
#[inline]
pub(super) fn classify(name: &[u8]) -> Kind {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    // Length and first letter rule out nearly every name without a comparison.
    let first = name.first().map_or(0, u8::to_ascii_lowercase);
    match (name.len(), first) {
        (2, b't') if is("te") => Kind::HopByHop,
        (3, b'v') if is("via") => Kind::Via,
        (4, b'h') if is("host") => Kind::Host,
        (6, b'e') if is("expect") => Kind::Expect,
        (7, b'u') if is("upgrade") => Kind::Upgrade,
        (7, b't') if is("trailer") => Kind::Trailer,
        (10, b'c') if is("connection") => Kind::Connection,
        (10, b'k') if is("keep-alive") => Kind::HopByHop,
        (14, b'c') if is("content-length") => Kind::ContentLength,
        (14, b'c') if is("content_length") => Kind::FoldedFraming,
        (14, b'h') if is("http2-settings") => Kind::HopByHop,
        (16, b'p') if is("proxy-connection") => Kind::HopByHop,
        (17, b't') if is("transfer-encoding") => Kind::TransferEncoding,
        (17, b't') if is("transfer_encoding") => Kind::FoldedFraming,
        (18, b'p') if is("proxy-authenticate") => Kind::HopByHop,
        (19, b'p') if is("proxy-authorization") => Kind::HopByHop,
        (_, b'x') => classify_extension(name),
        _ => Kind::Plain,
    }
}

/// The same for names that begin with X.
fn classify_extension(name: &[u8]) -> Kind {
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    match name.len() {
        15 if is("x-forwarded-for") => Kind::Forwarded,
        16 if is("x-forwarded-host") => Kind::Forwarded,
        17 if is("x-forwarded-proto") => Kind::Forwarded,
        23 if is("x-arvados-authorization") => Kind::GatewayAuthorization,
        31 if is("x-arvados-container-target-port") => Kind::GatewayPort,
        32 if is("x-arvados-container-gateway-uuid") => Kind::GatewayUuid,
        _ if is_private(name) => Kind::Private,
        _ => Kind::Plain,
    }
}

/// Whether a server might take `name` for an `X-Arvados-*` field. CGI and its heirs fold `-` to `_`, some fold every
/// character that is no letter or digit.
#[inline]
fn is_private(name: &[u8]) -> bool {
    let Some((b'x' | b'X', rest)) = name.split_first() else { return false };
    let Some((joint, rest)) = rest.split_first() else { return false };
    !joint.is_ascii_alphanumeric()
        && rest.len() >= 7
        && rest[..7].eq_ignore_ascii_case(b"arvados")
        && rest.get(7).is_none_or(|b| !b.is_ascii_alphanumeric())
}

/// Reads the field lines of a head after its start line, up to and including the final empty line, which has to be the
/// end of `rest`.
pub(super) fn field_lines<'b>(mut rest: &'b [u8], reading: &Reading) -> Result<Vec<Field<'b>>, HeadError> {
    let mut fields = Vec::with_capacity(24.min(reading.fields));
    loop {
        let (line, after) = take_line(rest)?;
        rest = after;
        if line.is_empty() {
            break;
        }
        if fields.len() == reading.fields {
            return Err(HeadError::TooLarge(Bound::Fields));
        }
        if line.len() > reading.field_bytes {
            return Err(HeadError::TooLarge(Bound::FieldBytes));
        }
        fields.push(field_line(line, reading.blanks)?);
    }
    if rest.is_empty() { Ok(fields) } else { Err(HeadError::Malformed("bytes follow the end of the head")) }
}

/// Splits one line off, without its CRLF.
#[inline]
pub(super) fn take_line(bytes: &[u8]) -> Result<(&[u8], &[u8]), HeadError> {
    let Some(lf) = memchr::memchr(b'\n', bytes) else {
        return Err(HeadError::Malformed("the head is not complete"));
    };
    match bytes[..lf].split_last() {
        Some((b'\r', line)) => Ok((line, &bytes[lf + 1..])),
        _ => Err(BARE_LF),
    }
}

/// A line that ends in LF alone.
pub(super) const BARE_LF: HeadError = HeadError::Malformed("a line ends in LF without CR");

/// `Content-Length = 1*DIGIT` (RFC 9110 8.6) without leading zeros, which some take for octal, and at most 2^63 - 1.
pub(super) fn content_length(value: &[u8]) -> Result<u64, HeadError> {
    const INVALID: HeadError = HeadError::Malformed("Content-Length is not one decimal number");
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(INVALID);
    }
    if value.len() > 1 && value[0] == b'0' {
        return Err(HeadError::Malformed("Content-Length has leading zeros"));
    }
    let number = value.iter().try_fold(0i64, |n, &digit| n.checked_mul(10)?.checked_add(i64::from(digit - b'0')));
    number.and_then(|n| u64::try_from(n).ok()).ok_or(HeadError::Malformed("Content-Length is too large"))
}

/// How many field names `Connection` may hold; more is no honest client, and each costs a look at every field.
const MAX_NAMED: usize = 32;

/// The options of all `Connection` fields (RFC 9110 7.6.1).
#[derive(Debug, Default)]
pub(super) struct Options<'b> {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// Names of fields that end at this hop and are not removed anyway.
    named: Vec<&'b [u8]>,
}

impl<'b> Options<'b> {
    /// Collects the options. `relied_on` tells which fields must not be named.
    pub(super) fn read(fields: &[Field<'b>], relied_on: fn(Kind) -> bool) -> Result<Self, HeadError> {
        let mut options = Self::default();
        for field in fields.iter().filter(|field| field.kind == Kind::Connection) {
            for option in list(field.value) {
                options.add(option, relied_on)?;
            }
        }
        Ok(options)
    }

    fn add(&mut self, option: &'b [u8], relied_on: fn(Kind) -> bool) -> Result<(), HeadError> {
        if option.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        } else {
            match classify(option) {
                kind if relied_on(kind) => {
                    return Err(HeadError::Malformed("Connection names a field that the gateway relies on"));
                }
                Kind::HopByHop | Kind::Connection | Kind::Upgrade => {}
                _ if self.named.len() == MAX_NAMED => {
                    return Err(HeadError::Malformed("Connection names too many fields"));
                }
                _ => self.named.push(option),
            }
        }
        Ok(())
    }

    /// Marks the fields that `Connection` names, so that they are not forwarded.
    pub(super) fn mark(&self, fields: &mut [Field<'b>]) {
        for name in &self.named {
            for field in fields.iter_mut().filter(|field| field.name.eq_ignore_ascii_case(name)) {
                field.kind = Kind::Named;
            }
        }
    }
}
