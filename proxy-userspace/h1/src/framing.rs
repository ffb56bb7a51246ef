//! Chunked bodies (RFC 9112 7.1): decoder, checker and canonical re-encoder in one.
//!
//! Chunk extensions are checked and dropped. Nothing is kept but trailers, so a body costs no memory whatever its chunks
//! are, and raw chunk data may bypass the decoder (see [`Chunked::data_remaining`]).

use super::chars::{is_qdtext, is_quotable, is_tchar};
use super::field::{Blanks, Kind, classify, field_line};

/// Octets of a chunk line, its end included. What is longer is an attack.
const LINE_BYTES: usize = 4096;
/// Octets of all trailers, their end included.
const TRAILER_BYTES: usize = 8192;
/// How many octets of chunk lines may come beyond 16 a chunk and twice its data (the measure of Go's net/http), so that
/// a peer cannot keep the gateway busy with extensions that carry nothing.
const OVERHEAD_BYTES: u64 = 16 * 1024;

/// What becomes of the chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkMode {
    /// Chunked goes out, canonically: `{:x}` CRLF, data, CRLF, and the trailers that may pass.
    Rechunk,
    /// Only the data goes out.
    Dechunk,
}

/// A body that is not legally chunked. The connection it came on cannot be used any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FramingError(&'static str);

impl FramingError {
    /// What is wrong; never holds bytes of the body.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        self.0
    }
}

/// What one call of [`Chunked::advance`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Octets of the input that were used; less than all only when the body ended before.
    pub consumed: usize,
    /// The body is complete, its end has been written.
    pub done: bool,
}

/// Where in the grammar of a chunked body the next octet stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// First digit of a size.
    Start,
    /// Further digits.
    Size,
    /// Whitespace after the size or after an extension's value: only `;` may follow.
    BeforeSemicolon,
    /// After `;`, before a name.
    BeforeName,
    Name,
    AfterName,
    /// After `=`.
    BeforeValue,
    Token,
    Quoted,
    /// After a backslash in a quoted string.
    Escaped,
    AfterQuoted,
    /// The LF of a chunk line.
    LineLf,
    /// Chunk data.
    Data,
    DataCr,
    DataLf,
    /// Start of a trailer line, or of the final empty one.
    TrailerStart,
    Trailer,
    TrailerLf,
    /// The LF that ends the body.
    EndLf,
    Done,
    /// A fault was found; nothing is taken any more.
    Failed,
}

/// A chunked body in transit.
#[derive(Debug)]
pub struct Chunked {
    mode: ChunkMode,
    blanks: Blanks,
    state: State,
    /// The size of the chunk whose line is being read, then what is left of its data.
    left: u64,
    /// Octets of the chunk line so far.
    line: usize,
    overhead: u64,
    trailers: Trailers,
}

impl Chunked {
    /// A request's body that starts with the next octet.
    #[must_use]
    pub fn new(mode: ChunkMode) -> Self {
        Self::reading(mode, Blanks::Refused)
    }

    /// A response's body: blanks behind a chunk's size and before a trailer's colon are left out. (Padded sizes are what
    /// servers write that fill in the size afterwards.)
    #[must_use]
    pub fn of_response(mode: ChunkMode) -> Self {
        Self::reading(mode, Blanks::LeftOut)
    }

    fn reading(mode: ChunkMode, blanks: Blanks) -> Self {
        Self { mode, blanks, state: State::Start, left: 0, line: 0, overhead: 0, trailers: Trailers::default() }
    }

