//! One request and its response: both directions at once, under one watch.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::connections::{Activity, Connection};
use super::download::{Download, DownloadError, Ended, ResponseStats};
use super::engine::FastFor;
use super::exit_watch::{ExitWatch, FIRST_CHECK};
use super::reply::Reply;
use super::request::Request;
use super::retry::Retry;
use super::route::paused_or;
use super::upload::{Upload, UploadError, UploadState};
use super::upstream::Upstream;
use super::{NodeSettings, Timeouts};
use crate::gateway_error::GatewayError;
use crate::metrics::Metrics;
use portsplice_discovery::container::Container;
use portsplice_net::sock::Tails;
use portsplice_relay::buffer::ReadBuffer;
use portsplice_relay::{Meter, Stream, tunnel};

/// How often it is noted that a container is in use, by what goes on for long.
const TOUCH: Duration = Duration::from_secs(10);

/// How an exchange ended.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The response is whole.
    Done { keep_client: bool, keep_upstream: bool },
    /// An upgraded connection ended in good order.
    Tunneled,
    /// The kept-alive upstream connection was at its end before the request came there; nothing was written to the
    /// client.
    Stale,
    /// Nothing was written to the client, and this is the answer.
    Rejected(GatewayError),
    /// The response cannot be completed: both connections are reset.
    Abort(&'static str),
    /// Access to the container ended, while its server could still send: both connections are reset at once.
    Withdrawn,
    /// The client's connection broke.
    ClientGone,
}

/// Wakes a connection's task for its timeouts, with one timer for its whole life.
pub(super) struct ReusableTimer<'p>(pub(super) Pin<&'p mut Sleep>);

impl ReusableTimer<'_> {
    /// Ready at `at` or somewhat before: the caller then looks at what is really due.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.0.deadline() > at {
            self.0.as_mut().reset(at);
        }
        self.0.as_mut().poll(cx)
    }

    /// Sets the timer after it went off.
    pub(super) fn again(&mut self, at: Instant) {
        self.0.as_mut().reset(at);
    }
}

/// What an exchange needs of its connection.
///
/// Dropped before it is finished, by the drain's deadline, it resets both its connections: an orderly end would pass for
/// the end of what was being sent.
pub(super) struct Exchange<'a> {
    pub(super) client: &'a Stream,
    pub(super) read: &'a mut ReadBuffer,
    pub(super) upstream: &'a mut Upstream,
    pub(super) connection: &'a Connection,
    pub(super) settings: &'a NodeSettings,
    /// What containers that ended have left.
    pub(super) tails: &'a Arc<Tails>,
    pub(super) metrics: &'a Metrics,
    pub(super) reply: &'a Reply,
    pub(super) stats: &'a mut ResponseStats,
    pub(super) authorization_response: Option<&'a str>,
    pub(super) draining: &'a (dyn Fn() -> bool + Sync),
    pub(super) finished: bool,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.client.reset_on_close();
            self.upstream.stream.reset_on_close();
        }
    }
}

