//! One request and its response: both directions at once, under one watch.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::connections::{Activity, Connection};
use super::download::{Download, DownloadError, Ended, Seen};
use super::engine::FastFor;
use super::origin::Origin;
use super::parting::{FIRST_LOOK, Parting};
use super::reply::Reply;
use super::request::Request;
use super::retry::Retry;
use super::route::late;
use super::upload::{Sent, Upload, UploadError};
use super::{NodeSettings, Timeouts};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
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
    Done { keep_client: bool, keep_origin: bool },
    /// An upgraded connection ended in good order.
    Tunneled,
    /// The kept-alive connection to the container was at its end before the request came there; nothing was written to the
    /// client.
    Stale,
    /// Nothing was written to the client, and this is the answer.
    Refused(Refusal),
    /// The response cannot be completed: both connections are reset.
    Cut(&'static str),
    /// Access to the container ended, while its server could still send: both connections are reset at once.
    Withdrawn,
    /// The client's connection broke.
    ClientGone,
}

/// Wakes a connection's task for its timeouts, with one timer for its whole life.
pub(super) struct Alarm<'p>(pub(super) Pin<&'p mut Sleep>);

impl Alarm<'_> {
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
    pub(super) origin: &'a mut Origin,
    pub(super) connection: &'a Connection,
    pub(super) settings: &'a NodeSettings,
    /// What containers that ended have left.
    pub(super) tails: &'a Arc<Tails>,
    pub(super) metrics: &'a Metrics,
    pub(super) reply: &'a Reply,
    pub(super) seen: &'a mut Seen,
    pub(super) authorization_response: Option<&'a str>,
    pub(super) draining: &'a (dyn Fn() -> bool + Sync),
    pub(super) finished: bool,
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.client.reset_on_close();
            self.origin.stream.reset_on_close();
        }
    }
}

