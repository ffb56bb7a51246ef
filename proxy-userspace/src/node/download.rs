//! The response's half of an exchange: the container's head is checked and rewritten, its body relayed.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::SPLICED_CHUNK;
use super::interim::Interims;
use super::reply::Reply;
use super::secure;
use super::upload::UploadState;
use crate::gateway_error::GatewayError;
use portsplice_h1::{
    self, ChunkMode, Chunked, RequestContext, ResponseFraming, ResponseHead, ResponseLimits, ResponseScanner, ToClient,
    Version,
};
use portsplice_model::Direction;
use portsplice_relay::buffer::ReadBuffer;
use portsplice_relay::bypass::ServerUse;
use portsplice_relay::fast::{ChunkedResponse, Fast, Response};
use portsplice_relay::pipe::PipePool;
use portsplice_relay::{Flow, FlowError, Meter, Stream, UNTIL_END};

const ENDED_EARLY: &str = "the container's response ended early";
const RESET: &str = "the container reset the connection";

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// All of it is with the kernel.
    Whole { keep_client: bool, keep_upstream: bool },
    /// 101: from here on the connection is opaque.
    Switched,
}

/// Why there is no whole response.
#[derive(Debug)]
pub(super) enum DownloadError {
    /// The container ended a kept-alive connection before it answered anything, in order or by a reset.
    Stale { in_order: bool },
    /// Nothing has been written to the client yet.
    Rejected(GatewayError),
    /// The response began and cannot be completed.
    Abort(&'static str),
    /// The client takes no more.
    Client,
}

/// What is wanted to be known of the response afterwards, above all by the access log.
#[derive(Debug, Default)]
pub(super) struct ResponseStats {
    pub(super) status: Option<u16>,
    pub(super) first_byte: Option<Instant>,
    /// When the final response began.
    pub(super) answered: Option<Instant>,
}

/// The two ends of a response on its way.
pub(super) struct Download<'a> {
    pub(super) client: &'a Stream,
    pub(super) upstream: &'a Stream,
    /// What was read of the container and not used yet.
    pub(super) read: &'a mut ReadBuffer,
    pub(super) meter: &'a Meter,
    pub(super) pipes: Option<&'a PipePool>,
    pub(super) limits: &'a ResponseLimits,
    pub(super) context: &'a RequestContext,
    pub(super) reply: &'a Reply,
    pub(super) upload_state: &'a UploadState,
    pub(super) stats: &'a mut ResponseStats,
    pub(super) authorization_response: Option<&'a str>,
    /// Whether the client wants to go on after this response.
    pub(super) keep_alive: bool,
    pub(super) expect_continue: bool,
    /// Whether the connection to the container was used before.
    pub(super) reused: bool,
    /// Whether the node is shutting down, so that no connection should go on.
    pub(super) draining: &'a (dyn Fn() -> bool + Sync),
    /// The fast path, if it may be taken.
    pub(super) fast: Option<Fast<'a>>,
    /// How long the container keeps the connection without a request, where it says so.
    pub(super) server_keep_alive: &'a mut Option<Duration>,
    /// Set when the fast path leaves the container's connection unfit for another response.
    pub(super) no_reuse: &'a AtomicBool,
    /// Set when the container sent more than its response, so that the client's connection is unfit too.
    pub(super) surplus: &'a AtomicBool,
}

/// What to do after a head.
enum Next {
    /// Whether the container's connection is still in step behind it.
    Interim(bool),
    /// The head is in `out` still, to leave together with the first bytes of the body.
    Body {
        framing: ResponseFraming,
        keep_client: bool,
        keep_upstream: bool,
    },
    Switched,
}

