//! Start lines, request targets and `Host` (RFC 9112 3 and 4, RFC 3986 3.2.2).

use std::borrow::Cow;

use super::chars::{is_hex, is_reg_name, is_target, is_tchar, is_token};
use super::error::RequestError;
use super::{HeadLimits, Version};

/// Methods are short; what is longer is an attack on a log.
pub(super) const MAX_METHOD: usize = 64;

/// A request line that is legal as a whole.
#[derive(Debug)]
pub(super) struct RequestLine<'b> {
    pub(super) method: &'b str,
    pub(super) target: &'b str,
    pub(super) version: Version,
}

/// Reads a request line without its line end: three parts, one space between them (RFC 9112 3).
pub(super) fn request_line<'b>(line: &'b [u8], limits: &HeadLimits) -> Result<RequestLine<'b>, RequestError> {
    let method_end = line.iter().position(|&b| !is_tchar(b)).unwrap_or(line.len());
    if method_end == 0 || line.get(method_end).is_some_and(|&b| b != b' ') {
        return Err(RequestError::Malformed("the request does not start with a method and one space"));
    }
    if method_end > MAX_METHOD {
        return Err(RequestError::Malformed("the method is too long"));
    }
    let rest = line.get(method_end + 1..).unwrap_or_default();
    let target_end = rest.iter().position(|&b| !is_target(b)).unwrap_or(rest.len());
    if target_end > limits.target_bytes {
        return Err(RequestError::TargetTooLong);
    }
    match rest.get(target_end) {
        Some(b' ') if target_end > 0 => {}
        Some(b'#') => return Err(RequestError::Malformed("the request target has a fragment")),
        Some(b) if !matches!(b, b' ' | b'\t') => {
            return Err(RequestError::Malformed("the request target holds a character that is not allowed"));
        }
        _ => {
            return Err(RequestError::Malformed(
                "the request line is not method, target and version with one space between",
            ));
        }
    }
    let version = version(&rest[target_end + 1..])?;
    let (Ok(method), Ok(target)) = (std::str::from_utf8(&line[..method_end]), std::str::from_utf8(&rest[..target_end]))
    else {
        return Err(RequestError::Malformed("the request line is not ASCII"));
    };
    if method == "CONNECT" {
        return Err(RequestError::ConnectRefused);
    }
    target_form(method, target)?;
    Ok(RequestLine { method, target, version })
}

/// `HTTP-version` (RFC 9112 2.3).
fn version(bytes: &[u8]) -> Result<Version, RequestError> {
    match bytes {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(RequestError::UnsupportedVersion)
        }
        _ => Err(RequestError::Malformed("the request line does not end in a version such as HTTP/1.1")),
    }
}

/// Whether the target has a form that the method allows (RFC 9112 3.2).
fn target_form(method: &str, target: &str) -> Result<(), RequestError> {
    if target.starts_with('/') {
        return Ok(());
    }
    if target == "*" {
        return if method == "OPTIONS" {
            Ok(())
        } else {
            Err(RequestError::Malformed("the target \"*\" is for OPTIONS only"))
        };
    }
    let absolute = Absolute::split(target)
        .ok_or(RequestError::Malformed("the request target is neither a path nor an http or https URL"))?;
    if !is_host(absolute.authority.as_bytes()) || absolute.authority.starts_with(':') {
        return Err(RequestError::Malformed("the URL in the request line has no legal host"));
    }
    Ok(())
}

/// The parts of a target in absolute-form.
pub(super) struct Absolute<'b> {
    /// Host and port.
    pub(super) authority: &'b str,
    /// Path and query, as they stand: may be empty or start with `?`.
    rest: &'b str,
}

impl<'b> Absolute<'b> {
    /// Splits an `http` or `https` URL; `None` for anything else.
    pub(super) fn split(target: &'b str) -> Option<Self> {
        let (scheme, rest) = target.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return None;
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        (!authority.is_empty()).then_some(Self { authority, rest })
    }

    /// The same target in origin-form, or `*` for OPTIONS of the server as a whole (RFC 9112 3.2.4).
    pub(super) fn origin_form(&self, method: &str) -> Cow<'b, str> {
        match self.rest {
            "" if method == "OPTIONS" => Cow::Borrowed("*"),
            "" => Cow::Borrowed("/"),
            rest if rest.starts_with('/') => Cow::Borrowed(rest),
            rest => Cow::Owned(format!("/{rest}")),
        }
    }
}

/// Whether `value` is `uri-host [ ":" port ]` (RFC 9110 7.2, RFC 3986 3.2.2); an empty one is legal.
pub(super) fn is_host(value: &[u8]) -> bool {
    if value.is_empty() {
        return true;
    }
    let after = if value[0] == b'[' {
        let Some(end) = value.iter().position(|&b| b == b']') else { return false };
        let address = &value[1..end];
        if address.is_empty() || !address.iter().all(|&b| is_hex(b) || matches!(b, b':' | b'.')) {
            return false;
        }
        &value[end + 1..]
    } else {
        let mut i = 0;
        while i < value.len() {
            match value[i] {
                b'%' if value.len() > i + 2 && is_hex(value[i + 1]) && is_hex(value[i + 2]) => i += 3,
                b if is_reg_name(b) => i += 1,
                _ => break,
            }
        }
        if i == 0 {
            return false;
        }
        &value[i..]
    };
    match after.split_first() {
        None => true,
        Some((b':', port)) => port.iter().all(u8::is_ascii_digit),
        Some(_) => false,
    }
}

/// Whether `option` is `protocol-name [ "/" protocol-version ]` (RFC 9110 7.8).
pub(super) fn is_protocol(option: &[u8]) -> bool {
    match option.iter().position(|&b| b == b'/') {
        Some(slash) => is_token(&option[..slash]) && is_token(&option[slash + 1..]),
        None => is_token(option),
    }
}
