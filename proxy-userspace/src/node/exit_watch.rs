//! A container that goes while something of its server is still on its way to a client.
//!
//! What the server sent before it ended is the client's, however slowly that reads. It is taken out of the container's
//! namespace, which is to end too; the relay goes on from memory. A server that could still send belongs to a container that
//! was withdrawn, denied or replaced: access to it has ended, and so does the connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use portsplice_discovery::container::Container;
use portsplice_net::sock::{TailStatus, Tails};
use portsplice_relay::Stream;

/// From when on a request watches for the end of its container: most are over before, and pay nothing for it.
pub(super) const FIRST_CHECK: Duration = Duration::from_millis(300);

/// How long it may take until the end of a stream comes whose server has ended. It is behind what the kernel still holds.
const EMPTYING: Duration = Duration::from_millis(600);

/// How long a stream is kept that cannot be taken out, because there is too much of it.
const FULL: Duration = Duration::from_secs(10);

/// Watches one connection into a container.
pub(super) struct ExitWatch<'a> {
    container: &'a Container,
    upstream: &'a Stream,
    tails: &'a Arc<Tails>,
    /// Bytes that all tails may have.
    limit: u64,
    state: State<'a>,
}

enum State<'a> {
    Young,
    Watching(Pin<Box<dyn Future<Output = ()> + Send + 'a>>),
    Emptying { over: Pin<Box<Sleep>>, full: bool },
    Done,
}

impl<'a> ExitWatch<'a> {
    pub(super) fn new(container: &'a Container, upstream: &'a Stream, tails: &'a Arc<Tails>, limit: u64) -> Self {
        Self { container, upstream, tails, limit, state: State::Young }
    }

    /// The request has gone on for [`FIRST_CHECK`]: from now on the container's end is noticed at once.
    pub(super) fn check(&mut self) {
        if matches!(self.state, State::Young) {
            self.state = State::Watching(Box::pin(self.container.gone()));
        }
    }

    /// Whether [`ExitWatch::check`] is still to be called.
    pub(super) fn is_young(&self) -> bool {
        matches!(self.state, State::Young)
    }

    /// Whether all that is still to come is in memory, and nothing can be sent any more.
    pub(super) fn tail_taken(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Ready when the container has gone and the connection to it is to be cut.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.state {
                State::Young | State::Done => return Poll::Pending,
                State::Watching(gone) => {
                    ready!(gone.as_mut().poll(cx));
                    self.state = State::Emptying { over: Box::pin(sleep(EMPTYING)), full: false };
                }
                State::Emptying { over, full } => {
                    let (taken, status) = self.upstream.take_tail(cx, self.tails, self.limit);
                    if taken {
                        // Whoever reads the connection has looked before.
                        cx.waker().wake_by_ref();
                    }
                    match status {
                        Poll::Ready(TailStatus::Complete) => {
                            self.state = State::Done;
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        Poll::Ready(TailStatus::Full) if !*full => {
                            *full = true;
                            over.as_mut().reset(tokio::time::Instant::now() + FULL);
                        }
                        Poll::Ready(TailStatus::Full) | Poll::Pending => {}
                    }
                    return over.as_mut().poll(cx);
                }
            }
        }
    }
}
