//! HTTP/1.1 heads and bodies as the tests read them, on either side.
//!
//! Strict on purpose (RFC 9112): what the gateway writes must be readable in one way only, so this reader panics at
//! anything it would have to guess about.

use std::io::{self, Read};

/// Name and value of a field, in the order received.
pub type Fields = Vec<(String, String)>;

/// A request's or a response's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The first line, without its end.
    pub line: String,
    /// The fields.
    pub fields: Fields,
}

/// How a message's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

impl Head {
    /// Parses a head, its empty line included.
    #[track_caller]
    #[must_use]
    pub fn parse(raw: &[u8]) -> Self {
        let text: String = raw.iter().map(|&b| b as char).collect();
        let text = text.strip_suffix("\r\n\r\n").unwrap_or_else(|| panic!("no whole head: {text:?}"));
        let mut lines = text.split("\r\n");
        let line = lines.next().expect("split gives one").to_owned();
        let fields = lines.map(|l| {
            let (name, value) =
                l.split_once(':').unwrap_or_else(|| panic!("a line without a colon: {l:?} in {text:?}"));
            assert!(
                name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)),
                "field name {name:?}"
            );
            (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
        });
        let head = Self { fields: fields.collect(), line };
        assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']), "stray line ends or NUL in {text:?}");
        head
    }

    /// The status of a response.
    #[track_caller]
    #[must_use]
    pub fn status(&self) -> u16 {
        let rest = self.line.strip_prefix("HTTP/1.").unwrap_or_else(|| panic!("no status line: {:?}", self.line));
        let code = rest.get(2..5).unwrap_or_else(|| panic!("no status: {:?}", self.line));
        assert!(matches!(rest.as_bytes().get(5), Some(b' ')), "no space after the status: {:?}", self.line);
        code.parse().expect("three digits")
    }

    /// The method of a request.
    #[must_use]
    pub fn method(&self) -> &str {
        self.line.split(' ').next().unwrap_or_default()
    }

    /// The target of a request.
    #[must_use]
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }

    /// The value of the only field with this name; panics when there are several.
    #[track_caller]
    #[must_use]
    pub fn get<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let mut all = self.all(name);
        let first = all.next();
        assert!(all.next().is_none(), "several {name} in {self:?}");
        first
    }

    /// The values of all fields with this name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Whether a comma-separated field lists a token.
    #[must_use]
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.all(name).flat_map(|v| v.split(',')).any(|t| t.trim().eq_ignore_ascii_case(token))
    }

    /// The framing that the fields announce; panics when they contradict each other.
    #[track_caller]
    fn announced(&self) -> Option<Framing> {
        let length = self.get("content-length").map(|v| {
            assert!(!v.is_empty() && v.bytes().all(|b| b.is_ascii_digit()), "Content-Length {v:?}");
            Framing::Length(v.parse().expect("a length"))
        });
        let coding = self.get("transfer-encoding").map(|v| {
            assert_eq!(v, "chunked", "transfer coding");
            Framing::Chunked
        });
        assert!(length.is_none() || coding.is_none(), "two framings in {self:?}");
        coding.or(length)
    }

    /// How a request's body ends.
    #[track_caller]
    #[must_use]
    pub fn request_framing(&self) -> Framing {
        self.announced().unwrap_or(Framing::None)
    }

    /// How the body of a response to `method` ends.
    #[track_caller]
    #[must_use]
    pub fn response_framing(&self, method: &str) -> Framing {
        let announced = self.announced();
        match self.status() {
            100..=199 | 204 => {
                assert_eq!(announced, None, "a response without content must not announce any: {self:?}");
                Framing::None
            }
            304 => Framing::None,
            _ if method == "HEAD" => Framing::None,
            _ => announced.unwrap_or(Framing::UntilClose),
        }
    }
}

/// A reader with a buffer, which reads heads and bodies and nothing beyond them.
pub struct Buffered<R> {
    input: R,
    buf: Vec<u8>,
}