impl Download<'_> {
    /// Relays interim responses and the final one.
    pub(super) async fn run(&mut self) -> Result<Ended, DownloadError> {
        let mut interims = Interims::default();
        let mut in_step = true;
        loop {
            let length = self.read_head(&interims).await?;
            let mut out = Vec::new();
            match self.pass_head(length, &mut interims, &mut out).await? {
                Next::Interim(still) => in_step &= still,
                Next::Switched => return Ok(Ended::Switched),
                Next::Body { framing, keep_client, keep_upstream } => {
                    let all = self.body(framing, out).await?;
                    return Ok(Ended::Whole {
                        keep_client: keep_client && !self.surplus.load(Relaxed),
                        keep_upstream: keep_upstream && in_step && all && !self.no_reuse.load(Relaxed),
                    });
                }
            }
        }
    }

    /// Reads until a whole head is in the buffer; gives its length. Its bytes are no activity before it is whole: a head
    /// that drips, or one interim response after the other, holds up no timeout.
    async fn read_head(&mut self, interims: &Interims) -> Result<usize, DownloadError> {
        let mut scanner = ResponseScanner::new(*self.limits);
        loop {
            if let Some(length) = scanner.advance(self.read.unread()).map_err(|fault| self.failed(fault.into()))? {
                return Ok(length);
            }
            match poll_fn(|cx| self.read.poll_fill(cx, self.upstream)).await {
                Ok(1..) => {}
                end => return Err(self.unanswered(end, interims)),
            }
        }
    }

    /// The container's connection came to this end before a whole head.
    fn unanswered(&self, end: io::Result<usize>, interims: &Interims) -> DownloadError {
        let refused = end.as_ref().err().filter(|_| !self.reused).and_then(secure::late_error);
        match (self.reply.begun(), refused) {
            (false, Some(error)) => DownloadError::Rejected(error),
            _ if self.reused && self.read.is_empty() && interims.none() => {
                DownloadError::Stale { in_order: end.is_ok() }
            }
            (false, None) => DownloadError::Rejected(GatewayError::EarlyEnd),
            (true, _) => DownloadError::Abort("the container closed the connection before its response was complete"),
        }
    }

    /// The response failed for this reason: said to the client, if that can still be.
    fn failed(&self, why: GatewayError) -> DownloadError {
        match (self.reply.begun(), why) {
            (false, why) => DownloadError::Rejected(why),
            (true, GatewayError::BadResponse(reason)) => DownloadError::Abort(reason),
            (true, why) => DownloadError::Abort(why.label()),
        }
    }

    /// Checks the head in the buffer, rewrites it, and passes it on as far as it does not wait for the body.
    async fn pass_head(
        &mut self,
        length: usize,
        interims: &mut Interims,
        out: &mut Vec<u8>,
    ) -> Result<Next, DownloadError> {
        let (status, next) = {
            let head = ResponseHead::parse(&self.read.unread()[..length], self.context, self.limits)
                .map_err(|fault| self.failed(fault.into()))?;
            if let Some(seconds) = head.keep_alive_timeout {
                *self.server_keep_alive = Some(Duration::from_secs(seconds.into()));
            }
            if head.framing == ResponseFraming::Interim {
                interims.count(length).map_err(|why| self.failed(why))?;
            }
            let old_client = self.context.version == Version::Http10;
            let mut to = ToClient {
                version: self.context.version,
                close: false,
                dechunk: false,
                authorization_response: self.authorization_response,
            };
            let next = match head.framing {
                ResponseFraming::Interim if old_client => Next::Interim(head.keep_alive),
                ResponseFraming::Interim => {
                    out.reserve(length + 128);
                    portsplice_h1::write_response(&head, &to, out);
                    Next::Interim(head.keep_alive)
                }
                ResponseFraming::Switched => {
                    out.reserve(length + 128);
                    portsplice_h1::write_response(&head, &to, out);
                    Next::Switched
                }
                framing => {
                    to.dechunk = old_client && framing == ResponseFraming::Chunked;
                    let ends_by_close = to.dechunk || framing == ResponseFraming::UntilClose;
                    // A body that was announced with `Expect` and answered before it began may come or not: only
                    // closing tells the two apart (RFC 9110, 10.1.1).
                    let in_doubt = self.expect_continue && !self.upload_state.body_seen() && !self.upload_state.whole();
                    // A server that closes before it has read the request will not read the rest of it.
                    let abandoned = self.upload_state.stopped() || (!head.keep_alive && !self.upload_state.whole());
                    to.close = !self.keep_alive || ends_by_close || in_doubt || abandoned || (self.draining)();
                    // What came of the body together with the head leaves in the same write.
                    out.reserve(self.read.unread().len() + 128);
                    portsplice_h1::write_response(&head, &to, out);
                    Next::Body {
                        framing,
                        keep_client: !to.close,
                        keep_upstream: head.keep_alive && framing != ResponseFraming::UntilClose,
                    }
                }
            };
            (head.status, next)
        };
        self.read.consume(length);
        self.stats.status = Some(status);
        match next {
            Next::Interim(_) if out.is_empty() => {}
            Next::Interim(_) => self.write_interim(out, status).await?,
            Next::Switched => self.write_client(out).await?,
            Next::Body { .. } => self.meter.touch(),
        }
        Ok(next)
    }

    /// Relays the body behind the head in `out`; whether the container's connection is in step afterwards.
    async fn body(&mut self, framing: ResponseFraming, mut out: Vec<u8>) -> Result<bool, DownloadError> {
        let old_client = self.context.version == Version::Http10;
        if framing == ResponseFraming::UntilClose || old_client && framing == ResponseFraming::Chunked {
            // Such a body is whole if the connection ends in order, which it must not do if this process is killed.
            self.client.reset_on_close();
        }
        match framing {
            ResponseFraming::Length(length) => self.raw(out, length).await?,
            ResponseFraming::UntilClose => self.raw(out, UNTIL_END).await?,
            ResponseFraming::Chunked => {
                let mode = match self.context.version {
                    Version::Http10 => ChunkMode::Dechunk,
                    Version::Http11 => ChunkMode::Rechunk,
                };
                self.chunked(&mut out, mode).await?;
            }
            ResponseFraming::None | ResponseFraming::Interim | ResponseFraming::Switched => {
                self.write_client(&out).await?;
            }
        }
        // Bytes behind the response's end answer no request: such a connection is not used again.
        Ok(self.read.is_empty())
    }

    /// Writes `out`, what was read already and everything up to `length` bytes, none of which needs to be looked at.
    async fn raw(&mut self, mut out: Vec<u8>, length: u64) -> Result<(), DownloadError> {
        let early = usize::try_from(length).unwrap_or(usize::MAX).min(self.read.unread().len());
        out.extend_from_slice(&self.read.unread()[..early]);
        self.read.consume(early);
        if !out.is_empty() {
            self.write_client(&out).await?;
        }
        drop(out);
        let left = if length == UNTIL_END { UNTIL_END } else { length - early as u64 };
        if left == 0 {
            return Ok(());
        }
        // The server may still have a part of the request before it, when it answers early.
        let upload_state = self.upload_state;
        let ready = || upload_state.whole();
        let moved = self.response(&ready).run(left).await.map_err(broken)?;
        if left != UNTIL_END && moved < left {
            return Err(DownloadError::Abort(ENDED_EARLY));
        }
        Ok(())
    }

    /// The way from the container to the client.
    fn flow<'f>(&self) -> Flow<'f>
    where
        Self: 'f,
    {
        let Self { upstream: from, client: to, meter, pipes, .. } = *self;
        Flow { from, to, direction: Direction::Down, meter, pipes }
    }

    /// The same, past this process where that is possible.
    fn response<'f>(&self, ready: &'f (dyn Fn() -> bool + Sync)) -> Response<'f>
    where
        Self: 'f,
    {
        Response {
            flow: self.flow(),
            fast: self.fast,
            server: ServerUse::Responds,
            ready,
            guard: None,
            no_reuse: self.no_reuse,
            surplus: self.surplus,
        }
    }

    async fn chunked(&mut self, out: &mut Vec<u8>, mode: ChunkMode) -> Result<(), DownloadError> {
        let mut body = Chunked::of_response(mode);
        let upload_state = self.upload_state;
        let ready = || upload_state.whole() && mode == ChunkMode::Rechunk;
        let mut forwarder = ChunkedResponse::new(self.response(&ready));
        loop {
            if !self.read.is_empty()
                && let Some(place) = forwarder.resumes().await.map_err(broken)?
            {
                body.resume(place);
            }
            let head = out.len();
            let step = body
                .advance(self.read.unread(), out)
                .map_err(|_| self.failed(GatewayError::BadResponse("the container's chunked body is malformed")))?;
            self.read.consume(step.consumed);
            forwarder.forwarded(step.consumed, out.len() - head);
            if !out.is_empty() {
                self.write_client(out).await?;
                out.clear();
            }
            if step.done {
                return forwarder.leave().await.map_err(broken);
            }
            let raw = body.data_remaining();
            if raw >= SPLICED_CHUNK && self.read.is_empty() && !forwarder.is_attached() {
                if self.flow().run(raw).await.map_err(broken)? < raw {
                    return Err(DownloadError::Abort(ENDED_EARLY));
                }
                body.data_moved(raw);
                forwarder.forwarded(usize::try_from(raw).unwrap_or(usize::MAX), 0);
            } else if self.read.is_empty() || step.consumed == 0 {
                if self.read.is_empty() {
                    forwarder.caught_up(body.until_line());
                }
                match poll_fn(|cx| self.read.poll_fill(cx, self.upstream)).await {
                    Ok(1..) => {}
                    Ok(0) => return Err(DownloadError::Abort(ENDED_EARLY)),
                    Err(_) => return Err(DownloadError::Abort(RESET)),
                }
            }
        }
    }

    /// Writes an interim response: whole, so that a gateway error may still follow.
    async fn write_interim(&mut self, bytes: &[u8], status: u16) -> Result<(), DownloadError> {
        let Some(token) = self.reply.begin_interim() else { return Err(DownloadError::Client) };
        self.stats.first_byte.get_or_insert_with(Instant::now);
        let written = self.client.write_idly(bytes, self.meter, Direction::Down).await;
        written.map_err(|_| DownloadError::Client)?;
        token.done(status);
        Ok(())
    }

    /// Writes the container's bytes to the client; the first of them take the gateway's right to refuse.
    async fn write_client(&mut self, bytes: &[u8]) -> Result<(), DownloadError> {
        if self.reply.begin().is_some() {
            let now = Instant::now();
            self.stats.first_byte.get_or_insert(now);
            self.stats.answered = Some(now);
        }
        let written: io::Result<()> = self.client.write_all(bytes, self.meter, Direction::Down).await;
        written.map_err(|_| DownloadError::Client)
    }
}

/// What a relay that failed means for the response.
fn broken(error: FlowError) -> DownloadError {
    match error {
        FlowError::Read(_) => DownloadError::Abort(RESET),
        FlowError::Write(_) => DownloadError::Client,
        FlowError::Surplus => DownloadError::Abort("the container's response is longer than announced"),
        FlowError::Unaccounted => DownloadError::Abort("a part of the container's response was lost in the kernel"),
    }
}