impl Exchange<'_> {
    /// Sends `request`, whose head is `head`, and relays the answer; or opens the tunnel that it asks for.
    pub(super) async fn run(mut self, request: &Request, head: Vec<u8>, alarm: &mut Alarm<'_>) -> Outcome {
        let outcome = match request.tcp_tunnel {
            true => self.opaque(alarm).await,
            false => match self.http(request, head, alarm).await {
                Ok(Ended::Whole { keep_client, keep_origin }) => Outcome::Done { keep_client, keep_origin },
                Ok(Ended::Switched) => self.opaque(alarm).await,
                Err(outcome) => outcome,
            },
        };
        self.finished = true;
        outcome
    }

    async fn http(&mut self, request: &Request, head: Vec<u8>, alarm: &mut Alarm<'_>) -> Result<Ended, Outcome> {
        let meter = self.connection.meter();
        let mut watch = Watch::new(self.settings, meter, (&self.origin.container, &self.origin.stream), self.tails);
        watch.new_to = (!self.origin.used).then_some(self.origin.port);
        let sent = Sent::default();
        let retry = (self.origin.used && request.replayable).then(|| Retry::new(&self.origin.stream, head.len()));
        let (spent, surplus) = (AtomicBool::new(false), AtomicBool::new(false));
        let engine = &self.settings.engine;
        let (pipes, fast) = (engine.pipes.as_deref(), engine.fast_for(&self.origin.container));
        let mut upload =
            Upload { client: self.client, read: self.read, origin: &self.origin.stream, meter, pipes, sent: &sent };
        let mut download = Download {
            client: self.client,
            origin: &self.origin.stream,
            read: &mut self.origin.read,
            meter,
            pipes,
            limits: &self.settings.response_head,
            asked: &request.asked,
            reply: self.reply,
            sent: &sent,
            seen: self.seen,
            authorization_response: self.authorization_response,
            keep_alive: request.keep_alive,
            expect_continue: request.expect_continue,
            reused: self.origin.used,
            draining: self.draining,
            fast: fast.as_ref().map(FastFor::relay),
            patience: &mut self.origin.patience,
            spent: &spent,
            surplus: &surplus,
        };
        let mut up = pin!(async {
            match upload.run(head, request.framing).await {
                // The container may answer a request it does not read to the end.
                Ok(()) | Err(UploadError::Origin) => upload.watch().await,
                Err(error) => error,
            }
        });
        let mut down = pin!(download.run());
        let mut ended = None;
        meter.touch();
        let mut stage = None;
        let mut check = watch.next_check(false, false);
        poll_fn(|cx| {
            if let Poll::Ready(error) = up.as_mut().poll(cx) {
                return Poll::Ready(Err(match error {
                    UploadError::Request(refusal) if !self.reply.begun() => Outcome::Refused(refusal),
                    UploadError::Request(_) => Outcome::Cut("the client broke off its request"),
                    UploadError::Client | UploadError::Origin => Outcome::ClientGone,
                }));
            }
            if ended.is_none()
                && let Poll::Ready(result) = down.as_mut().poll(cx)
            {
                ended = Some(result.map_err(|error| match error {
                    DownloadError::Stale { in_order } if retry.as_ref().is_some_and(|r| r.is_safe(&sent, in_order)) => {
                        Outcome::Stale
                    }
                    DownloadError::Stale { .. } => Outcome::Refused(Refusal::EarlyEnd),
                    DownloadError::Refused(refusal) => Outcome::Refused(refusal),
                    DownloadError::Cut(reason) => Outcome::Cut(reason),
                    DownloadError::Client => Outcome::ClientGone,
                })?);
            }
            match ended {
                // The rest of a request that was answered early still has to go where it belongs.
                Some(Ended::Whole { keep_client: true, keep_origin: true })
                    if !sent.whole() && !sent.stopped() && !watch.parting.has_parted() => {}
                Some(Ended::Whole { keep_client, keep_origin }) => {
                    let whole = sent.whole();
                    let ended = Ended::Whole {
                        keep_client: keep_client && whole,
                        keep_origin: keep_origin && whole && !sent.ended(),
                    };
                    return Poll::Ready(Ok(ended));
                }
                // The new protocol begins behind the request's body.
                Some(Ended::Switched) if sent.whole() => return Poll::Ready(Ok(Ended::Switched)),
                Some(Ended::Switched) if sent.stopped() => {
                    return Poll::Ready(Err(Outcome::Cut(
                        "the container switched protocols in the middle of a request",
                    )));
                }
                Some(Ended::Switched) => {}
                None => {}
            }
            // A client that waits for leave to send its body (RFC 9110, 10.1.1) has said all that it says before an answer.
            let asks_leave = request.expect_continue && !sent.body_seen() && !self.reply.continued();
            let now = (sent.whole() || asks_leave, self.reply.answered());
            if stage != Some(now) {
                if stage.is_none_or(|before| before.0 != now.0) {
                    watch.owed_an_answer(now.0);
                }
                stage = Some(now);
                check = watch.next_check(now.0, now.1);
            }
            let overdue = watch.poll(cx, alarm, &mut check, now.0, now.1);
            overdue.map(|overdue| Err(overdue.outcome(self.reply.begun(), watch.container)))
        })
        .await
    }

    /// Relays an opaque connection: after a 101 of the container's, or of the gateway itself for a raw tunnel.
    async fn opaque(&mut self, alarm: &mut Alarm<'_>) -> Outcome {
        let meter = self.connection.meter();
        let mut watch = Watch::new(self.settings, meter, (&self.origin.container, &self.origin.stream), self.tails);
        self.connection.does(Activity::Tunnel);
        let _counted = self.metrics.tunnel();
        // Nothing but its end tells whether what came is all. So neither may look like one if this process is killed.
        self.client.reset_on_close();
        self.origin.stream.reset_on_close();
        let origin = (&self.origin.stream, &mut self.origin.read);
        let engine = &self.settings.engine;
        let (pipes, fast) = (engine.pipes.as_deref(), engine.fast_for(&self.origin.container));
        let fast = fast.as_ref().map(FastFor::relay);
        let mut relay = pin!(tunnel((self.client, self.read), origin, meter, pipes, fast));
        let mut check = watch.next_check(true, true);
        poll_fn(|cx| {
            if let Poll::Ready(result) = relay.as_mut().poll(cx) {
                return Poll::Ready(match result {
                    Ok(()) => Outcome::Tunneled,
                    Err(_) => Outcome::Cut("an end of the tunnel was reset"),
                });
            }
            watch.poll(cx, alarm, &mut check, true, true).map(|reason| reason.outcome(true, watch.container))
        })
        .await
    }
}

/// What is too late.
enum Overdue {
    Body,
    Answer,
    Idle,
    Gone,
}

