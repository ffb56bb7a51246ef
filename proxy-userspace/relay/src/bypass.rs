//! What can carry a response past this process, as the relay sees it.
//!
//! The relay knows neither programs in the kernel nor network namespaces: whoever calls it brings a [`Bypass`], which opens
//! a [`FastFlow`] for a response. From then on bytes reach the client in two ways: what the bypass redirects goes there
//! directly, and what it lets pass arrives at the relay's own connection to the server and is relayed. The two never write
//! at the same time: the relay writes only while it has the turn.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use portsplice_net::sock::Sock;

/// How large the buffers are in which bytes wait that the bypass lets pass: the receive buffer of the upstream connection,
/// as `SO_RCVBUF` takes it, and the send buffer of the server's socket. What waits in them has to be relayed before
/// anything can be redirected again, so they are small.
pub const SLOW_BYTES: u32 = 64 * 1024;

/// How long a message may be on its way between two sockets of one host. It takes microseconds, unless the server's
/// thread is stopped in the middle of its system call.
const IN_FLIGHT: Duration = Duration::from_secs(2);

/// How often a wait asks again at once, before it sleeps: tokio's timer has no steps below a millisecond.
const YIELDS: u32 = 20;
/// How long it sleeps at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// A way for responses past this process, from one container's servers.
pub trait Bypass: fmt::Debug + Send + Sync {
    /// Attaches the server's socket, so that what it sends from now on may go straight to the client.
    ///
    /// # Errors
    /// Why not. Nothing has changed then, and the response takes the ordinary way.
    fn open(&self, request: &BypassRequest<'_>) -> Result<Arc<dyn FastFlow>, AttachError>;

    /// Whether a server's socket must not be attached while the server has something to read. Some kernels tell a server
    /// wrongly then that there is nothing.
    fn needs_quiet_server(&self) -> bool;
}

/// The response that is to go past this process.
#[derive(Debug, Clone, Copy)]
pub struct BypassRequest<'a> {
    /// The client's connection.
    pub client: &'a Sock,
    /// The connection to the server.
    pub upstream: &'a Sock,
    /// How the response is framed.
    pub framing: Framing,
    /// With [`Framing::Plain`], bytes that are still to come, [`UNTIL_END`](crate::UNTIL_END) if nobody knows. With
    /// [`Framing::Chunked`], bytes before the next chunk line.
    pub budget: u64,
    /// What the server does with its socket meanwhile.
    pub server: ServerUse,
}

/// How a response is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By its length, or by the end of the connection.
    Plain,
    /// By the chunked transfer coding, which the bypass follows.
    Chunked,
}

/// What a server may do with its socket while it is attached; it decides what must be asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerUse {
    /// It has the whole request and only answers it.
    Responds,
    /// It reads as well, at any time: an upgraded connection.
    Duplex,
}

/// Why a response is not carried past this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct AttachError {
    /// The reason in a word, as a metric's label has it.
    pub reason: &'static str,
    /// Whether the same connections will always be refused; if not, another attempt may succeed a little later.
    pub permanent: bool,
}

/// Bytes that went past this process cannot be accounted for: one that was redirected did not reach the client's queue in
/// time, more or fewer than were allowed have reached it, or the client is gone. The client's connection must be reset,
/// since nobody knows when the rest would turn up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unaccounted;

/// A response whose server's socket is attached: what it sends may go straight to the client.
///
/// The relay moves what is let pass. With such bytes at hand it [claims](claim) the turn, [takes](FastFlow::take) what it
/// may write, writes it, and gives the turn [back](FastFlow::release). When the response is over it [drains](drain) the
/// flow; only then may anything else be written to the client, since a redirected message may still be on its way. If the
/// flow is dropped before, the client's connection must not be used any more.
///
/// The methods are called for each step of a relay: they do not wait.
pub trait FastFlow: fmt::Debug + Send + Sync {
    /// With [`Framing::Plain`], bytes of the budget that are not taken; with [`Framing::Chunked`], bytes before the next
    /// chunk line, which is known while the relay has the turn.
    fn budget(&self) -> u64;

    /// Asks for the turn to write to the client. `true`: the relay has it, and everything that was redirected before has
    /// arrived. `false`: not yet.
    ///
    /// # Errors
    /// [`Unaccounted`]: the flow has ended, or the client cannot be asked any more.
    fn try_claim(&self) -> Result<bool, Unaccounted>;

    /// Whether the relay has the turn.
    fn is_claimed(&self) -> bool;

    /// Takes up to `n` bytes from a plain response's budget; gives how many, and just so many must be written to the
    /// client. Only with the turn.
    #[must_use]
    fn take(&self, n: u64) -> u64;

    /// Notes that `n` bytes are about to be written to the client that stand where the coding of a chunked response is. Only
    /// with the turn.
    fn writes(&self, n: u64);

    /// Gives the turn back, when of the next `read` bytes that came from the server all that was taken is written.
    fn release(&self, read: u64);

    /// The same for a chunked response that has `place` bytes to go before the next chunk line.
    fn release_at(&self, read: u64, place: u64);

    /// Ends the flow: from here on every message passes. `true`: just what was taken from the budget has reached the client's
    /// queue. `false`: not yet, something is on its way.
    ///
    /// # Errors
    /// [`Unaccounted`]: the client cannot be asked any more, or the sums differ.
    fn try_drain(&self) -> Result<bool, Unaccounted>;

    /// Detaches the server's socket at once, without waiting for what is on its way to the client. It may be called while the
    /// relay has the turn in another task.
    fn detach(&self);

    /// Bytes that have gone past this process so far.
    fn fast_bytes(&self) -> u64;

    /// Whether the server's connection cannot carry another response after this one.
    fn exhausts_server(&self) -> bool;
}

/// Waits until the relay has the turn, and everything that was redirected before has arrived.
///
/// # Errors
/// [`Unaccounted`], also when that takes too long.
pub(crate) async fn claim(flow: &dyn FastFlow) -> Result<(), Unaccounted> {
    wait(|| flow.try_claim()).await
}

/// Ends the flow, and waits until just what was taken from the budget has reached the client's queue.
///
/// # Errors
/// [`Unaccounted`], also when that takes too long.
pub(crate) async fn drain(flow: &dyn FastFlow) -> Result<(), Unaccounted> {
    wait(|| flow.try_drain()).await
}

async fn wait(done: impl Fn() -> Result<bool, Unaccounted>) -> Result<(), Unaccounted> {
    for _ in 0..YIELDS {
        if done()? {
            return Ok(());
        }
        yield_now().await;
    }
    let (mut pause, longest) = PAUSES;
    let deadline = Instant::now() + IN_FLIGHT;
    while !done()? {
        if Instant::now() >= deadline {
            return Err(Unaccounted);
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
    Ok(())
}