    /// Takes `input` up to its end or the body's, and appends to `out` what goes on: a chunk line once it is read whole
    /// and found legal, the last chunk with its trailers once all of that is.
    ///
    /// # Errors
    /// At the first octet that is not legal. What `out` got before is legal, and incomplete.
    pub fn advance(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Step, FramingError> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let run = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len() - at);
                out.extend_from_slice(&input[at..at + run]);
                self.data_moved(run as u64);
                at += run;
            } else {
                self.octet(input[at], out).inspect_err(|_| self.state = State::Failed)?;
                at += 1;
            }
        }
        Ok(Step { consumed: at, done: self.state == State::Done })
    }

    /// How many octets of raw chunk data come next on the wire. They may be moved to the other side without being passed
    /// through here; all of them or a part, after everything in `out` was written.
    #[must_use]
    pub fn data_remaining(&self) -> u64 {
        if self.state == State::Data { self.left } else { 0 }
    }

    /// Takes note that `n` octets of chunk data were moved past the decoder; at most [`Chunked::data_remaining`].
    pub fn data_moved(&mut self, n: u64) {
        debug_assert!(n <= self.data_remaining());
        self.left = self.left.saturating_sub(n);
        if self.left == 0 && self.state == State::Data {
            self.state = State::DataCr;
        }
    }

    /// How many octets stand before the next chunk line: what is left of a chunk's data and the CRLF behind it, or 0 where
    /// a line begins. None in the midst of a line, where octets were taken that have not gone on yet.
    #[must_use]
    pub fn until_line(&self) -> Option<u64> {
        match self.state {
            State::Start if self.line == 0 => Some(0),
            State::DataCr => Some(2),
            State::Data => self.left.checked_add(2),
            _ => None,
        }
    }

    /// Goes on where somebody else has followed the coding to: so many octets before the next chunk line, as
    /// [`Chunked::until_line`] says it. Everything before has been passed on.
    pub fn resume(&mut self, until_line: u64) {
        debug_assert!(self.until_line().is_some() && until_line != 1);
        self.left = until_line.saturating_sub(2);
        self.line = 0;
        self.state = match until_line {
            0 => State::Start,
            2 => State::DataCr,
            _ => State::Data,
        };
    }

    /// Whether the body is complete.
    #[cfg(test)]
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// One octet outside chunk data.
    #[inline]
    fn octet(&mut self, b: u8, out: &mut Vec<u8>) -> Result<(), FramingError> {
        self.state = match (self.state, b) {
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => {
                self.end_chunk(out);
                State::Start
            }
            (State::DataCr | State::DataLf, _) => {
                return Err(FramingError("chunk data is longer than its size says, or does not end in CRLF"));
            }
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerStart | State::Trailer, b'\n') => {
                return Err(FramingError("a trailer line ends in LF without CR"));
            }
            (State::TrailerStart | State::Trailer, b) => {
                self.trailers.push(b)?;
                State::Trailer
            }
            (State::TrailerLf, b'\n') => {
                self.trailers.end_line(self.blanks)?;
                State::TrailerStart
            }
            (State::EndLf, b'\n') => {
                self.end_body(out);
                State::Done
            }
            (State::TrailerLf | State::EndLf, _) => {
                return Err(FramingError("a trailer line holds CR without LF"));
            }
            (State::Failed | State::Done, _) => return Err(FramingError("the body has ended")),
            (state, b) => self.line_octet(state, b, out)?,
        };
        Ok(())
    }

    /// One octet of a chunk line: `chunk-size [ chunk-ext ] CRLF`.
    #[inline]
    fn line_octet(&mut self, state: State, b: u8, out: &mut Vec<u8>) -> Result<State, FramingError> {
        self.line += 1;
        if self.line > LINE_BYTES {
            return Err(FramingError("a chunk line is too long"));
        }
        Ok(match (state, b) {
            (State::Start | State::Size, b) if b.is_ascii_hexdigit() => {
                self.add_digit(b)?;
                State::Size
            }
            (State::Size | State::Name | State::Token | State::AfterQuoted, b'\r') => State::LineLf,
            (State::BeforeSemicolon | State::AfterName, b'\r') if self.blanks == Blanks::LeftOut => State::LineLf,
            (State::LineLf, b'\n') => self.end_line(out)?,
            (State::LineLf, _) => return Err(FramingError("a chunk line holds CR without LF")),
            (_, b'\n') => return Err(FramingError("a chunk line ends in LF without CR")),
            (State::Start, _) => return Err(FramingError("a chunk size is not hexadecimal")),
            (
                State::Size
                | State::BeforeSemicolon
                | State::Name
                | State::AfterName
                | State::Token
                | State::AfterQuoted,
                b';',
            ) => State::BeforeName,
            (State::Size | State::BeforeSemicolon | State::Token | State::AfterQuoted, b' ' | b'\t') => {
                State::BeforeSemicolon
            }
            (State::BeforeName, b' ' | b'\t') => State::BeforeName,
            (State::BeforeName | State::Name, b) if is_tchar(b) => State::Name,
            (State::Name | State::AfterName, b' ' | b'\t') => State::AfterName,
            (State::Name | State::AfterName, b'=') => State::BeforeValue,
            (State::BeforeValue, b' ' | b'\t') => State::BeforeValue,
            (State::BeforeValue, b'"') => State::Quoted,
            (State::BeforeValue | State::Token, b) if is_tchar(b) => State::Token,
            (State::Quoted, b'"') => State::AfterQuoted,
            (State::Quoted, b'\\') => State::Escaped,
            (State::Quoted, b) if is_qdtext(b) => State::Quoted,
            (State::Escaped, b) if is_quotable(b) => State::Quoted,
            (State::Size, _) => return Err(FramingError("a chunk size is not hexadecimal")),
            _ => return Err(FramingError("a chunk extension is malformed")),
        })
    }

    fn add_digit(&mut self, digit: u8) -> Result<(), FramingError> {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            _ => (digit | 0x20) - b'a' + 10,
        };
        // At most 2^63 - 1, so that no signed arithmetic behind the gateway turns it over.
        if self.left >> 59 != 0 {
            return Err(FramingError("a chunk size is too large"));
        }
        self.left = self.left << 4 | u64::from(value);
        Ok(())
    }

    /// A chunk line is complete and legal.
    fn end_line(&mut self, out: &mut Vec<u8>) -> Result<State, FramingError> {
        self.overhead =
            (self.overhead + self.line as u64).saturating_sub(16u64.saturating_add(self.left.saturating_mul(2)));
        self.line = 0;
        if self.overhead > OVERHEAD_BYTES {
            return Err(FramingError("the overhead of the chunk lines is excessive"));
        }
        if self.left == 0 {
            return Ok(State::TrailerStart);
        }
        if self.mode == ChunkMode::Rechunk {
            put_chunk_line(self.left, out);
        }
        Ok(State::Data)
    }

    fn end_chunk(&self, out: &mut Vec<u8>) {
        if self.mode == ChunkMode::Rechunk {
            out.extend_from_slice(b"\r\n");
        }
    }

    fn end_body(&mut self, out: &mut Vec<u8>) {
        if self.mode == ChunkMode::Rechunk {
            out.extend_from_slice(b"0\r\n");
            out.extend_from_slice(&self.trailers.kept);
            out.extend_from_slice(b"\r\n");
        }
        self.trailers = Trailers::default();
    }
}

