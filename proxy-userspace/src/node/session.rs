//! The requests of one connection, one after the other: each is authenticated, and each may go to another container.

use std::future::{Future, pending, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout_at};

use super::accept::Listening;
use super::access_log::AccessLogEntry;
use super::connections::{Activity, Connection};
use super::download::ResponseStats;
use super::ending;
use super::exchange::{Exchange, Outcome, ReusableTimer};
use super::reply::{self, Reply, ReplyOptions};
use super::request::{self, Request, RequestInfo};
use super::route::Purpose;
use super::upstream::Upstream;
use super::{Node, NodeSettings};
use crate::gateway_error::GatewayError;
use crate::metrics::Path;
use portsplice_auth::Channel;
use portsplice_h1::HeadScanner;
use portsplice_model::Direction;
use portsplice_model::Traffic;
use portsplice_net::deadline::deadline;
use portsplice_net::drain::DrainWatch;
use portsplice_net::tls::TlsIdentity;
use portsplice_relay::Stream;
use portsplice_relay::buffer::ReadBuffer;

/// A client's connection.
pub(super) struct Session {
    pub(super) node: Arc<Node>,
    pub(super) listening: Arc<Listening>,
    pub(super) client: Stream,
    pub(super) peer: SocketAddr,
    /// What TLS contributes to credentials; `None` on plain TCP.
    pub(super) tls_session: Option<TlsSession>,
    pub(super) drain: DrainWatch,
    pub(super) read: ReadBuffer,
    pub(super) upstream: Option<Upstream>,
    pub(super) connection: Arc<Connection>,
}

/// A connection after its TLS handshake.
pub(super) struct TlsSession {
    /// RFC 9266 channel binding.
    pub(super) exporter: [u8; 32],
    /// What the listener presented to this connection.
    pub(super) identity: Arc<TlsIdentity>,
}

impl Drop for Session {
    fn drop(&mut self) {
        // Whatever it was doing, the peer is to know that it was not the peer's turn to end it.
        if self.connection.is_closed() {
            self.client.reset_on_close();
        }
    }
}

/// What comes next on a connection.
enum Next {
    /// A head of so many bytes is in the buffer; or what came is none, or did not come in time.
    Head(Result<usize, GatewayError>),
    /// The connection ends, and nobody waits for anything.
    End,
    /// The client has ended it: every answer is with the kernel, and nothing is left to be read or said.
    Ended,
}

/// What becomes of the connection after a request.
enum After {
    KeepAlive,
    Close,
    /// The client has not got all: its connection is reset, behind what it has to get.
    Abort,
    /// It is reset at once: what is on its way is no longer the client's.
    AbortNow,
}

/// How a request ended, for the log.
struct RequestEnd {
    after: After,
    note: Option<&'static str>,
}

impl Session {
    /// Serves until either side ends the connection. By reference: a future holds what it is given by value twice.
    pub(super) async fn run(&mut self) {
        let timer = pin!(sleep_until(deadline(Duration::ZERO)));
        let mut timer = ReusableTimer(timer);
        loop {
            let settings = self.node.settings.load_full();
            let after = match self.next_head(&settings, &mut timer).await {
                // Boxed, so that a connection that waits for its next request does not hold the memory of one.
                Next::Head(head) => {
                    if head.is_err() {
                        // What came is no request, and the connection ends: nobody looks at it any more.
                        self.read = ReadBuffer::default();
                    }
                    Box::pin(self.serve(&settings, head, &mut timer)).await
                }
                Next::End => After::Close,
                Next::Ended => return,
            };
            match after {
                After::KeepAlive => {}
                After::Close => return Box::pin(self.close(settings.timeouts.idle)).await,
                After::Abort => return Box::pin(self.abort(settings.timeouts.idle)).await,
                After::AbortNow => return self.client.reset_on_close(),
            }
        }
    }

