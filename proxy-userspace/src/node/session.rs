//! The requests of one connection, one after the other: each is authenticated, and each may go to another container.

use std::future::{Future, pending, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{sleep_until, timeout_at};

use super::accept::Listening;
use super::access_log::Line;
use super::connections::{Activity, Connection};
use super::download::Seen;
use super::ending;
use super::exchange::{Alarm, Exchange, Outcome};
use super::origin::Origin;
use super::reply::{self, Reply, Wording};
use super::request::{self, Request, Summary};
use super::route::Purpose;
use super::{Node, NodeSettings};
use crate::metrics::Path;
use crate::refusal::Refusal;
use portsplice_auth::Channel;
use portsplice_h1::HeadScanner;
use portsplice_model::Direction;
use portsplice_model::Traffic;
use portsplice_net::deadline::deadline;
use portsplice_net::drain::DrainWatch;
use portsplice_net::tls::TlsIdentity;
use portsplice_relay::Stream;
use portsplice_relay::buffer::ReadBuffer;

/// A controller's connection.
pub(super) struct Session {
    pub(super) node: Arc<Node>,
    pub(super) listening: Arc<Listening>,
    pub(super) client: Stream,
    pub(super) peer: SocketAddr,
    /// What TLS contributes to credentials; `None` on plain TCP.
    pub(super) secured: Option<Secured>,
    pub(super) drain: DrainWatch,
    pub(super) read: ReadBuffer,
    pub(super) origin: Option<Origin>,
    pub(super) connection: Arc<Connection>,
}

/// A connection after its TLS handshake.
pub(super) struct Secured {
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
    Head(Result<usize, Refusal>),
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
    Cut,
    /// It is reset at once: what is on its way is no longer the client's.
    Abort,
}

/// How a request ended, for the log.
struct Report {
    after: After,
    note: Option<&'static str>,
}

impl Session {
    /// Serves until either side ends the connection. By reference: a future holds what it is given by value twice.
    pub(super) async fn run(&mut self) {
        let timer = pin!(sleep_until(deadline(Duration::ZERO)));
        let mut alarm = Alarm(timer);
        loop {
            let settings = self.node.settings.load_full();
            let after = match self.next_head(&settings, &mut alarm).await {
                // Boxed, so that a connection that waits for its next request does not hold the memory of one.
                Next::Head(head) => {
                    if head.is_err() {
                        // What came is no request, and the connection ends: nobody looks at it any more.
                        self.read = ReadBuffer::default();
                    }
                    Box::pin(self.serve(&settings, head, &mut alarm)).await
                }
                Next::End => After::Close,
                Next::Ended => return,
            };
            match after {
                After::KeepAlive => {}
                After::Close => return Box::pin(self.close(settings.timeouts.idle)).await,
                After::Cut => return Box::pin(self.cut(settings.timeouts.idle)).await,
                After::Abort => return self.client.reset_on_close(),
            }
        }
    }

    /// Waits for a request head. In between the container's connection is watched, and let go when it ends.
    async fn next_head(&mut self, settings: &NodeSettings, alarm: &mut Alarm<'_>) -> Next {
        let Self { node, client, read, origin, drain, connection, .. } = self;
        let mut held = node.heads.begin();
        let mut scanner = HeadScanner::new(settings.head);
        let mut started = pin!(drain.started());
        let mut began: Option<Instant> = None;
        let container = origin.as_ref().map(|origin| origin.container.clone());
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
                Err(refusal) => return Next::Head(Err(refusal.into())),
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
                if let Some(idle) = origin.as_ref()
                    && (idle.poll_over(cx).is_ready() || gone.as_mut().poll(cx).is_ready())
                {
                    *origin = None;
                }
                loop {
                    let kept_until = origin.as_ref().map(Origin::kept_until);
                    let next = kept_until.map_or(due, |until| until.min(due));
                    if alarm.poll(cx, next).is_pending() {
                        return Poll::Pending;
                    }
                    let now = tokio::time::Instant::now();
                    if now >= due {
                        return Poll::Ready(Event::Due);
                    }
                    match kept_until {
                        Some(until) if now >= until => *origin = None,
                        _ => alarm.again(next),
                    }
                }
            });
            match event.await {
                Event::Read(Ok(1..)) => {}
                Event::Due if !waiting => return Next::Head(Err(Refusal::HeadTimeout)),
                Event::Full => return Next::Head(Err(Refusal::HeadsFull)),
                // A connection that ends inside a head asks for nothing. Over TLS the end is answered.
                Event::Read(_) if client.plain().is_some() => return Next::Ended,
                Event::Read(_) | Event::Drain | Event::Due => return Next::End,
            }
        }
    }

    /// Answers the request whose head is so many bytes of the buffer, or what could not even be read as one.
    async fn serve(&mut self, settings: &NodeSettings, head: Result<usize, Refusal>, alarm: &mut Alarm<'_>) -> After {
        let began = Instant::now();
        self.connection.request();
        let bytes = [Direction::Up, Direction::Down].map(|direction| self.connection.meter().bytes(direction));
        let (mut summary, mut seen) = (Summary::default(), Seen::default());
        let report = match head.and_then(|length| self.prepare(settings, length, &mut summary)) {
            Ok(request) => self.forward(settings, request, &mut summary, &mut seen, alarm).await,
            Err(refusal) => {
                // Its client may take its time.
                self.origin = None;
                self.refuse(&Reply::default(), refusal, &summary, &mut seen).await
            }
        };
        self.account(settings, &Account { began, bytes, summary: &summary, seen: &seen, note: report.note });
        report.after
    }

    /// Takes the head off the buffer: authenticated, and rewritten for the container.
    fn prepare(&mut self, settings: &NodeSettings, length: usize, summary: &mut Summary) -> Result<Request, Refusal> {
        let channel = match &self.secured {
            None => Channel::Plain,
            Some(Secured { exporter, identity }) => Channel::Tls { exporter, certificate: &identity.certificate_der },
        };
        let head = &self.read.unread()[..length];
        let prepared = request::prepare(head, &settings.head, &self.listening.authenticator, &channel, summary);
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
        summary: &mut Summary,
        seen: &mut Seen,
        alarm: &mut Alarm<'_>,
    ) -> Report {
        let reply = Reply::default();
        if self.drain.draining() {
            self.origin = None;
            return self.refuse(&reply, Refusal::Draining, summary, seen).await;
        }
        let mut head = std::mem::take(&mut request.head);
        loop {
            let mut origin = match self.origin_for(settings, &request, summary).await {
                Ok(origin) => origin,
                Err(refusal) => return self.refuse(&reply, refusal, summary, seen).await,
            };
            summary.served = Some(Arc::clone(&origin.container));
            if request.tcp_tunnel
                && let Err(report) = self.open_tunnel(settings, &reply, summary, seen).await
            {
                return report;
            }
            // Only a connection that was used before can turn out stale, and only then a second copy is needed.
            let copy = if origin.used && request.replayable { head.clone() } else { Vec::new() };
            let drain = self.drain.clone();
            let exchange = Exchange {
                client: &self.client,
                read: &mut self.read,
                origin: &mut origin,
                connection: &self.connection,
                settings,
                tails: &self.node.tails,
                metrics: &self.node.metrics,
                reply: &reply,
                seen,
                authorization_response: summary.authorization_response.as_deref(),
                draining: &|| drain.draining(),
                finished: false,
            };
            let outcome = exchange.run(&request, head, alarm).await;
            origin.container.touch();
            if matches!(outcome, Outcome::Stale) {
                head = copy;
                continue;
            }
            return self.conclude(settings, outcome, origin, &reply, summary, seen).await;
        }
    }

    /// The connection that `request` goes out on: the one that is open, if it leads to the same place, or a new one.
    async fn origin_for(
        &mut self,
        settings: &NodeSettings,
        request: &Request,
        summary: &Summary,
    ) -> Result<Origin, Refusal> {
        // Whatever comes of this request, a connection that leads elsewhere has served its time.
        let kept = self.origin.take().filter(|_| !request.tcp_tunnel);
        let container = self.node.find(&summary.container, summary.port).await?;
        if let Some(kept) = kept
            && let Some(origin) = kept.resume(&container, summary.port, &request.host, !request.replayable).await
        {
            origin.container.touch();
            return Ok(origin);
        }
        let purpose = if request.tcp_tunnel { Purpose::Tunnel } else { Purpose::Http { host: &request.host } };
        let origin = self.node.connect(settings, &self.client, container, summary.port, purpose).await?;
        self.connection.leads_to(&origin.container, origin.port);
        tracing::debug!(container = %summary.container, port = summary.port, peer = %self.peer, "connected into the container");
        Ok(origin)
    }

    /// Tells the client that the port's raw bytes follow.
    async fn open_tunnel(
        &self,
        settings: &NodeSettings,
        reply: &Reply,
        summary: &Summary,
        seen: &mut Seen,
    ) -> Result<(), Report> {
        let mut out = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n".to_vec();
        if let Some(response) = &summary.authorization_response {
            out.extend_from_slice(format!("X-Arvados-Authorization-Response: {response}\r\n").as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        reply.begin();
        seen.status = Some(101);
        seen.first_byte = Some(Instant::now());
        let written = self.client.write_all(&out, self.connection.meter(), Direction::Down);
        let written = in_time(settings.timeouts.idle, written).await;
        written.map_err(|_| Report { after: After::Cut, note: Some("client-gone") })
    }

    /// Draws the consequences of an exchange for both connections.
    async fn conclude(
        &mut self,
        settings: &NodeSettings,
        outcome: Outcome,
        origin: Origin,
        reply: &Reply,
        summary: &Summary,
        seen: &mut Seen,
    ) -> Report {
        match outcome {
            Outcome::Done { keep_client, keep_origin } => {
                if keep_client && keep_origin {
                    let answered = seen.answered.unwrap_or_else(Instant::now);
                    self.origin = origin.keep(settings.timeouts.origin_idle, answered.into());
                }
                Report { after: if keep_client { After::KeepAlive } else { After::Close }, note: None }
            }
            Outcome::Tunneled => {
                origin.stream.end_on_close();
                Report { after: After::Close, note: None }
            }
            Outcome::Withdrawn => {
                origin.stream.reset_on_close();
                tracing::debug!(container = %summary.container, port = summary.port, "connection cut: the container is gone");
                Report { after: After::Abort, note: Some("the container is gone") }
            }
            Outcome::Refused(refusal) => {
                origin.stream.reset_on_close();
                drop(origin);
                self.refuse(reply, refusal, summary, seen).await
            }
            Outcome::Cut(reason) => {
                origin.stream.reset_on_close();
                tracing::debug!(container = %summary.container, port = summary.port, reason, "connection cut");
                Report { after: After::Cut, note: Some(reason) }
            }
            Outcome::Stale | Outcome::ClientGone => {
                origin.stream.reset_on_close();
                Report { after: After::Cut, note: Some("the client closed the connection") }
            }
        }
    }

    /// Answers with `refusal`, unless the container has begun to answer.
    async fn refuse(&self, reply: &Reply, refusal: Refusal, summary: &Summary, seen: &mut Seen) -> Report {
        self.node.metrics.refusal(&refusal);
        let note = Some(refusal.label());
        let Some(right) = reply.begin() else { return Report { after: After::Cut, note } };
        let close = refusal.closes() || !summary.reusable || self.drain.draining();
        let wording = Wording {
            authorization_response: summary.authorization_response.as_deref(),
            head_request: summary.is_head(),
            close,
        };
        seen.status = Some(refusal.status());
        seen.first_byte = Some(Instant::now());
        let patience = self.node.settings.load().timeouts.idle;
        let written = reply::refuse(right, &self.client, self.connection.meter(), &refusal, wording);
        let written = in_time(patience, written).await;
        let after = match (written, close) {
            (Err(_), _) => After::Cut,
            (Ok(()), true) => After::Close,
            (Ok(()), false) => After::KeepAlive,
        };
        Report { after, note }
    }

    /// Logs a request and adds it to the metrics.
    fn account(&self, settings: &NodeSettings, account: &Account<'_>) {
        let meter = self.connection.meter();
        let fast = meter.take_fast();
        let slow_path = match (self.client.plain(), meter.take_spliced()) {
            (None, _) => Path::Tls,
            (Some(_), true) => Path::Splice,
            (Some(_), false) => Path::Copy,
        };
        let path = if fast > 0 { Path::Fast } else { slow_path };
        let [up, down] = [Direction::Up, Direction::Down]
            .map(|direction| meter.bytes(direction) - account.bytes[direction as usize]);
        let metrics = &self.node.metrics;
        metrics.request(account.seen.status.unwrap_or(0), Some(path));
        if let Some(first_byte) = account.seen.first_byte {
            metrics.first_byte(first_byte.duration_since(account.began));
        }
        metrics.bytes(Direction::Up, slow_path, up);
        metrics.bytes(Direction::Down, slow_path, down.saturating_sub(fast));
        metrics.bytes(Direction::Down, Path::Fast, fast);
        if let Some(container) = &account.summary.served {
            container.count(Traffic { requests: 1, bytes_up: up, bytes_down: down, bytes_fast: fast });
        }
        self.connection.counted();
        if settings.access_log {
            let line = Line {
                client: self.peer,
                summary: account.summary,
                seen: account.seen,
                began: account.began,
                bytes_up: up,
                bytes_down: down,
                path,
                bytes_fast: fast,
                note: account.note,
            };
            line.write();
        }
    }

    /// Ends the connection so that the last response arrives.
    async fn close(&mut self, patience: Duration) {
        self.origin = None;
        self.connection.does(Activity::Closing);
        ending::in_order(&self.client, patience).await;
    }

    /// Ends the connection so that the client knows that bytes are missing, after those that came.
    async fn cut(&mut self, patience: Duration) {
        self.origin = None;
        self.connection.does(Activity::Closing);
        ending::broken_off(&self.client, patience).await;
    }
}

/// What the gateway itself writes waits for a slow reader no longer than a relay would.
async fn in_time(patience: Duration, written: impl Future<Output = std::io::Result<()>>) -> std::io::Result<()> {
    timeout_at(deadline(patience), written).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// What a request's line and counters are made of.
struct Account<'a> {
    began: Instant,
    /// The meter's counts when it began.
    bytes: [u64; 2],
    summary: &'a Summary,
    seen: &'a Seen,
    note: Option<&'static str>,
}

enum Event {
    Read(std::io::Result<usize>),
    Drain,
    Due,
    /// The node keeps as much of unfinished heads as it may.
    Full,
}
