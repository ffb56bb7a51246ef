//! Finds the end of a head in a growing buffer, and refuses as soon as a byte decides.
//!
//! The scanners look at each byte once however the bytes arrive: they remember where they stopped. A line is checked when
//! it is complete; of an incomplete start line every byte is, so that a peer that speaks something else is answered at once
//! instead of after the head timeout.

use super::chars::{is_target, is_tchar};
use super::error::{Bound, HeadError, RequestError, ResponseFault};
use super::field::{BARE_LF, Reading, field_line};
use super::response::status_line;
use super::target::{MAX_METHOD, request_line};
use super::{HeadLimits, LEADING_EMPTY_LINES, ResponseLimits};

/// Where the lines of a head begin and end.
#[derive(Debug, Default)]
struct Lines {
    /// Octets in which no further line end can be found.
    searched: usize,
    /// Where the line begins that is looked at now.
    line: usize,
    /// Where the start line begins: after the empty lines that are ignored.
    head: usize,
    empty_lines: u8,
    start_line_done: bool,
    fields: usize,
}

/// What a call of [`Lines::next`] found.
enum Found<'b> {
    /// A complete start line, without its line end.
    Start(&'b [u8]),
    /// The head ends before this position.
    End(usize),
    /// The buffer ends in the middle of this line, which is not empty only if some of it is there.
    Partial(&'b [u8]),
}

impl Lines {
    /// The next thing of interest; field lines are checked on the way.
    fn next<'b>(&mut self, buf: &'b [u8], reading: &Reading, empty_lines: u8) -> Result<Found<'b>, HeadError> {
        loop {
            let Some(offset) = memchr::memchr(b'\n', &buf[self.searched..]) else {
                self.searched = buf.len();
                return self.partial(buf, reading);
            };
            let lf = self.searched + offset;
            let Some((b'\r', line)) = buf[self.line..lf].split_last() else { return Err(BARE_LF) };
            self.searched = lf + 1;
            self.line = lf + 1;
            if lf + 1 - self.head > reading.head_bytes {
                return Err(HeadError::TooLarge(Bound::HeadBytes));
            }
            if !self.start_line_done {
                if !line.is_empty() {
                    self.start_line_done = true;
                    return Ok(Found::Start(line));
                }
                if self.empty_lines == empty_lines {
                    return Err(HeadError::Malformed("there are empty lines where a message should start"));
                }
                self.empty_lines += 1;
                self.head = self.line;
            } else if line.is_empty() {
                return Ok(Found::End(self.line));
            } else {
                self.fields += 1;
                if self.fields > reading.fields {
                    return Err(HeadError::TooLarge(Bound::Fields));
                }
                if line.len() > reading.field_bytes {
                    return Err(HeadError::TooLarge(Bound::FieldBytes));
                }
                field_line(line, reading.blanks)?;
            }
        }
    }

    /// What can be told about a line whose end is not there yet.
    fn partial<'b>(&self, buf: &'b [u8], reading: &Reading) -> Result<Found<'b>, HeadError> {
        let line = &buf[self.line..];
        if self.start_line_done {
            if matches!(line.first(), Some(b' ' | b'\t')) {
                return Err(HeadError::Malformed("a header line starts with whitespace; folded lines are obsolete"));
            }
            // The last byte may be the CR of the line's end.
            if line.len() > reading.field_bytes.saturating_add(1) {
                return Err(HeadError::TooLarge(Bound::FieldBytes));
            }
        }
        if buf.len() - self.head > reading.head_bytes {
            return Err(HeadError::TooLarge(Bound::HeadBytes));
        }
        Ok(Found::Partial(line))
    }
}

/// Finds the end of a request head; use a new one for each request.
#[derive(Debug)]
pub struct HeadScanner {
    limits: HeadLimits,
    lines: Lines,
    start: PartialRequestLine,
}

impl HeadScanner {
    /// A scanner for one head.
    #[must_use]
    pub fn new(limits: HeadLimits) -> Self {
        Self { limits, lines: Lines::default(), start: PartialRequestLine::default() }
    }

