//! Going through a stream at a play's pace.

use std::io::{self, Read, Write};

use super::play::{Pace, Stream};
use crate::pattern::{self, Cursor};

impl Pace {
    /// How much to take at `at` of a stream; sleeps where the pace has a stop that has not been made yet.
    fn step(&self, at: u64, stops: &mut usize) -> u64 {
        while let Some((_, pause)) = self.stops.get(*stops).filter(|(due, _)| *due <= at) {
            *stops += 1;
            std::thread::sleep(*pause);
        }
        let (least, most) = self.step;
        least + at.wrapping_mul(2_654_435_761) % (most - least + 1)
    }
}

/// Writes a stream's bytes up to `until` in its writer's pace; `write` takes each piece.
pub(super) fn write(stream: &Stream, until: u64, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let (mut at, mut stops) = (0, 0);
    while at < until {
        let len = stream.writer.step(at, &mut stops).min(until - at);
        let part = pattern::slice(stream.base + at, len as usize);
        write(part)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// Reads a stream's bytes up to `until` in its reader's pace and checks each.
pub(super) fn read(stream: &Stream, until: u64, input: &mut impl Read) -> Result<(), ReadError> {
    let mut track = Track::new(stream);
    // No larger than what is used: thousands of these are made.
    let mut buf = vec![0; stream.reader.step.1.min(until).max(1) as usize];
    while track.at() < until {
        let most = track.step().min(until - track.at()) as usize;
        match input.read(&mut buf[..most]) {
            Ok(0) => return Err(ReadError::Ended { at: track.at(), error: None }),
            Ok(n) => track.take(&buf[..n])?,
            Err(error) => return Err(ReadError::Ended { at: track.at(), error: Some(error) }),
        }
    }
    Ok(())
}

/// Why a stream was not read as far as it should.
#[derive(Debug)]
pub(super) enum ReadError {
    /// It ended: in order, or by an error.
    Ended { at: u64, error: Option<io::Error> },
    /// Something else came.
    Wrong(String),
}

/// Where a reader is in a stream.
pub(super) struct Track<'a> {
    stream: &'a Stream,
    cursor: Cursor,
    stops: usize,
}

impl<'a> Track<'a> {
    pub(super) fn new(stream: &'a Stream) -> Self {
        Self { stream, cursor: Cursor::at(stream.base), stops: 0 }
    }

    /// How many bytes have come.
    pub(super) fn at(&self) -> u64 {
        self.cursor.offset() - self.stream.base
    }

    /// How many to read next; sleeps when it is time to.
    pub(super) fn step(&mut self) -> u64 {
        self.stream.reader.step(self.at(), &mut self.stops)
    }

    pub(super) fn take(&mut self, part: &[u8]) -> Result<(), ReadError> {
        let at = self.at();
        self.cursor.take(part).map_err(|fault| {
            ReadError::Wrong(format!(
                "after {at} of {} (pattern from {} on): {fault}",
                self.stream.len, self.stream.base
            ))
        })
    }
}

/// Writes one chunk.
pub(super) fn chunk(out: &mut impl Write, part: &[u8]) -> io::Result<()> {
    let mut all = Vec::with_capacity(part.len() + 20);
    all.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
    all.extend_from_slice(part);
    all.extend_from_slice(b"\r\n");
    out.write_all(&all)
}