impl Exchange<'_> {
    /// Sends `request`, whose head is `head`, and relays the answer; or opens the tunnel that it asks for.
    pub(super) async fn run(mut self, request: &Request, head: Vec<u8>, timer: &mut ReusableTimer<'_>) -> Outcome {
        let outcome = match request.tcp_tunnel {
            true => self.opaque(timer).await,
            false => match self.http(request, head, timer).await {
                Ok(Ended::Whole { keep_client, keep_upstream }) => Outcome::Done { keep_client, keep_upstream },
                Ok(Ended::Switched) => self.opaque(timer).await,
                Err(outcome) => outcome,
            },
        };
        self.finished = true;
        outcome
    }

    async fn http(
        &mut self,
        request: &Request,
        head: Vec<u8>,
        timer: &mut ReusableTimer<'_>,
    ) -> Result<Ended, Outcome> {
        let meter = self.connection.meter();
        let mut timers =
            ExchangeTimers::new(self.settings, meter, (&self.upstream.container, &self.upstream.stream), self.tails);
        timers.new_to = (!self.upstream.used).then_some(self.upstream.port);
        let upload_state = UploadState::default();
        let retry = (self.upstream.used && request.replayable).then(|| Retry::new(&self.upstream.stream, head.len()));
        let (no_reuse, surplus) = (AtomicBool::new(false), AtomicBool::new(false));
        let engine = &self.settings.engine;
        let (pipes, fast) = (engine.pipes.as_deref(), engine.fast_for(&self.upstream.container));
        let mut upload = Upload {
            client: self.client,
            read: self.read,
            upstream: &self.upstream.stream,
            meter,
            pipes,
            upload_state: &upload_state,
        };
        let mut download = Download {
            client: self.client,
            upstream: &self.upstream.stream,
            read: &mut self.upstream.read,
            meter,
            pipes,
            limits: &self.settings.response_head,
            context: &request.context,
            reply: self.reply,
            upload_state: &upload_state,
            stats: self.stats,
            authorization_response: self.authorization_response,
            keep_alive: request.keep_alive,
            expect_continue: request.expect_continue,
            reused: self.upstream.used,
            draining: self.draining,
            fast: fast.as_ref().map(FastFor::relay),
            server_keep_alive: &mut self.upstream.keep_alive,
            no_reuse: &no_reuse,
            surplus: &surplus,
        };
        let mut up = pin!(async {
            match upload.run(head, request.framing).await {
                // The container may answer a request it does not read to the end.
                Ok(()) | Err(UploadError::Upstream) => upload.watch().await,
                Err(error) => error,
            }
        });
        let mut down = pin!(download.run());
        let mut ended = None;
        meter.touch();
        let mut stage = None;
        let mut check = timers.next_check(false, false);
        poll_fn(|cx| {
            if let Poll::Ready(error) = up.as_mut().poll(cx) {
                return Poll::Ready(Err(match error {
                    UploadError::Request(error) if !self.reply.begun() => Outcome::Rejected(error),
                    UploadError::Request(_) => Outcome::Abort("the client aborted its request"),
                    UploadError::Client | UploadError::Upstream => Outcome::ClientGone,
                }));
            }
            if ended.is_none()
                && let Poll::Ready(result) = down.as_mut().poll(cx)
            {
                ended = Some(result.map_err(|error| match error {
                    DownloadError::Stale { in_order }
                        if retry.as_ref().is_some_and(|r| r.is_safe(&upload_state, in_order)) =>
                    {
                        Outcome::Stale
                    }
                    DownloadError::Stale { .. } => Outcome::Rejected(GatewayError::EarlyEnd),
                    DownloadError::Rejected(error) => Outcome::Rejected(error),
                    DownloadError::Abort(reason) => Outcome::Abort(reason),
                    DownloadError::Client => Outcome::ClientGone,
                })?);
            }
            match ended {
                // The rest of a request that was answered early still has to go where it belongs.
                Some(Ended::Whole { keep_client: true, keep_upstream: true })
                    if !upload_state.whole() && !upload_state.stopped() && !timers.exit_watch.tail_taken() => {}
                Some(Ended::Whole { keep_client, keep_upstream }) => {
                    let whole = upload_state.whole();
                    let ended = Ended::Whole {
                        keep_client: keep_client && whole,
                        keep_upstream: keep_upstream && whole && !upload_state.ended(),
                    };
                    return Poll::Ready(Ok(ended));
                }
                // The new protocol begins behind the request's body.
                Some(Ended::Switched) if upload_state.whole() => return Poll::Ready(Ok(Ended::Switched)),
                Some(Ended::Switched) if upload_state.stopped() => {
                    return Poll::Ready(Err(Outcome::Abort(
                        "the container switched protocols in the middle of a request",
                    )));
                }
                Some(Ended::Switched) => {}
                None => {}
            }
            // A client that waits for leave to send its body (RFC 9110, 10.1.1) has said all that it says before an answer.
            let awaits_continue = request.expect_continue && !upload_state.body_seen() && !self.reply.continued();
            let now = (upload_state.whole() || awaits_continue, self.reply.answered());
            if stage != Some(now) {
                if stage.is_none_or(|before| before.0 != now.0) {
                    timers.expect_response(now.0);
                }
                stage = Some(now);
                check = timers.next_check(now.0, now.1);
            }
            let overdue = timers.poll(cx, timer, &mut check, now.0, now.1);
            overdue.map(|overdue| Err(overdue.outcome(self.reply.begun(), timers.container)))
        })
        .await
    }

    /// Relays an opaque connection: after a 101 of the container's, or of the gateway itself for a raw tunnel.
    async fn opaque(&mut self, timer: &mut ReusableTimer<'_>) -> Outcome {
        let meter = self.connection.meter();
        let mut timers =
            ExchangeTimers::new(self.settings, meter, (&self.upstream.container, &self.upstream.stream), self.tails);
        self.connection.does(Activity::Tunnel);
        let _counted = self.metrics.tunnel();
        // Nothing but its end tells whether what came is all. So neither may look like one if this process is killed.
        self.client.reset_on_close();
        self.upstream.stream.reset_on_close();
        let upstream = (&self.upstream.stream, &mut self.upstream.read);
        let engine = &self.settings.engine;
        let (pipes, fast) = (engine.pipes.as_deref(), engine.fast_for(&self.upstream.container));
        let fast = fast.as_ref().map(FastFor::relay);
        let mut relay = pin!(tunnel((self.client, self.read), upstream, meter, pipes, fast));
        let mut check = timers.next_check(true, true);
        poll_fn(|cx| {
            if let Poll::Ready(result) = relay.as_mut().poll(cx) {
                return Poll::Ready(match result {
                    Ok(()) => Outcome::Tunneled,
                    Err(_) => Outcome::Abort("one side of the tunnel was reset"),
                });
            }
            timers.poll(cx, timer, &mut check, true, true).map(|reason| reason.outcome(true, timers.container))
        })
        .await
    }
}

