//! HTTP/1.1 message heads and framing, read strictly (RFC 9112, RFC 9110) and rewritten canonically.
//!
//! Everything here works on bytes in memory: no sockets, no clock. What is accepted can be read in one way only, and what
//! is written holds nothing that another parser could read differently. The rules in short:
//!
//! - every line ends in CRLF; bare LF, bare CR, NUL and control characters, folded lines and whitespace before a colon
//!   refuse the message;
//! - a body is framed by exactly one `Content-Length` or by exactly `Transfer-Encoding: chunked`, never both;
//! - hop-by-hop fields and all `X-Arvados-*` fields end here;
//! - what RFC 9112 tells an intermediary to mend in a *response* is mended: whitespace before a colon (5.1) and after a
//!   chunk's size is left out, and an announcement of a body is dropped from 1xx and 204, which have none (6.3);
//! - containers get no `Via`, neither ours nor one from further up, though RFC 9110 7.6.3 asks for it: servers (nginx with
//!   its defaults) stop compressing for a proxy, and programs are to answer as they do directly. Clients get the
//!   container's own `Via`, if it sends one, and none of ours;
//! - an upgrade goes to the container in the spelling that RFC 6455 shows, `Connection: Upgrade` above all, since there
//!   are servers that compare with it octet by octet.
//!
//! A connection uses it like this: [`HeadScanner`] finds the end of a head in a growing buffer, [`RequestHead::parse`] reads
//! it, [`write_request`] writes the container's version; [`ResponseScanner`], [`ResponseHead::parse`] and
//! [`write_response`] do the same the other way round; [`Chunked`] reads and rewrites chunked bodies.

mod chars;
mod credential;
mod error;
mod field;
mod framing;
mod head;
mod response;
mod rewrite;
mod scan;
mod target;

#[cfg(test)]
mod tests;

pub use credential::Credential;
pub use error::{Bound, CredentialError, RequestError, ResponseFault};
pub use field::{Field, Kind};
pub use framing::{ChunkMode, Chunked, FramingError, Step};
pub use head::{BodyFraming, OfferedUpgrades, RequestContext, RequestHead, Upgrade};
pub use response::{ResponseFraming, ResponseHead};
pub use rewrite::{ToClient, write_request, write_response};
pub use scan::{HeadScanner, ResponseScanner};

/// RFC 9112 2.2 asks to ignore "at least one" empty line before a request; this many are.
pub(crate) const LEADING_EMPTY_LINES: u8 = 2;

/// How large the head of a request may be; what is larger is refused with 431 or 414.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Octets of the whole head, start line and final empty line included.
    pub head_bytes: usize,
    /// Field lines of the head.
    pub fields: usize,
    /// Octets of the request target.
    pub target_bytes: usize,
    /// Octets of one field line, line end excluded. What is beyond `head_bytes` bounds nothing.
    pub field_bytes: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self { head_bytes: 65_536, fields: 128, target_bytes: 16_384, field_bytes: usize::MAX }
    }
}

/// How large the head of a response may be, which servers make larger than clients theirs: preloads, cookies, traces.
/// What is larger is answered with 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseLimits {
    /// Octets of the whole head, start line and final empty line included.
    pub head_bytes: usize,
    /// Field lines of the head.
    pub fields: usize,
}

impl Default for ResponseLimits {
    fn default() -> Self {
        Self { head_bytes: 262_144, fields: 1_000 }
    }
}

/// The versions of HTTP that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}
