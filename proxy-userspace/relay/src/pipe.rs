//! Pipes for splice(2), pooled: pages go socket -> pipe -> socket without being copied to userspace.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// The least that a pipe can hold by default on Linux (16 pages), used when the kernel grants no more.
const DEFAULT_PIPE_BYTES: usize = 64 * 1024;

/// A pipe that knows how much is in it.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
    held: usize,
}

impl Pipe {
    fn new(bytes: usize) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Beyond pipe-user-pages-soft the kernel refuses more to an unprivileged user; a small pipe works as well.
        let capacity = fcntl_setpipe_size(&write, bytes).unwrap_or(DEFAULT_PIPE_BYTES);
        Ok(Self { read, write, capacity, held: 0 })
    }

    /// Moves up to `limit` bytes from `socket` into the empty pipe; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has nothing: with the pipe empty it can mean nothing else. Other errors are the
    /// socket's.
    pub fn fill(&mut self, socket: impl AsFd, limit: u64) -> io::Result<usize> {
        debug_assert_eq!(self.held, 0, "filled a pipe that was not drained");
        let len = usize::try_from(limit).unwrap_or(usize::MAX).min(self.capacity);
        let n = splice(socket, None, &self.write, None, len, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        self.held = n;
        Ok(n)
    }

    /// Moves what the pipe holds to `socket`, up to `limit` bytes and as much as it takes.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes nothing now. Other errors are the socket's.
    pub fn drain(&mut self, socket: impl AsFd, limit: usize) -> io::Result<usize> {
        let len = self.held.min(limit);
        let n = splice(&self.read, None, socket, None, len, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?;
        self.held -= n;
        Ok(n)
    }

    /// Bytes in the pipe.
    pub fn held(&self) -> usize {
        self.held
    }
}

/// The pipes nobody uses just now. A pipe is taken when a socket has bytes, and given back when they have left.
#[derive(Debug)]
pub struct PipePool {
    free: Mutex<Vec<Pipe>>,
    bytes: usize,
    keep: usize,
    most: usize,
    open: AtomicUsize,
}

impl PipePool {
    /// A pool whose pipes hold `bytes` each, that has at most `most` of them (two descriptors each) and keeps at most
    /// `keep` unused ones open.
    pub fn new(bytes: usize, keep: usize, most: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), bytes, keep, most, open: AtomicUsize::new(0) })
    }

    /// Takes a pipe, an empty one.
    ///
    /// # Errors
    /// `EMFILE` when there are as many as there may be, and errors of `pipe2(2)`: no descriptors left.
    pub fn take(&self) -> io::Result<PooledPipe<'_>> {
        let free = self.free.lock().pop();
        let pipe = match free {
            Some(pipe) => pipe,
            None => {
                let counted = self.open.fetch_update(Relaxed, Relaxed, |open| (open < self.most).then_some(open + 1));
                counted.map_err(|_| io::Error::from_raw_os_error(libc::EMFILE))?;
                Pipe::new(self.bytes).inspect_err(|_| {
                    self.open.fetch_sub(1, Relaxed);
                })?
            }
        };
        Ok(PooledPipe { pipe: Some(pipe), pool: self })
    }

    /// How many pipes are open, used and unused.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed)
    }
}

/// A pipe out of a pool. Dropped empty it goes back; dropped with bytes in it, it is closed, and they are gone with it.
#[derive(Debug)]
pub struct PooledPipe<'p> {
    pipe: Option<Pipe>,
    pool: &'p PipePool,
}

impl Deref for PooledPipe<'_> {
    type Target = Pipe;

    fn deref(&self) -> &Pipe {
        self.pipe.as_ref().expect("a pipe is held until drop")
    }
}

impl DerefMut for PooledPipe<'_> {
    fn deref_mut(&mut self) -> &mut Pipe {
        self.pipe.as_mut().expect("a pipe is held until drop")
    }
}

impl Drop for PooledPipe<'_> {
    fn drop(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        if pipe.held == 0 {
            let mut free = self.pool.free.lock();
            if free.len() < self.pool.keep {
                free.push(pipe);
                return;
            }
        }
        self.pool.open.fetch_sub(1, Relaxed);
    }
}
