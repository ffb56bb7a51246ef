//! One direction of a relay: bytes from one stream to the other, by splice(2) or by copying.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::task::Poll;

use socket2::Socket;

use crate::buffer::{Buffer, LARGE, SMALL};
use crate::bypass::Unaccounted;
use crate::meter::Meter;
use crate::pipe::PipePool;
use crate::step_hook::StepHook;
use crate::stream::Stream;
use portsplice_model::Direction;
use portsplice_net::sock::Sock;

/// As many bytes as come, until the stream ends.
pub const UNTIL_END: u64 = u64::MAX;

/// A step of at least this many bytes is bulk: moving pages beats copying from about here on.
pub const BULK: u64 = SMALL as u64;

/// Which end failed.
#[derive(Debug)]
pub enum FlowError {
    /// The stream that bytes come from.
    Read(io::Error),
    /// The stream that bytes go to.
    Write(io::Error),
    /// The source sent more than it had announced.
    Surplus,
    /// Bytes that went past this process cannot be accounted for.
    Unaccounted,
}

impl From<Unaccounted> for FlowError {
    fn from(_: Unaccounted) -> Self {
        Self::Unaccounted
    }
}

/// One direction between two streams.
#[derive(Debug, Clone, Copy)]
pub struct Flow<'a> {
    /// Where bytes come from.
    pub from: &'a Stream,
    /// Where they go.
    pub to: &'a Stream,
    /// Which way that is.
    pub direction: Direction,
    /// What counts them.
    pub meter: &'a Meter,
    /// Pipes for splice(2); without them everything is copied.
    pub pipes: Option<&'a PipePool>,
}

/// What one step did: 0 bytes are the end of the stream.
pub(crate) struct Step {
    pub(crate) moved: u64,
    pub(crate) bulk: bool,
}

impl<'a> Flow<'a> {
    /// Moves bytes until `limit` of them are through or the stream ends; gives their number.
    ///
    /// Never more than one pipe or one buffer of bytes is between the two sockets, none while nothing comes, and each
    /// step hands everything it read to the kernel before it reads again: a token of a stream leaves when it arrives.
    ///
    /// # Errors
    /// Which end failed, and how.
    pub async fn run(&self, limit: u64) -> Result<u64, FlowError> {
        self.run_with(limit, None).await
    }

    pub(crate) async fn run_with(&self, limit: u64, gate: Option<StepHook<'_>>) -> Result<u64, FlowError> {
        let mut done = 0;
        let mut bulk = begins_in_bulk(limit);
        while done < limit {
            let step = self.step(limit - done, bulk, gate).await?;
            if step.moved == 0 {
                break;
            }
            done += step.moved;
            bulk = step.bulk;
        }
        Ok(done)
    }

    /// Reads once, up to `left` bytes, and writes all of that; `bulk` as the step before has found.
    pub(crate) async fn step(&self, left: u64, bulk: bool, gate: Option<StepHook<'_>>) -> Result<Step, FlowError> {
        match self.pipes_between() {
            Some((pipes, from, to)) if bulk && left >= BULK => self.splice(pipes, from, to, left, gate).await,
            _ => self.copy(left, bulk, gate).await,
        }
    }

    /// The sockets and the pipes between them, where splice(2) can serve.
    fn pipes_between(&self) -> Option<(&'a PipePool, &'a Sock, &'a Sock)> {
        let from = self.from.plain().filter(|from| !from.has_tail())?;
        Some((self.pipes?, from, self.to.plain()?))
    }

    async fn splice(
        &self,
        pipes: &PipePool,
        from: &Sock,
        to: &Sock,
        limit: u64,
        gate: Option<StepHook<'_>>,
    ) -> Result<Step, FlowError> {
        let mut taken = None;
        let filled = poll_fn(|cx| {
            if from.has_tail() {
                // What is in memory can only be copied.
                taken = None;
                return Poll::Ready(Ok(Some(0)));
            }
            let pipe = match &mut taken {
                Some(pipe) => pipe,
                None => match pipes.take() {
                    Ok(pipe) => taken.insert(pipe),
                    Err(_) => return Poll::Ready(Ok(None)),
                },
            };
            let result = from.poll_readable(cx, |socket| match pipe.fill(socket, limit) {
                // Perhaps nothing waits, perhaps only splice(2) does not see it: it does not get past the mark of urgent data,
                // nor at what a program of somebody else's socket map has put there past TCP. A read knows.
                Err(error) if error.kind() == ErrorKind::WouldBlock && something_waits(socket) => Ok(0),
                result => result,
            });
            if result.is_pending() {
                taken = None;
            }
            result.map_ok(Some)
        });
        let Some(moved) = filled.await.map_err(FlowError::Read)? else {
            // No descriptors for a pipe: slower, but never worse.
            return self.copy(limit, false, gate).await;
        };
        if moved == 0 {
            // A read goes on where splice(2) sees nothing; and splice(2) does not know of a reset that a write was told of.
            return self.copy(limit, from.has_tail(), gate).await;
        }
        if let Some(mut pipe) = taken {
            let allowed = allowed(gate, moved).await?;
            let mut left = allowed;
            while left > 0 {
                let drained = poll_fn(|cx| to.poll_writable(cx, |socket| pipe.drain(socket, left)));
                let n = drained.await.map_err(FlowError::Write)?;
                if n == 0 {
                    return Err(FlowError::Write(ErrorKind::WriteZero.into()));
                }
                left -= n;
                self.meter.moved(self.direction, n as u64);
            }
            self.meter.spliced();
            finish(gate, moved, allowed)?;
        }
        Ok(Step { moved: moved as u64, bulk: moved as u64 >= BULK })
    }

    async fn copy(&self, limit: u64, bulk: bool, gate: Option<StepHook<'_>>) -> Result<Step, FlowError> {
        let want = if bulk { LARGE } else { SMALL };
        let mut taken = None;
        let filled = poll_fn(|cx| {
            let buffer = taken.get_or_insert_with(|| Buffer::take(want));
            let len = usize::try_from(limit).unwrap_or(usize::MAX).min(buffer.len());
            let result = self.from.poll_read(cx, &mut buffer[..len]);
            if result.is_pending() {
                taken = None;
            }
            result
        });
        let n = filled.await.map_err(FlowError::Read)?;
        if let Some(buffer) = taken
            && n > 0
        {
            let allowed = allowed(gate, n).await?;
            self.to.write_all(&buffer[..allowed], self.meter, self.direction).await.map_err(FlowError::Write)?;
            finish(gate, n, allowed)?;
        }
        Ok(Step { moved: n as u64, bulk: n as u64 >= BULK })
    }
}

/// Whether there is something to read, be it the end or an error.
fn something_waits(socket: &Socket) -> bool {
    let mut octet = [MaybeUninit::uninit()];
    !socket.peek(&mut octet).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// How many of the bytes that a step has read may be written.
async fn allowed(gate: Option<StepHook<'_>>, read: usize) -> Result<usize, FlowError> {
    match gate {
        Some(gate) => Ok(gate.read(read as u64).await? as usize),
        None => Ok(read),
    }
}

/// Ends a step whose bytes are all written.
fn finish(gate: Option<StepHook<'_>>, moved: usize, allowed: usize) -> Result<(), FlowError> {
    if let Some(gate) = gate {
        gate.written(allowed as u64);
    }
    if allowed < moved { Err(FlowError::Surplus) } else { Ok(()) }
}

/// Whether the first step may take a lot: a body known to be long. Of a stream, only its behaviour tells.
pub(crate) const fn begins_in_bulk(limit: u64) -> bool {
    limit != UNTIL_END && limit >= BULK
}