/// Appends `{:x}` CRLF without the machinery of `fmt`: small chunks are frequent.
fn put_chunk_line(size: u64, out: &mut Vec<u8>) {
    let mut line = *b"0000000000000000\r\n";
    let mut at = 16;
    let mut left = size;
    while left != 0 {
        at -= 1;
        line[at] = b"0123456789abcdef"[(left & 15) as usize];
        left >>= 4;
    }
    out.extend_from_slice(&line[at.min(15)..]);
}

/// The trailer section: kept until the body's end is certain. Allocates nothing where there are none.
#[derive(Debug, Default)]
struct Trailers {
    /// The line being read.
    line: Vec<u8>,
    /// What passes, canonically, ready to be written.
    kept: Vec<u8>,
    /// Octets of the section so far.
    bytes: usize,
}

impl Trailers {
    fn push(&mut self, b: u8) -> Result<(), FramingError> {
        self.count(1)?;
        self.line.push(b);
        Ok(())
    }

    fn count(&mut self, n: usize) -> Result<(), FramingError> {
        self.bytes += n;
        // The CRLF that ends the section belongs to it.
        if self.bytes + 2 > TRAILER_BYTES { Err(FramingError("the trailers are too large")) } else { Ok(()) }
    }

    fn end_line(&mut self, blanks: Blanks) -> Result<(), FramingError> {
        self.count(2)?;
        let field = field_line(&self.line, blanks).map_err(|_| FramingError("a trailer line is malformed"))?;
        if may_trail(field.name) {
            for part in [field.name, b": ", field.value, b"\r\n"] {
                self.kept.extend_from_slice(part);
            }
        }
        self.line.clear();
        Ok(())
    }
}

/// Whether a field may pass as a trailer (RFC 9110 6.5.1): not where it frames, routes, authenticates, or changes how the
/// message is read, since a server that merges trailers into the header would take it for a header field.
fn may_trail(name: &[u8]) -> bool {
    const NEVER: [&str; 16] = [
        "age",
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "date",
        "expires",
        "location",
        "max-forwards",
        "range",
        "retry-after",
        "set-cookie",
        "vary",
        "www-authenticate",
    ];
    classify(name) == Kind::Plain && !NEVER.iter().any(|never| name.eq_ignore_ascii_case(never.as_bytes()))
}
