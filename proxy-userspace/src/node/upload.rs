//! The request's half of an exchange: its head and body go to the container as they come.

use std::future::{pending, poll_fn};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::SPLICED_CHUNK;
use crate::gateway_error::GatewayError;
use portsplice_h1::{BodyFraming, ChunkMode, Chunked};
use portsplice_model::Direction;
use portsplice_relay::buffer::ReadBuffer;
use portsplice_relay::pipe::PipePool;
use portsplice_relay::{Flow, FlowError, Meter, Stream};

/// Why a request could not be sent whole.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The client is gone: its connection was reset.
    Client,
    /// The client broke its own framing, or ended in the middle of the body.
    Request(GatewayError),
    /// The container takes no more; it may still answer.
    Upstream,
}

/// How far the request got; the response's half reads it while this half runs.
#[derive(Debug, Default)]
pub(super) struct UploadState {
    state: AtomicU64,
}

const WHOLE: u64 = 1;
const STOPPED: u64 = 2;
const BODY_SEEN: u64 = 4;
const ENDED: u64 = 8;
const REFUSED_ALL: u64 = 16;

impl UploadState {
    /// Every byte of it is with the kernel.
    pub(super) fn whole(&self) -> bool {
        self.state.load(Relaxed) & WHOLE != 0
    }

    /// The container refused to take more of it.
    pub(super) fn stopped(&self) -> bool {
        self.state.load(Relaxed) & STOPPED != 0
    }

    /// At least a byte of the body has come from the client.
    pub(super) fn body_seen(&self) -> bool {
        self.state.load(Relaxed) & BODY_SEEN != 0
    }

    /// The client has ended its direction, and so was the container's.
    pub(super) fn ended(&self) -> bool {
        self.state.load(Relaxed) & ENDED != 0
    }

    /// The kernel took not a byte of it: the connection had been reset before.
    pub(super) fn refused_all(&self) -> bool {
        self.state.load(Relaxed) & REFUSED_ALL != 0
    }

    fn set(&self, flag: u64) {
        self.state.fetch_or(flag, Relaxed);
    }
}

/// The two ends of a request on its way.
pub(super) struct Upload<'a> {
    pub(super) client: &'a Stream,
    /// What was read of the client beyond the head.
    pub(super) read: &'a mut ReadBuffer,
    pub(super) upstream: &'a Stream,
    pub(super) meter: &'a Meter,
    pub(super) pipes: Option<&'a PipePool>,
    pub(super) upload_state: &'a UploadState,
}

