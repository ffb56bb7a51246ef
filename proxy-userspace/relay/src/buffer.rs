//! Buffers that are borrowed while bytes are in them, and only then.
//!
//! A kept-alive connection that waits, or a stream that is silent, holds no buffer at all: [`ReadBuffer::poll_fill`]
//! takes one from the thread's pool for the attempt and gives it back when nothing was there to read.

use std::cell::RefCell;
use std::io;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll, ready};

use crate::stream::Stream;

/// Bytes of an ordinary buffer: a head, or a message of a stream.
pub const SMALL: usize = 16 * 1024;
/// Bytes of a buffer for bulk copies, where splice(2) cannot serve.
pub const LARGE: usize = 128 * 1024;

/// What is kept while more is waited for lies in storage of a multiple of this.
const GRAIN: usize = 512;

/// How many free buffers of each size a thread keeps: 1 MiB of each at most.
const KEPT: [(usize, usize); 2] = [(SMALL, 64), (LARGE, 8)];

thread_local! {
    static FREE: RefCell<[Vec<Box<[u8]>>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// A block of bytes that goes back to the pool of the thread that drops it.
#[derive(Debug)]
pub struct Buffer(Box<[u8]>);

impl Buffer {
    /// A buffer of at least `size` bytes; what it holds is unspecified.
    pub fn take(size: usize) -> Self {
        let Some(class) = KEPT.iter().position(|&(bytes, _)| size <= bytes) else {
            return Self(vec![0; size].into_boxed_slice());
        };
        let free = FREE.try_with(|free| free.borrow_mut()[class].pop()).ok().flatten();
        Self(free.unwrap_or_else(|| vec![0; KEPT[class].0].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(class) = KEPT.iter().position(|&(bytes, _)| bytes == self.0.len()) else { return };
        let bytes = std::mem::take(&mut self.0);
        // At the end of a thread its pool may be gone already; the buffer is then simply freed.
        let _ = FREE.try_with(|free| {
            let free = &mut free.borrow_mut()[class];
            if free.len() < KEPT[class].1 {
                free.push(bytes);
            }
        });
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// What was read from a connection and not yet used.
#[derive(Debug, Default)]
pub struct ReadBuffer {
    storage: Option<Buffer>,
    start: usize,
    end: usize,
}

impl ReadBuffer {
    /// The bytes that wait to be used.
    pub fn unread(&self) -> &[u8] {
        self.storage.as_ref().map_or(&[], |bytes| &bytes[self.start..self.end])
    }

    /// Whether nothing waits; no memory is held then.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Takes the first `n` bytes off; the storage goes back to the pool with the last of them.
    ///
    /// # Panics
    /// When fewer than `n` bytes wait, which is an error of the caller.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.end - self.start, "consumed more than was read");
        self.start += n;
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Reads once from `stream`, growing the storage when it is full; 0 is the end of the stream.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, stream: &Stream) -> Poll<io::Result<usize>> {
        self.make_room();
        let Some(storage) = self.storage.as_mut() else { return Poll::Ready(Ok(0)) };
        let result = stream.poll_read(cx, &mut storage[self.end..]);
        if self.is_empty() && !matches!(result, Poll::Ready(Ok(1..))) {
            *self = Self::default();
        }
        let n = ready!(result)?;
        self.end += n;
        Poll::Ready(Ok(n))
    }

    /// As [`Self::poll_fill`], for bytes that may have to be kept for long: while more is waited for, they lie in as little
    /// memory as they take.
    pub fn poll_gather(&mut self, cx: &mut Context<'_>, stream: &Stream) -> Poll<io::Result<usize>> {
        let result = self.poll_fill(cx, stream);
        if result.is_pending() {
            self.tighten();
        }
        result
    }

    /// Bytes of memory that are held.
    pub fn held(&self) -> usize {
        self.storage.as_ref().map_or(0, |storage| storage.len())
    }

    /// Moves the unread bytes into smaller storage, where that saves half of it.
    fn tighten(&mut self) {
        let Some(storage) = &self.storage else { return };
        let unread = self.end - self.start;
        let enough = unread.next_multiple_of(GRAIN);
        if enough <= storage.len() / 2 {
            let mut smaller = Buffer(vec![0; enough].into_boxed_slice());
            smaller[..unread].copy_from_slice(self.unread());
            self.storage = Some(smaller);
            (self.start, self.end) = (0, unread);
        }
    }

    /// After this there is storage with at least one free byte behind the unread ones.
    fn make_room(&mut self) {
        let Some(storage) = self.storage.as_mut() else {
            self.storage = Some(Buffer::take(SMALL));
            return;
        };
        if self.end < storage.len() {
            return;
        }
        let unread = self.end - self.start;
        if unread <= storage.len() / 2 {
            storage.copy_within(self.start..self.end, 0);
        } else {
            // Twice as much, and no more: the next class of the pool may be eight times as large.
            let size = (storage.len() * 2).max(SMALL);
            let mut larger = match size {
                SMALL | LARGE => Buffer::take(size),
                _ => Buffer(vec![0; size].into_boxed_slice()),
            };
            larger[..unread].copy_from_slice(&storage[self.start..self.end]);
            *storage = larger;
        }
        (self.start, self.end) = (0, unread);
    }
}