impl<R: Read> Buffered<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self { input, buf: Vec::new() }
    }

    /// What has been read and not yet taken.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.buf
    }

    /// Puts bytes back, to be read again first.
    pub fn unread(&mut self, bytes: &[u8]) {
        self.buf.splice(0..0, bytes.iter().copied());
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut part = [0; 65536];
        let n = self.input.read(&mut part)?;
        self.buf.extend_from_slice(&part[..n]);
        Ok(n)
    }

    fn until(&mut self, end: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut from = 0;
        loop {
            if let Some(at) = self.buf[from..].windows(end.len()).position(|w| w == end) {
                return Ok(Some(self.buf.drain(..from + at + end.len()).collect()));
            }
            from = self.buf.len().saturating_sub(end.len() - 1);
            if self.more()? == 0 {
                return match self.buf.is_empty() {
                    true => Ok(None),
                    false => Err(ended(&format!("in {:?}", String::from_utf8_lossy(&self.buf)))),
                };
            }
        }
    }

    /// The next head; `None` when the other side has ended before its first byte.
    #[track_caller]
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        Ok(self.until(b"\r\n\r\n")?.map(|raw| Head::parse(&raw)))
    }

    /// Waits for a whole head without taking it; false when the other side has ended before its first byte.
    pub fn peek_head(&mut self) -> io::Result<bool> {
        match self.until(b"\r\n\r\n")? {
            Some(head) => {
                self.unread(&head);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// The next line, without its end.
    pub fn line(&mut self) -> io::Result<String> {
        let line = self.until(b"\r\n")?.ok_or_else(|| ended("before a line"))?;
        Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
    }

    /// Gives a body to `sink`, piece by piece as it comes, and returns the trailers.
    #[track_caller]
    pub fn body_into(&mut self, framing: Framing, sink: &mut dyn FnMut(&[u8])) -> io::Result<Fields> {
        match framing {
            Framing::None => {}
            Framing::Length(len) => self.exactly(len, sink)?,
            Framing::UntilClose => loop {
                sink(&self.buf);
                self.buf.clear();
                if self.more()? == 0 {
                    break;
                }
            },
            Framing::Chunked => {
                while self.chunk(sink)? > 0 {}
                return self.trailers();
            }
        }
        Ok(Fields::new())
    }

    /// A whole body and its trailers.
    #[track_caller]
    pub fn body(&mut self, framing: Framing) -> io::Result<(Vec<u8>, Fields)> {
        let mut all = Vec::new();
        let trailers = self.body_into(framing, &mut |part| all.extend_from_slice(part))?;
        Ok((all, trailers))
    }

    /// The next chunk's data; gives its length, 0 for the last chunk, after which the trailers follow.
    #[track_caller]
    pub fn chunk(&mut self, sink: &mut dyn FnMut(&[u8])) -> io::Result<u64> {
        let line = self.line()?;
        let size = line.split(';').next().expect("split gives one");
        let size = u64::from_str_radix(size, 16).unwrap_or_else(|_| panic!("a chunk's size: {line:?}"));
        if size > 0 {
            self.exactly(size, sink)?;
            assert_eq!(self.line()?, "", "a chunk's end");
        }
        Ok(size)
    }

    /// The trailers after the last chunk.
    #[track_caller]
    pub fn trailers(&mut self) -> io::Result<Fields> {
        let mut trailers = Fields::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(trailers);
            }
            let (name, value) = line.split_once(':').expect("a trailer has a colon");
            trailers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Exactly `len` bytes.
    pub fn exactly(&mut self, mut len: u64, sink: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        while len > 0 {
            if self.buf.is_empty() && self.more()? == 0 {
                return Err(ended(&format!("{len} bytes before the body's end")));
            }
            let take = len.min(self.buf.len() as u64) as usize;
            sink(&self.buf[..take]);
            self.buf.drain(..take);
            len -= take as u64;
        }
        Ok(())
    }

    /// What comes next, at least one byte and at most `most`, which must suit `sink`.
    pub fn some(&mut self, most: u64, sink: &mut dyn FnMut(&[u8]) -> Result<(), String>) -> io::Result<u64> {
        if self.buf.is_empty() && self.more()? == 0 {
            return Err(ended(&format!("where up to {most} bytes more were due")));
        }
        let take = most.min(self.buf.len() as u64) as usize;
        sink(&self.buf[..take]).map_err(io::Error::other)?;
        self.buf.drain(..take);
        Ok(take as u64)
    }

    /// All bytes up to the end, and how it ended.
    pub fn rest(&mut self) -> (Vec<u8>, io::Result<()>) {
        loop {
            match self.more() {
                Ok(0) => return (std::mem::take(&mut self.buf), Ok(())),
                Ok(_) => {}
                Err(e) => return (std::mem::take(&mut self.buf), Err(e)),
            }
        }
    }
}

impl<R: Read> Read for Buffered<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.buf.is_empty() {
            return self.input.read(into);
        }
        let n = into.len().min(self.buf.len());
        into[..n].copy_from_slice(&self.buf[..n]);
        self.buf.drain(..n);
        Ok(n)
    }
}

fn ended(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the stream ended {what}"))
}