/// What is too late.
enum Overdue {
    Body,
    Response,
    Idle,
    Gone,
}

impl Overdue {
    fn outcome(self, begun: bool, container: &Container) -> Outcome {
        match self {
            Self::Body if !begun => Outcome::Rejected(GatewayError::BodyTimeout),
            Self::Response if !begun => Outcome::Rejected(paused_or(container, GatewayError::ResponseHeaderTimeout)),
            Self::Body | Self::Response | Self::Idle => Outcome::Abort("idle timeout"),
            Self::Gone if !begun => Outcome::Rejected(GatewayError::EarlyEnd),
            Self::Gone => Outcome::Withdrawn,
        }
    }
}

/// The timeouts of an exchange.
struct ExchangeTimers<'a> {
    timeouts: &'a Timeouts,
    meter: &'a Meter,
    container: &'a Container,
    exit_watch: ExitWatch<'a>,
    /// When the final response's head must be there; none while the request is not sent, or without such a timeout.
    response_due: Option<Instant>,
    /// The port, if its server may not have taken the connection yet.
    new_to: Option<u16>,
}

impl<'a> ExchangeTimers<'a> {
    fn new(
        settings: &'a NodeSettings,
        meter: &'a Meter,
        (container, upstream): (&'a Container, &'a Stream),
        tails: &'a Arc<Tails>,
    ) -> Self {
        let exit_watch = ExitWatch::new(container, upstream, tails, settings.tail_bytes);
        Self { timeouts: &settings.timeouts, meter, container, exit_watch, response_due: None, new_to: None }
    }

    /// The request is sent, and an answer to it owed from now on; or, after all, more of it is to come. What comes before
    /// the answer does not put it off.
    fn expect_response(&mut self, owed: bool) {
        let timeout = self.timeouts.response_header;
        self.response_due = (owed && !timeout.is_zero()).then(|| Instant::now() + timeout);
    }

    /// Ready when something is overdue; `check` is when to look next.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        timer: &mut ReusableTimer<'_>,
        check: &mut Instant,
        sent: bool,
        answered: bool,
    ) -> Poll<Overdue> {
        if self.exit_watch.poll(cx).is_ready() {
            return Poll::Ready(Overdue::Gone);
        }
        while timer.poll(cx, *check).is_ready() {
            if let Some(overdue) = self.overdue(sent, answered) {
                return Poll::Ready(overdue);
            }
            // What goes on for long is activity of its container long before it ends.
            if self.meter.idle_for() < TOUCH {
                self.container.touch();
            }
            if self.exit_watch.is_young()
                && !answered
                && let Some(port) = self.new_to
            {
                // A server with one thread serves one connection at a time, also one that brings nothing.
                self.container.close_idle(port);
            }
            self.exit_watch.check();
            if self.exit_watch.poll(cx).is_ready() {
                return Poll::Ready(Overdue::Gone);
            }
            *check = self.next_check(sent, answered);
            timer.again(*check);
        }
        Poll::Pending
    }

    /// When something may be due. `sent` and `answered` as for [`ExchangeTimers::overdue`]; look again when one of them changes.
    fn next_check(&self, sent: bool, answered: bool) -> Instant {
        let idle = self.meter.idle_for();
        let left = |timeout: Duration| (!timeout.is_zero()).then(|| timeout.saturating_sub(idle));
        let response_header =
            self.response_due.filter(|_| sent && !answered).map(|by| by.saturating_duration_since(Instant::now()));
        let check_after = if self.exit_watch.is_young() { FIRST_CHECK } else { TOUCH };
        let until = [left(self.timeouts.idle), response_header];
        let soonest = until.into_iter().flatten().fold(check_after, Duration::min);
        // The meter counts milliseconds: a timer that goes off within one of them would find nothing due yet.
        Instant::now() + soonest.max(Duration::from_millis(2))
    }

    /// `sent`: the request is whole, or waits for leave to go on; `answered`: the final response has begun.
    fn overdue(&self, sent: bool, answered: bool) -> Option<Overdue> {
        let idle = self.meter.idle_for();
        let over = |timeout: Duration| !timeout.is_zero() && idle >= timeout;
        if sent && !answered && self.response_due.is_some_and(|by| Instant::now() >= by) {
            return Some(Overdue::Response);
        }
        over(self.timeouts.idle).then_some(match (sent, answered) {
            (_, true) => Overdue::Idle,
            (true, false) => Overdue::Response,
            (false, false) => Overdue::Body,
        })
    }
}
