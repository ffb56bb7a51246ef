//! A flow on the fast path, from arming to settling.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use proxy_common::{
    ARM_NONBLOCKING, ARM_QUIET, ArmRequest, Armed, Framing, SettleRequest, TUPLE_V4, TUPLE_V6, settled,
};
use socket2::Socket;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use super::flows::Flows;
use super::turn::NoTurn;
use crate::netns::Netns;

/// How long a message may be on its way between two sockets of one host. It takes microseconds, unless the server's
/// thread is stopped in the middle of its system call.
const SETTLE: Duration = Duration::from_secs(2);

/// How often a wait asks again at once, before it sleeps: tokio's timer has no steps below a millisecond.
const YIELDS: u32 = 20;
/// How long it sleeps at first, and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// What is to be armed.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The network namespace of U and S.
    pub netns: &'a Netns,
    /// C, the controller's connection.
    pub client: &'a Socket,
    /// U, the daemon's connection to the container.
    pub upstream: &'a Socket,
    /// How the response is framed.
    pub framing: Framing,
    /// For a plain one, bytes that are still to come, [`proxy_common::Flow::UNTIL_END`] if nobody knows. For a chunked
    /// one, bytes before the next chunk line.
    pub budget: u64,
    /// What S will be used for while the flow is armed.
    pub server: ServerUse,
}

/// What a server may do with its socket while the flow is armed; it decides what must be asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerUse {
    /// It has the whole request and only answers it.
    Answers,
    /// It reads as well, at any time: an upgraded connection.
    Converses,
}

/// Why a flow is not armed. The response then takes the ordinary way, and nothing else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The programs found something against it.
    Program(Armed),
    /// The flow table is full.
    TableFull,
    /// The kernel did not take C into its map: it is in somebody else's, or has been shut down.
    Client,
    /// A system call failed.
    System,
}