    /// Looks at what is new in `buf`, which holds everything received since the last message's end, from its beginning.
    /// Returns the length of the head, with the empty lines before it and the one that ends it, once it is complete.
    ///
    /// # Errors
    /// As soon as what is there cannot become a legal head.
    pub fn advance(&mut self, buf: &[u8]) -> Result<Option<usize>, RequestError> {
        loop {
            match self.lines.next(buf, &Reading::from(&self.limits), LEADING_EMPTY_LINES)? {
                Found::Start(line) => {
                    request_line(line, &self.limits)?;
                }
                Found::End(length) => return Ok(Some(length)),
                Found::Partial(line) => {
                    if !self.lines.start_line_done {
                        self.start.check(line, &self.limits)?;
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// Whether nothing of a request has arrived yet.
    #[cfg(test)]
    pub(crate) fn is_idle(&self, buf: &[u8]) -> bool {
        buf.len() == self.lines.head
    }
}

/// The check of a request line that grows byte by byte.
#[derive(Debug, Default)]
struct PartialRequestLine {
    /// Octets of the line that were checked.
    checked: usize,
    /// Where the target begins, once the method has ended.
    target: Option<usize>,
    /// Where the version begins, once the target has ended.
    version: Option<usize>,
}

impl PartialRequestLine {
    fn check(&mut self, line: &[u8], limits: &HeadLimits) -> Result<(), RequestError> {
        const NOT_A_LINE: RequestError =
            RequestError::Malformed("the request line is not method, target and version with one space between");
        // A CR is legal as the last byte only. It is looked at again when more is there.
        let end = if line.last() == Some(&b'\r') { line.len() - 1 } else { line.len() };
        while self.checked < end {
            let b = line[self.checked];
            match (self.target, self.version) {
                (None, _) if is_tchar(b) && self.checked < MAX_METHOD => {}
                (None, _) if b == b' ' && self.checked > 0 => self.target = Some(self.checked + 1),
                (None, _) => return Err(NOT_A_LINE),
                (Some(target), None) if is_target(b) => {
                    if self.checked - target >= limits.target_bytes {
                        return Err(RequestError::TargetTooLong);
                    }
                }
                (Some(target), None) if b == b' ' && self.checked > target => self.version = Some(self.checked + 1),
                (Some(_), Some(version)) if b"HTTP/".get(self.checked - version).is_none_or(|&known| known == b) => {
                    if self.checked - version >= b"HTTP/1.1".len() {
                        return Err(NOT_A_LINE);
                    }
                }
                _ => return Err(NOT_A_LINE),
            }
            self.checked += 1;
        }
        Ok(())
    }
}

/// Finds the end of a response head; use a new one for each response, interim ones included.
#[derive(Debug)]
pub struct ResponseScanner {
    limits: ResponseLimits,
    lines: Lines,
}

impl ResponseScanner {
    /// A scanner for one head.
    #[must_use]
    pub fn new(limits: ResponseLimits) -> Self {
        Self { limits, lines: Lines::default() }
    }

    /// Looks at what is new in `buf`, which holds everything received since the last message's end, from its beginning.
    /// Returns the length of the head once it is complete.
    ///
    /// # Errors
    /// As soon as what is there cannot become a legal head.
    pub fn advance(&mut self, buf: &[u8]) -> Result<Option<usize>, ResponseFault> {
        loop {
            match self.lines.next(buf, &Reading::from(&self.limits), 0)? {
                Found::Start(line) => {
                    status_line(line)?;
                }
                Found::End(length) => return Ok(Some(length)),
                Found::Partial(line) => {
                    let known = line.len().min(b"HTTP/1.".len());
                    if !self.lines.start_line_done && line[..known] != b"HTTP/1."[..known] {
                        return Err(ResponseFault::new("its first bytes are not a status line"));
                    }
                    return Ok(None);
                }
            }
        }
    }
}