impl Upload<'_> {
    /// Sends `head` and then the body.
    pub(super) async fn run(&mut self, head: Vec<u8>, framing: BodyFraming) -> Result<(), UploadError> {
        let before = self.meter.bytes(Direction::Up);
        let result = match framing {
            BodyFraming::None => self.write_upstream(&head).await,
            BodyFraming::Length(length) => self.length(head, length).await,
            BodyFraming::Chunked => self.chunked(head).await,
        };
        match &result {
            Ok(()) => self.upload_state.set(WHOLE),
            Err(UploadError::Upstream) if self.meter.bytes(Direction::Up) == before => {
                self.upload_state.set(STOPPED | REFUSED_ALL)
            }
            Err(UploadError::Upstream) => self.upload_state.set(STOPPED),
            Err(_) => {}
        }
        result
    }

    async fn length(&mut self, mut head: Vec<u8>, length: u64) -> Result<(), UploadError> {
        let early = usize::try_from(length).unwrap_or(usize::MAX).min(self.read.unread().len());
        if early > 0 {
            self.upload_state.set(BODY_SEEN);
        }
        head.extend_from_slice(&self.read.unread()[..early]);
        self.read.consume(early);
        self.write_upstream(&head).await?;
        drop(head);
        self.raw(length - early as u64).await
    }

    async fn chunked(&mut self, mut out: Vec<u8>) -> Result<(), UploadError> {
        let mut body = Chunked::new(ChunkMode::Rechunk);
        loop {
            let step =
                body.advance(self.read.unread(), &mut out).map_err(|error| UploadError::Request(error.into()))?;
            if step.consumed > 0 {
                self.upload_state.set(BODY_SEEN);
            }
            self.read.consume(step.consumed);
            if !out.is_empty() {
                self.write_upstream(&out).await?;
                out.clear();
            }
            if step.done {
                return Ok(());
            }
            let raw = body.data_remaining();
            if raw >= SPLICED_CHUNK && self.read.is_empty() {
                self.raw(raw).await?;
                body.data_moved(raw);
            } else if self.read.is_empty() || step.consumed == 0 {
                self.fill().await?;
            }
        }
    }

    /// Moves exactly `length` bytes of the body that need not be looked at.
    async fn raw(&mut self, length: u64) -> Result<(), UploadError> {
        if length == 0 {
            return Ok(());
        }
        // The first byte decides what `Expect: 100-continue` leaves in doubt, so it is not hidden in a splice.
        if !self.upload_state.body_seen() {
            self.fill().await?;
            self.upload_state.set(BODY_SEEN);
            let early = usize::try_from(length).unwrap_or(usize::MAX).min(self.read.unread().len());
            self.write_upstream(&self.read.unread()[..early]).await?;
            self.read.consume(early);
            return Box::pin(self.raw(length - early as u64)).await;
        }
        let flow = Flow {
            from: self.client,
            to: self.upstream,
            direction: Direction::Up,
            meter: self.meter,
            pipes: self.pipes,
        };
        match flow.run(length).await {
            Ok(moved) if moved == length => Ok(()),
            Ok(_) => Err(UploadError::Request(GatewayError::BodyEnded)),
            Err(FlowError::Read(_)) => Err(UploadError::Client),
            // The last two cannot happen on this way.
            Err(FlowError::Write(_) | FlowError::Surplus | FlowError::Unaccounted) => Err(UploadError::Upstream),
        }
    }

    /// Reads more of the client, at least a byte.
    async fn fill(&mut self) -> Result<(), UploadError> {
        match poll_fn(|cx| self.read.poll_fill(cx, self.client)).await {
            Ok(0) => Err(UploadError::Request(GatewayError::BodyEnded)),
            Ok(_) => {
                self.meter.touch();
                Ok(())
            }
            Err(_) => Err(UploadError::Client),
        }
    }

    async fn write_upstream(&self, bytes: &[u8]) -> Result<(), UploadError> {
        self.upstream.write_all(bytes, self.meter, Direction::Up).await.map_err(|_| UploadError::Upstream)
    }

    /// After the request is sent: notices that the client is gone while its response is under way, and passes on that it
    /// has ended its direction. At most one read of what it pipelined is taken; the rest stays in the kernel until its turn.
    pub(super) async fn watch(&mut self) -> UploadError {
        if self.read.is_empty() {
            match poll_fn(|cx| self.read.poll_fill(cx, self.client)).await {
                // More requests; the response is wanted.
                Ok(1..) => {}
                Ok(0) => return self.end().await,
                // The request is whole, so that a missing close_notify takes nothing from it.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return self.end().await,
                Err(_) => return UploadError::Client,
            }
        }
        self.client.broken().await;
        UploadError::Client
    }

    /// The client asks for nothing more, and perhaps does not wait for the answer either (a FIN says both): the server is
    /// told just that, and decides. Returns when the client is gone for certain.
    async fn end(&self) -> UploadError {
        let shutdown = async {
            if self.upload_state.whole() {
                self.upload_state.set(ENDED);
                // If it fails, the connection is at its end, which the response's half will see.
                let _ = self.upstream.shutdown().await;
            }
            pending().await
        };
        tokio::select! {
            _ = self.client.broken() => UploadError::Client,
            () = shutdown => UploadError::Client,
        }
    }
}