impl Refused {
    /// The value of a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Program(Armed::Yes) => "none",
            Self::Program(Armed::Argument) => "argument",
            Self::Program(Armed::NoServer) => "no-server",
            Self::Program(Armed::NoUpstream) => "no-upstream",
            Self::Program(Armed::NoClient) | Self::Client => "client",
            Self::Program(Armed::State) => "state",
            Self::Program(Armed::Protocol) => "protocol",
            Self::Program(Armed::ZeroCopy) => "zero-copy",
            Self::Program(Armed::Multipath) => "multipath",
            Self::Program(Armed::Unread) => "unread",
            Self::Program(Armed::Blocking) => "blocking",
            Self::Program(Armed::Refused) => "refused",
            Self::Program(Armed::Foreign) => "foreign",
            Self::TableFull => "table-full",
            Self::System => "system",
        }
    }

    /// Whether the same flow may be armed a little later.
    pub const fn passes(self) -> bool {
        matches!(self, Self::TableFull | Self::Program(Armed::Unread | Armed::Refused))
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A message that a verdict has redirected did not reach C's queue in time, more or less than was allowed has reached it,
/// or C is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsettled;

/// A flow that was armed: messages of S may go straight to C.
///
/// The daemon relays what passes to U. With such bytes at hand it [claims](Lane::claim) the turn, [takes](Lane::take) what it
/// may write, writes it, and gives the turn [back](Lane::release). When the response is over it calls [`Lane::settle`]; only
/// then may anything else be written to C, since a redirected message may still be on its way. Dropped before, C must not be
/// used any more.
#[derive(Debug)]
pub struct Lane {
    flows: Arc<Flows>,
    slot: u32,
    generation: u32,
    /// The budget at first.
    budget: u64,
    framing: Framing,
    /// S has been put under the verdict.
    armed: AtomicBool,
    /// Bytes that were redirected when it was last known that all had arrived.
    arrived: AtomicU64,
    /// It is known that just what was allowed has arrived; S and C are out of the maps.
    settled: AtomicBool,
}

impl Lane {
    pub(super) fn arm(flows: &Arc<Flows>, request: &Request<'_>) -> Result<Self, Refused> {
        let Some(slot) = flows.table.take() else {
            flows.totals.armed(Err(Refused::TableFull));
            return Err(Refused::TableFull);
        };
        let lane = Self {
            flows: Arc::clone(flows),
            slot,
            generation: flows.next_generation(),
            budget: request.budget,
            framing: request.framing,
            armed: AtomicBool::new(false),
            arrived: AtomicU64::new(0),
            settled: AtomicBool::new(false),
        };
        let armed = lane.try_arm(request);
        flows.totals.armed(armed);
        armed.map(|()| lane)
    }

    fn try_arm(&self, request: &Request<'_>) -> Result<(), Refused> {
        self.entry().reset_counts();
        let argument = self.argument(request).map_err(|error| {
            tracing::debug!(%error, "a flow's sockets cannot be asked");
            Refused::System
        })?;
        self.flows.insert_client(self.slot, request.client).map_err(|error| {
            tracing::debug!(%error, "the controller's connection cannot take part in the fast path");
            Refused::Client
        })?;
        match self.flows.arm(request.netns, &argument) {
            Ok(Armed::Yes) => {
                self.armed.store(true, Relaxed);
                super::buffers::prepare(request.client);
                Ok(())
            }
            Ok(refused) => Err(Refused::Program(refused)),
            Err(error) => {
                tracing::debug!(%error, "a flow cannot be armed");
                Err(Refused::System)
            }
        }
    }

    fn argument(&self, request: &Request<'_>) -> io::Result<ArmRequest> {
        let upstream = inet(&request.upstream.local_addr()?)?;
        let server = inet(&request.upstream.peer_addr()?)?;
        let (tuple_bytes, server_tuple) = tuple(upstream, server);
        let (_, upstream_tuple) = tuple(server, upstream);
        let flags = match request.server {
            ServerUse::Answers => ARM_QUIET,
            ServerUse::Converses if self.flows.quirks().fionread => ARM_QUIET | ARM_NONBLOCKING,
            ServerUse::Converses => ARM_NONBLOCKING,
        };
        Ok(ArmRequest {
            slot: self.slot,
            generation: self.generation,
            budget: request.budget,
            client_cookie: request.client.cookie()?,
            flags,
            framing: request.framing as u32,
            tuple_bytes,
            server_tuple,
            upstream_tuple,
            reserved: 0,
        })
    }

    /// What is to come, in the sense of [`Request::budget`]. It stands still only while the daemon has the turn.
    pub fn budget(&self) -> u64 {
        self.entry().budget.load(Acquire)
    }

    /// To be called with bytes at hand that came through U, before any of them is written: from here on nothing is
    /// redirected, and all that was has arrived.
    ///
    /// # Errors
    /// [`Unsettled`], as for [`Lane::settle`].
    pub async fn claim(&self) -> Result<(), Unsettled> {
        self.wait(|| self.try_claim()).await
    }

    /// As [`Lane::claim`], without waiting: `false` while a verdict is being reached, or a redirected message is still on its
    /// way.
    ///
    /// # Errors
    /// [`Unsettled`]: C cannot be asked any more, or the flow has ended.
    pub fn try_claim(&self) -> Result<bool, Unsettled> {
        match self.entry().claim(self.generation) {
            Ok(()) => {}
            Err(NoTurn::Busy) => return Ok(false),
            Err(NoTurn::Closed) => return Err(Unsettled),
        }
        // What passed must wait for what did not: both may be messages of different threads. With chunks it must not matter
        // who sent what: bytes that came through U would not be where the coding is, if others were still to come before.
        let fast_bytes = self.fast_bytes();
        if self.arrived.load(Relaxed) == fast_bytes {
            return Ok(true);
        }
        let arrived = self.ask(false)?;
        if arrived {
            self.arrived.store(fast_bytes, Relaxed);
        }
        Ok(arrived)
    }

    /// Whether the daemon has the turn.
    pub fn is_claimed(&self) -> bool {
        self.entry().is_claimed(self.generation)
    }

    /// Takes up to `n` bytes from a plain response's budget; gives how many, and just so many must be written to C. Only with
    /// the turn.
    #[must_use]
    pub fn take(&self, n: u64) -> u64 {
        self.entry().take(n)
    }

    /// Notes that `n` bytes are about to be written to C that stand where the coding of a chunked response is. Only with the
    /// turn.
    pub fn writes(&self, n: u64) {
        self.entry().count(n);
    }

    /// Gives the turn back, when of the next `read` bytes that came through U all that was taken is written to C.
    pub fn release(&self, read: u64) {
        self.entry().release(self.generation, read);
    }

    /// As [`Lane::release`], for a chunked response that has `place` bytes to go before the next chunk line.
    pub fn release_at(&self, read: u64, place: u64) {
        self.entry().budget.store(place, Relaxed);
        self.release(read);
    }

    /// Bytes that have gone the fast way so far.
    pub fn fast_bytes(&self) -> u64 {
        self.entry().fast_bytes.load(Relaxed)
    }

    /// Messages that passed so far.
    pub fn passed_messages(&self) -> u64 {
        self.entry().passed.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Ends the flow: from here on every message passes, and just what was taken from the budget is in C's queue.
    ///
    /// # Errors
    /// [`Unsettled`]: the connection must be cut, since nobody knows when the rest of it would turn up.
    pub async fn settle(&self) -> Result<(), Unsettled> {
        self.wait(|| self.try_settle()).await
    }

    async fn wait(&self, done: impl Fn() -> Result<bool, Unsettled>) -> Result<(), Unsettled> {
        for _ in 0..YIELDS {
            if done()? {
                return Ok(());
            }
            yield_now().await;
        }
        let (mut pause, longest) = PAUSES;
        let deadline = Instant::now() + SETTLE;
        while !done()? {
            if Instant::now() >= deadline {
                return Err(Unsettled);
            }
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
        Ok(())
    }

    /// Whether C's sequence number is where all that was taken brings it.
    fn ask(&self, end: bool) -> Result<bool, Unsettled> {
        match self.flows.settle(SettleRequest { slot: self.slot, end: u32::from(end) }) {
            Ok(settled::YES) => Ok(true),
            Ok(settled::NOT_YET) => Ok(false),
            Ok(_) | Err(_) => Err(Unsettled),
        }
    }

    /// Whether the server reads and writes with blocking calls. One that has begun to read while its socket was armed may
    /// get `EAGAIN` from a signal, where it does not expect it (`tcp_bpf_recvmsg`); so its connection is not used again.
    pub fn server_blocks(&self) -> bool {
        self.entry().blocking.load(Relaxed) != 0
    }

    /// As [`Lane::settle`], without waiting: `false` while a verdict is being reached, or a redirected message is still on its
    /// way.
    ///
    /// # Errors
    /// [`Unsettled`]: C cannot be asked any more, or the sums differ.
    pub fn try_settle(&self) -> Result<bool, Unsettled> {
        if self.settled.load(Relaxed) {
            return Ok(true);
        }
        if self.entry().close(self.generation).is_err() {
            return Ok(false);
        }
        if !self.adds_up() {
            return Err(Unsettled);
        }
        let settled = self.ask(true)?;
        self.settled.store(settled, Relaxed);
        Ok(settled)
    }

    /// Whether what was taken is what the budget has lost.
    fn adds_up(&self) -> bool {
        let entry = self.entry();
        self.framing == Framing::Chunked
            || self.budget.checked_sub(entry.budget.load(Relaxed)) == Some(entry.taken.load(Relaxed))
    }

    /// Takes S out of its map at once, without waiting for what is on its way to C. It may be called while the daemon has the
    /// turn for another task.
    pub fn withdraw(&self) {
        self.flows.remove_server(self.slot);
    }

    fn entry(&self) -> &super::table::Entry {
        self.flows.table.entry(self.slot)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        let settled = self.settled.load(Relaxed);
        if self.armed.load(Relaxed) {
            if !settled {
                self.withdraw();
                // If a verdict has the turn, the entry remains open, and the table does not hand it out before that is over.
                let _ = self.entry().close(self.generation);
            }
            self.flows.totals.ended(self.entry());
        }
        if !settled {
            self.flows.remove_client(self.slot);
        }
        self.flows.table.put(self.slot);
    }
}

fn inet(address: &socket2::SockAddr) -> io::Result<SocketAddr> {
    address.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
}

/// A `struct bpf_sock_tuple` of what goes from one address to another, and how many of its bytes count.
fn tuple(from: SocketAddr, to: SocketAddr) -> (u32, [u8; TUPLE_V6 as usize]) {
    let mut bytes = [0; TUPLE_V6 as usize];
    let mut at = 0;
    let mut put = |part: &[u8]| {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    };
    for address in [from, to] {
        match address {
            SocketAddr::V4(address) => put(&address.ip().octets()),
            SocketAddr::V6(address) => put(&address.ip().octets()),
        }
    }
    for address in [from, to] {
        put(&address.port().to_be_bytes());
    }
    (if from.is_ipv4() { TUPLE_V4 } else { TUPLE_V6 }, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_are_as_the_kernel_wants_them() {
        let (bytes, tuple4) = tuple("127.0.0.1:258".parse().unwrap(), "10.0.0.9:80".parse().unwrap());
        assert_eq!((bytes, &tuple4[..12]), (TUPLE_V4, &[127, 0, 0, 1, 10, 0, 0, 9, 1, 2, 0, 80][..]));
        let (bytes, tuple6) = tuple("[::1]:258".parse().unwrap(), "[::2]:80".parse().unwrap());
        assert_eq!((bytes, tuple6[15], tuple6[31], &tuple6[32..]), (TUPLE_V6, 1, 2, &[1, 2, 0, 80][..]));
    }
}
