//! Lines out of a stream of bytes, none of them longer than the limit.

/// The longest line, in bytes without its end.
pub const LIMIT: usize = 1024 * 1024;

/// What a stream of bytes consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A line, without its end; `\r\n` ends one as `\n` does. Blank ones are not told.
    Line(Vec<u8>),
    /// A line that was longer than the limit and is dropped up to its end; told once, when the limit is passed.
    TooLong,
}

/// Takes bytes as they come and gives lines. Holds at most [`LIMIT`] bytes of a line that is not complete, and what was
/// pushed and not asked for yet.
#[derive(Debug)]
pub struct Frames {
    buffer: Vec<u8>,
    /// Of the buffer, what was given away already.
    start: usize,
    /// Of the buffer, what holds no end of a line.
    searched: usize,
    limit: usize,
    /// Within a line that was too long.
    skipping: bool,
}

impl Default for Frames {
    fn default() -> Self {
        Self::with_limit(LIMIT)
    }
}

impl Frames {
    /// With another limit.
    pub fn with_limit(limit: usize) -> Self {
        Self { buffer: Vec::new(), start: 0, searched: 0, limit, skipping: false }
    }

    /// Takes what was read. [`Self::take`] is to be called until it gives nothing, before more is read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, as far as it has come.
    pub fn take(&mut self) -> Option<Frame> {
        loop {
            let Some(at) = memchr::memchr(b'\n', &self.buffer[self.searched..]) else {
                return self.unfinished();
            };
            let end = self.searched + at;
            let line = self.buffer[self.start..end].strip_suffix(b"\r").unwrap_or(&self.buffer[self.start..end]);
            let skipped = std::mem::take(&mut self.skipping);
            let frame = if skipped || line.trim_ascii().is_empty() {
                None
            } else if line.len() > self.limit {
                Some(Frame::TooLong)
            } else {
                Some(Frame::Line(line.to_vec()))
            };
            self.start = end + 1;
            self.searched = self.start;
            if frame.is_some() {
                return frame;
            }
        }
    }

    /// There is no whole line: whether what there is can still become one.
    fn unfinished(&mut self) -> Option<Frame> {
        self.searched = self.buffer.len();
        // One more may be the `\r` of the line's end.
        let over = self.buffer.len() - self.start > self.limit + 1;
        if self.start == self.buffer.len() || self.skipping || over {
            // Gives the memory of a long line back, too.
            self.buffer = Vec::new();
            (self.start, self.searched) = (0, 0);
        }
        if over && !self.skipping {
            self.skipping = true;
            return Some(Frame::TooLong);
        }
        None
    }

    /// Bytes of a line that is not complete.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(frames: &mut Frames, bytes: &[u8]) -> Vec<Frame> {
        frames.push(bytes);
        std::iter::from_fn(|| frames.take()).collect()
    }

    fn line(text: &str) -> Frame {
        Frame::Line(text.into())
    }

    #[test]
    fn lines_end_with_either_end_and_blank_ones_are_nothing() {
        let mut frames = Frames::default();
        assert_eq!(all(&mut frames, b"one\ntwo\r\n\n\r\n  \nthr"), [line("one"), line("two")]);
        assert_eq!(frames.pending(), 3);
        assert_eq!(all(&mut frames, b"ee"), []);
        assert_eq!(all(&mut frames, b"\n"), [line("three")]);
        assert_eq!(frames.pending(), 0);
    }

    #[test]
    fn a_line_that_is_too_long_is_told_once_and_the_next_is_taken() {
        let mut frames = Frames::with_limit(4);
        assert_eq!(all(&mut frames, b"1234\n1234\r\n"), [line("1234"), line("1234")]);
        assert_eq!(all(&mut frames, b"12345\nnext\n"), [Frame::TooLong, line("next")]);
        assert_eq!(all(&mut frames, b"12345"), [], "it may still turn out to end in \\r\\n");
        assert_eq!(all(&mut frames, b"6"), [Frame::TooLong]);
        assert_eq!(all(&mut frames, b"7890123456789"), []);
        assert_eq!(frames.pending(), 0, "nothing of it is kept");
        assert_eq!(all(&mut frames, b"0\nnext\n"), [line("next")]);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(text in "[a\r\n ]{0,60}", cuts in proptest::collection::vec(0usize..60, 0..6)) {
            let bytes = text.as_bytes();
            let whole = all(&mut Frames::with_limit(5), bytes);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut frames = Frames::with_limit(5);
            let mut parts = Vec::new();
            for pair in cuts.windows(2) {
                parts.extend(all(&mut frames, &bytes[pair[0]..pair[1]]));
                prop_assert!(frames.pending() <= 6);
            }
            // What is too long may be told before its end has come.
            prop_assert_eq!(parts.iter().filter(|f| **f != Frame::TooLong).collect::<Vec<_>>(),
                whole.iter().filter(|f| **f != Frame::TooLong).collect::<Vec<_>>());
        }
    }
}