impl Overdue {
    fn outcome(self, begun: bool, container: &Container) -> Outcome {
        match self {
            Self::Body if !begun => Outcome::Refused(Refusal::BodyTimeout),
            Self::Answer if !begun => Outcome::Refused(late(container, Refusal::AnswerTimeout)),
            Self::Body | Self::Answer | Self::Idle => Outcome::Cut("nothing moved for the idle timeout"),
            Self::Gone if !begun => Outcome::Refused(Refusal::EarlyEnd),
            Self::Gone => Outcome::Withdrawn,
        }
    }
}

/// The timeouts of an exchange.
struct Watch<'a> {
    timeouts: &'a Timeouts,
    meter: &'a Meter,
    container: &'a Container,
    parting: Parting<'a>,
    /// When the final response's head must be there; none while the request is not sent, or without such a timeout.
    answer_by: Option<Instant>,
    /// The port, if its server may not have taken the connection yet.
    new_to: Option<u16>,
}

impl<'a> Watch<'a> {
    fn new(
        settings: &'a NodeSettings,
        meter: &'a Meter,
        (container, origin): (&'a Container, &'a Stream),
        tails: &'a Arc<Tails>,
    ) -> Self {
        let parting = Parting::new(container, origin, tails, settings.tail_bytes);
        Self { timeouts: &settings.timeouts, meter, container, parting, answer_by: None, new_to: None }
    }

    /// The request is sent, and an answer to it owed from now on; or, after all, more of it is to come. What comes before
    /// the answer does not put it off.
    fn owed_an_answer(&mut self, owed: bool) {
        let timeout = self.timeouts.answer;
        self.answer_by = (owed && !timeout.is_zero()).then(|| Instant::now() + timeout);
    }

    /// Ready when something is overdue; `check` is when to look next.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        alarm: &mut Alarm<'_>,
        check: &mut Instant,
        sent: bool,
        answered: bool,
    ) -> Poll<Overdue> {
        if self.parting.poll(cx).is_ready() {
            return Poll::Ready(Overdue::Gone);
        }
        while alarm.poll(cx, *check).is_ready() {
            if let Some(overdue) = self.overdue(sent, answered) {
                return Poll::Ready(overdue);
            }
            // What goes on for long is activity of its container long before it ends.
            if self.meter.idle_for() < TOUCH {
                self.container.touch();
            }
            if self.parting.is_young()
                && !answered
                && let Some(port) = self.new_to
            {
                // A server with one thread serves one connection at a time, also one that brings nothing.
                self.container.let_go_idle(port);
            }
            self.parting.look();
            if self.parting.poll(cx).is_ready() {
                return Poll::Ready(Overdue::Gone);
            }
            *check = self.next_check(sent, answered);
            alarm.again(*check);
        }
        Poll::Pending
    }

    /// When something may be due. `sent` and `answered` as for [`Watch::overdue`]; look again when one of them changes.
    fn next_check(&self, sent: bool, answered: bool) -> Instant {
        let idle = self.meter.idle_for();
        let left = |timeout: Duration| (!timeout.is_zero()).then(|| timeout.saturating_sub(idle));
        let answer =
            self.answer_by.filter(|_| sent && !answered).map(|by| by.saturating_duration_since(Instant::now()));
        let look = if self.parting.is_young() { FIRST_LOOK } else { TOUCH };
        let until = [left(self.timeouts.idle), answer];
        let soonest = until.into_iter().flatten().fold(look, Duration::min);
        // The meter counts milliseconds: a timer that goes off within one of them would find nothing due yet.
        Instant::now() + soonest.max(Duration::from_millis(2))
    }

    /// `sent`: the request is whole, or waits for leave to go on; `answered`: the final response has begun.
    fn overdue(&self, sent: bool, answered: bool) -> Option<Overdue> {
        let idle = self.meter.idle_for();
        let over = |timeout: Duration| !timeout.is_zero() && idle >= timeout;
        if sent && !answered && self.answer_by.is_some_and(|by| Instant::now() >= by) {
            return Some(Overdue::Answer);
        }
        over(self.timeouts.idle).then_some(match (sent, answered) {
            (_, true) => Overdue::Idle,
            (true, false) => Overdue::Answer,
            (false, false) => Overdue::Body,
        })
    }
}
