//! What a server sent before its container ended, taken out of the kernel into memory.
//!
//! A socket inside a container's namespace keeps that namespace in being. So when a container ends while its last answers are
//! still on their way to slow clients, [`Sock::part`](super::Sock::part) empties such a socket to its end and closes it;
//! whoever reads it goes on as before, first of what was taken out. All of it together is bounded by [`Tails`].

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes are taken out into blocks of this size.
const BLOCK: usize = 64 * 1024;

/// No connection may take more than this part of the whole: one that a server fills is not to leave the others without.
const SHARE: u64 = 8;

/// The memory of all tails of a node.
#[derive(Debug, Default)]
pub struct Tails {
    used: AtomicU64,
}

/// Memory that counts as used until this is dropped.
#[derive(Debug)]
struct Charge {
    tails: Arc<Tails>,
    bytes: u64,
}

impl Tails {
    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    fn charge(self: &Arc<Self>, bytes: u64, limit: u64) -> Option<Charge> {
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit);
        self.used.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Charge { tails: Arc::clone(self), bytes })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.tails.used.fetch_sub(self.bytes, Relaxed);
    }
}

/// How far a socket is emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TailStatus {
    /// Its end has come, and all before it is in memory: nothing of it is left in the namespace.
    Complete,
    /// So much has been taken out as there may be.
    Full,
}

/// What was taken out of one socket.
#[derive(Debug, Default)]
pub(super) struct Tail {
    blocks: VecDeque<Block>,
    /// How the stream ended, once that is known.
    end: Option<Result<(), ErrorKind>>,
}

#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    start: usize,
    _charge: Charge,
}

impl Tail {
    /// Reads once with `read`, which is a read of the socket. `Some` when there is nothing more to do.
    pub(super) fn fill(
        &mut self,
        tails: &Arc<Tails>,
        limit: u64,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Option<TailStatus>> {
        if self.end.is_some() {
            return Ok(Some(TailStatus::Complete));
        }
        if self.blocks.back().is_none_or(|block| block.bytes.len() == BLOCK) {
            let mine = (self.blocks.len() * BLOCK) as u64;
            let fits = mine + BLOCK as u64 <= limit / SHARE;
            let Some(charge) = fits.then(|| tails.charge(BLOCK as u64, limit)).flatten() else {
                return Ok(Some(TailStatus::Full));
            };
            self.blocks.push_back(Block { bytes: Vec::with_capacity(BLOCK), start: 0, _charge: charge });
        }
        let Some(block) = self.blocks.back_mut() else { return Ok(Some(TailStatus::Full)) };
        let used = block.bytes.len();
        block.bytes.resize(BLOCK, 0);
        let result = read(&mut block.bytes[used..]);
        block.bytes.truncate(used + result.as_ref().map_or(0, |n| *n));
        if block.bytes.len() == block.start {
            self.blocks.pop_back();
        }
        match result {
            Ok(0) => self.end = Some(Ok(())),
            Ok(_) => return Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Err(error),
            Err(error) => self.end = Some(Err(error.kind())),
        }
        Ok(Some(TailStatus::Complete))
    }

    /// Reads of what was taken out, and then of how it ended; `None` while the socket itself comes next.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> Option<io::Result<usize>> {
        let Some(block) = self.blocks.front_mut() else {
            return self.end.map(|end| end.map(|()| 0).map_err(Into::into));
        };
        let unread = &block.bytes[block.start..];
        let n = unread.len().min(buf.len());
        buf[..n].copy_from_slice(&unread[..n]);
        block.start += n;
        if block.start == block.bytes.len() {
            self.blocks.pop_front();
        }
        Some(Ok(n))
    }

    /// Whether something can be read without the socket: `Some(false)` at the end.
    pub(super) fn peek(&self) -> Option<bool> {
        if self.blocks.is_empty() { self.end.map(|_| false) } else { Some(true) }
    }

    /// Whether the stream's end has been seen.
    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: u64 = SHARE * 3 * BLOCK as u64;

    fn drained(tail: &mut Tail) -> Vec<u8> {
        let (mut all, mut buf) = (Vec::new(), [0; 1000]);
        while let Some(Ok(n @ 1..)) = tail.read(&mut buf) {
            all.extend_from_slice(&buf[..n]);
        }
        all
    }

    #[test]
    fn what_was_taken_out_is_read_in_its_order_and_then_the_end() {
        let (tails, mut tail) = (Arc::new(Tails::default()), Tail::default());
        let sent: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let n = rest.len().min(777);
            let step = tail.fill(&tails, LIMIT, |buf| {
                let n = n.min(buf.len());
                buf[..n].copy_from_slice(&rest[..n]);
                rest = &rest[n..];
                Ok(n)
            });
            assert_eq!(step.unwrap(), None);
        }
        assert!(tail.fill(&tails, LIMIT, |_| Err(ErrorKind::WouldBlock.into())).is_err());
        assert_eq!(tails.used(), 2 * BLOCK as u64);
        assert_eq!((drained(&mut tail), tail.peek()), (sent, None), "the socket itself comes next");
        assert_eq!(tails.used(), 0);
        assert_eq!(tail.fill(&tails, LIMIT, |_| Ok(0)).unwrap(), Some(TailStatus::Complete));
        assert_eq!(tail.peek(), Some(false));
        assert!(matches!(tail.read(&mut [0]), Some(Ok(0))));
    }

    #[test]
    fn no_more_is_taken_than_there_may_be() {
        let tails = Arc::new(Tails::default());
        let fill = |tail: &mut Tail| while tail.fill(&tails, LIMIT, |buf| Ok(buf.len())).unwrap().is_none() {};
        let mut all: Vec<Tail> = Vec::new();
        for _ in 0..2 * SHARE {
            let mut tail = Tail::default();
            fill(&mut tail);
            all.push(tail);
            assert_eq!(all[0].blocks.len(), 3, "one has its share");
        }
        assert_eq!(tails.used(), LIMIT);
        drop(all);
        assert_eq!(tails.used(), 0);
    }

    #[test]
    fn a_reset_comes_behind_what_was_sent_before_it() {
        let (tails, mut tail) = (Arc::new(Tails::default()), Tail::default());
        assert_eq!(tail.fill(&tails, LIMIT, |_| Ok(5)).unwrap(), None);
        let reset = tail.fill(&tails, LIMIT, |_| Err(ErrorKind::ConnectionReset.into()));
        assert_eq!(reset.unwrap(), Some(TailStatus::Complete));
        assert_eq!(drained(&mut tail), [0; 5]);
        assert!(matches!(tail.read(&mut [0]), Some(Err(error)) if error.kind() == ErrorKind::ConnectionReset));
    }
}