    /// Waits for a request head. In between the container's connection is watched, and let go when it ends.
    async fn next_head(&mut self, settings: &NodeSettings, timer: &mut ReusableTimer<'_>) -> Next {
        let Self { node, client, read, upstream, drain, connection, .. } = self;
        let mut held = node.heads.begin();
        let mut scanner = HeadScanner::new(settings.head);
        let mut started = pin!(drain.started());
        let mut began: Option<Instant> = None;
        let container = upstream.as_ref().map(|upstream| upstream.container.clone());
        let mut gone = pin!(async {
            match &container {
                Some(container) => container.gone().await,
                None => pending().await,
            }
        });
        connection.meter().touch();
        connection.does(Activity::Idle);
        loop {
            match scanner.advance(read.unread()) {
                Ok(Some(length)) => return Next::Head(Ok(length)),
                Ok(None) => {}
                Err(error) => return Next::Head(Err(error.into())),
            }
            if !read.is_empty() {
                began.get_or_insert_with(Instant::now);
            }
            let waiting = began.is_none();
            let due = match began {
                Some(began) if !settings.timeouts.head.is_zero() => (began + settings.timeouts.head).into(),
                Some(_) => deadline(Duration::ZERO),
                None => deadline(settings.timeouts.keep_alive),
            };
            let event = poll_fn(|cx| {
                if let Poll::Ready(result) = read.poll_gather(cx, client) {
                    return Poll::Ready(Event::Read(result));
                }
                if !held.keep(read.held(), settings.unfinished_heads) {
                    return Poll::Ready(Event::Full);
                }
                if waiting && started.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Event::Drain);
                }
                if let Some(idle) = upstream.as_ref()
                    && (idle.poll_over(cx).is_ready() || gone.as_mut().poll(cx).is_ready())
                {
                    *upstream = None;
                }
                loop {
                    let kept_until = upstream.as_ref().map(Upstream::kept_until);
                    let next = kept_until.map_or(due, |until| until.min(due));
                    if timer.poll(cx, next).is_pending() {
                        return Poll::Pending;
                    }
                    let now = tokio::time::Instant::now();
                    if now >= due {
                        return Poll::Ready(Event::Due);
                    }
                    match kept_until {
                        Some(until) if now >= until => *upstream = None,
                        _ => timer.again(next),
                    }
                }
            });
            match event.await {
                Event::Read(Ok(1..)) => {}
                Event::Due if !waiting => return Next::Head(Err(GatewayError::HeadTimeout)),
                Event::Full => return Next::Head(Err(GatewayError::HeadsFull)),
                // A connection that ends inside a head asks for nothing. Over TLS the end is answered.
                Event::Read(_) if client.plain().is_some() => return Next::Ended,
                Event::Read(_) | Event::Drain | Event::Due => return Next::End,
            }
        }
    }

    /// Answers the request whose head is so many bytes of the buffer, or what could not even be read as one.
    async fn serve(
        &mut self,
        settings: &NodeSettings,
        head: Result<usize, GatewayError>,
        timer: &mut ReusableTimer<'_>,
    ) -> After {
        let began = Instant::now();
        self.connection.request();
        let bytes = [Direction::Up, Direction::Down].map(|direction| self.connection.meter().bytes(direction));
        let (mut info, mut stats) = (RequestInfo::default(), ResponseStats::default());
        let end = match head.and_then(|length| self.prepare(settings, length, &mut info)) {
            Ok(request) => self.forward(settings, request, &mut info, &mut stats, timer).await,
            Err(error) => {
                // Its client may take its time.
                self.upstream = None;
                self.reject(&Reply::default(), error, &info, &mut stats).await
            }
        };
        self.log_request(settings, &RequestLog { began, bytes, info: &info, stats: &stats, note: end.note });
        end.after
    }

    /// Takes the head off the buffer: authenticated, and rewritten for the container.
    fn prepare(
        &mut self,
        settings: &NodeSettings,
        length: usize,
        info: &mut RequestInfo,
    ) -> Result<Request, GatewayError> {
        let channel = match &self.tls_session {
            None => Channel::Plain,
            Some(TlsSession { exporter, identity }) => {
                Channel::Tls { exporter, certificate: &identity.certificate_der }
            }
        };
        let head = &self.read.unread()[..length];
        let prepared = request::prepare(head, &settings.head, &self.listening.authenticator, &channel, info);
        self.read.consume(length);
        let (request, scheme) = prepared?;
        self.node.metrics.granted(scheme);
        Ok(request)
    }

    /// Sends an authenticated request to its container and relays the answer.
    async fn forward(
        &mut self,
        settings: &NodeSettings,
        mut request: Request,
        info: &mut RequestInfo,
        stats: &mut ResponseStats,
        timer: &mut ReusableTimer<'_>,
    ) -> RequestEnd {
        let reply = Reply::default();
        if self.drain.draining() {
            self.upstream = None;
            return self.reject(&reply, GatewayError::Draining, info, stats).await;
        }
        let mut head = std::mem::take(&mut request.head);
        loop {
            let mut upstream = match self.upstream_for(settings, &request, info).await {
                Ok(upstream) => upstream,
                Err(error) => return self.reject(&reply, error, info, stats).await,
            };
            info.served = Some(Arc::clone(&upstream.container));
            if request.tcp_tunnel
                && let Err(end) = self.open_tunnel(settings, &reply, info, stats).await
            {
                return end;
            }
            // Only a connection that was used before can turn out stale, and only then a second copy is needed.
            let copy = if upstream.used && request.replayable { head.clone() } else { Vec::new() };
            let drain = self.drain.clone();
            let exchange = Exchange {
                client: &self.client,
                read: &mut self.read,
                upstream: &mut upstream,
                connection: &self.connection,
                settings,
                tails: &self.node.tails,
                metrics: &self.node.metrics,
                reply: &reply,
                stats,
                authorization_response: info.authorization_response.as_deref(),
                draining: &|| drain.draining(),
                finished: false,
            };
            let outcome = exchange.run(&request, head, timer).await;
            upstream.container.touch();
            if matches!(outcome, Outcome::Stale) {
                head = copy;
                continue;
            }
            return self.conclude(settings, outcome, upstream, &reply, info, stats).await;
        }
    }

    /// The connection that `request` goes out on: the one that is open, if it leads to the same place, or a new one.
    async fn upstream_for(
        &mut self,
        settings: &NodeSettings,
        request: &Request,
        info: &RequestInfo,
    ) -> Result<Upstream, GatewayError> {
        // Whatever comes of this request, a connection that leads elsewhere has served its time.
        let kept = self.upstream.take().filter(|_| !request.tcp_tunnel);
        let container = self.node.find(&info.container, info.port).await?;
        if let Some(kept) = kept
            && let Some(upstream) = kept.resume(&container, info.port, &request.host, !request.replayable).await
        {
            upstream.container.touch();
            return Ok(upstream);
        }
        let purpose = if request.tcp_tunnel { Purpose::Tunnel } else { Purpose::Http { host: &request.host } };
        let upstream = self.node.connect(settings, &self.client, container, info.port, purpose).await?;
        self.connection.set_target(&upstream.container, upstream.port);
        tracing::debug!(container = %info.container, port = info.port, peer = %self.peer, "connected into the container");
        Ok(upstream)
    }

    /// Tells the client that the port's raw bytes follow.
    async fn open_tunnel(
        &self,
        settings: &NodeSettings,
        reply: &Reply,
        info: &RequestInfo,
        stats: &mut ResponseStats,
    ) -> Result<(), RequestEnd> {
        let mut out = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n".to_vec();
        if let Some(response) = &info.authorization_response {
            out.extend_from_slice(format!("X-Arvados-Authorization-Response: {response}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        reply.begin();
        stats.status = Some(101);
        stats.first_byte = Some(Instant::now());
        let written = self.client.write_all(&out, self.connection.meter(), Direction::Down);
        let written = in_time(settings.timeouts.idle, written).await;
        written.map_err(|_| RequestEnd { after: After::Abort, note: Some("client-gone") })
    }

    /// Draws the consequences of an exchange for both connections.
    async fn conclude(
        &mut self,
        settings: &NodeSettings,
        outcome: Outcome,
        upstream: Upstream,
        reply: &Reply,
        info: &RequestInfo,
        stats: &mut ResponseStats,
    ) -> RequestEnd {
        match outcome {
            Outcome::Done { keep_client, keep_upstream } => {
                if keep_client && keep_upstream {
                    let answered = stats.answered.unwrap_or_else(Instant::now);
                    self.upstream = upstream.keep(settings.timeouts.upstream_idle, answered.into());
                }
                RequestEnd { after: if keep_client { After::KeepAlive } else { After::Close }, note: None }
            }
            Outcome::Tunneled => {
                upstream.stream.end_on_close();
                RequestEnd { after: After::Close, note: None }
            }
            Outcome::Withdrawn => {
                upstream.stream.reset_on_close();
                tracing::debug!(container = %info.container, port = info.port, "connection aborted: the container is gone");
                RequestEnd { after: After::AbortNow, note: Some("the container is gone") }
            }
            Outcome::Rejected(error) => {
                upstream.stream.reset_on_close();
                drop(upstream);
                self.reject(reply, error, info, stats).await
            }
            Outcome::Abort(reason) => {
                upstream.stream.reset_on_close();
                tracing::debug!(container = %info.container, port = info.port, reason, "connection aborted");
                RequestEnd { after: After::Abort, note: Some(reason) }
            }
            Outcome::Stale | Outcome::ClientGone => {
                upstream.stream.reset_on_close();
                RequestEnd { after: After::Abort, note: Some("the client closed the connection") }
            }
        }
    }

    /// Answers with `error`, unless the container has begun to answer.
    async fn reject(
        &self,
        reply: &Reply,
        error: GatewayError,
        info: &RequestInfo,
        stats: &mut ResponseStats,
    ) -> RequestEnd {
        self.node.metrics.gateway_error(&error);
        let note = Some(error.label());
        let Some(token) = reply.begin() else { return RequestEnd { after: After::Abort, note } };
        let close = error.closes() || !info.reusable || self.drain.draining();
        let options = ReplyOptions {
            authorization_response: info.authorization_response.as_deref(),
            head_request: info.is_head(),
            close,
        };
        stats.status = Some(error.status());
        stats.first_byte = Some(Instant::now());
        let timeout = self.node.settings.load().timeouts.idle;
        let written = reply::reject(token, &self.client, self.connection.meter(), &error, options);
        let written = in_time(timeout, written).await;
        let after = match (written, close) {
            (Err(_), _) => After::Abort,
            (Ok(()), true) => After::Close,
            (Ok(()), false) => After::KeepAlive,
        };
        RequestEnd { after, note }
    }

    /// Logs a request and adds it to the metrics.
    fn log_request(&self, settings: &NodeSettings, request_log: &RequestLog<'_>) {
        let meter = self.connection.meter();
        let fast = meter.take_fast();
        let slow_path = match (self.client.plain(), meter.take_spliced()) {
            (None, _) => Path::Tls,
            (Some(_), true) => Path::Splice,
            (Some(_), false) => Path::Copy,
        };
        let path = if fast > 0 { Path::Fast } else { slow_path };
        let [up, down] = [Direction::Up, Direction::Down]
            .map(|direction| meter.bytes(direction) - request_log.bytes[direction as usize]);
        let metrics = &self.node.metrics;
        metrics.request(request_log.stats.status.unwrap_or(0), Some(path));
        if let Some(first_byte) = request_log.stats.first_byte {
            metrics.first_byte(first_byte.duration_since(request_log.began));
        }
        metrics.bytes(Direction::Up, slow_path, up);
        metrics.bytes(Direction::Down, slow_path, down.saturating_sub(fast));
        metrics.bytes(Direction::Down, Path::Fast, fast);
        if let Some(container) = &request_log.info.served {
            container.count(Traffic { requests: 1, bytes_up: up, bytes_down: down, bytes_fast: fast });
        }
        self.connection.counted();
        if settings.access_log {
            let entry = AccessLogEntry {
                client: self.peer,
                info: request_log.info,
                stats: request_log.stats,
                began: request_log.began,
                bytes_up: up,
                bytes_down: down,
                path,
                bytes_fast: fast,
                note: request_log.note,
            };
            entry.write();
        }
    }

    /// Ends the connection so that the last response arrives.
    async fn close(&mut self, timeout: Duration) {
        self.upstream = None;
        self.connection.does(Activity::Closing);
        ending::in_order(&self.client, timeout).await;
    }

    /// Ends the connection so that the client knows that bytes are missing, after those that came.
    async fn abort(&mut self, timeout: Duration) {
        self.upstream = None;
        self.connection.does(Activity::Closing);
        ending::broken_off(&self.client, timeout).await;
    }
}

/// What the gateway itself writes waits for a slow reader no longer than a relay would.
async fn in_time(timeout: Duration, written: impl Future<Output = std::io::Result<()>>) -> std::io::Result<()> {
    timeout_at(deadline(timeout), written).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// What a request's line and counters are made of.
struct RequestLog<'a> {
    began: Instant,
    /// The meter's counts when it began.
    bytes: [u64; 2],
    info: &'a RequestInfo,
    stats: &'a ResponseStats,
    note: Option<&'static str>,
}

enum Event {
    Read(std::io::Result<usize>),
    Drain,
    Due,
    /// The node keeps as much of unfinished heads as it may.
    Full,
}
