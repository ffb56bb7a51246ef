//! A flow on the fast path, from arming to settling.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::time::Duration;

use proxy_common::{
    ARM_NONBLOCKING, ARM_QUIET, ArmRequest, Armed, Framing, SettleRequest, TUPLE_V4, TUPLE_V6, settled,
};
use socket2::Socket;
use tokio::time::{Instant, sleep};

use super::flows::Flows;
use crate::netns::Netns;

/// How long a message may be on its way between two sockets of one host. It takes microseconds, unless the server's
/// thread is stopped in the middle of its system call.
const SETTLE: Duration = Duration::from_secs(2);

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

/// A message that a verdict has redirected did not reach C's queue in time, or C is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsettled;

/// A flow that was armed: messages of S may go straight to C.
///
/// The daemon relays what passes to U, and tells it by [`Lane::relayed`]. When the response is over it calls
/// [`Lane::settle`]; only then may anything else be written to C, since a redirected message may still be on its way.
/// Dropped before, C must not be used any more.
#[derive(Debug)]
pub struct Lane {
    flows: Arc<Flows>,
    slot: u32,
    /// S has been put under the verdict.
    armed: AtomicBool,
    /// It is known that all redirected bytes have arrived; S and C are out of the maps.
    settled: AtomicBool,
}

impl Lane {
    pub(super) fn arm(flows: &Arc<Flows>, request: &Request<'_>) -> Result<Self, Refused> {
        let Some(slot) = flows.table.take() else {
            flows.totals.armed(Err(Refused::TableFull));
            return Err(Refused::TableFull);
        };
        let lane =
            Self { flows: Arc::clone(flows), slot, armed: AtomicBool::new(false), settled: AtomicBool::new(false) };
        let armed = lane.try_arm(request);
        flows.totals.armed(armed);
        armed.map(|()| lane)
    }

    fn try_arm(&self, request: &Request<'_>) -> Result<(), Refused> {
        let entry = self.flows.table.entry(self.slot);
        entry.reset_counts();
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
                super::buffers::prepare(request.client, request.upstream);
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
            generation: self.flows.next_generation(),
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

    /// What is to come, in the sense of [`Request::budget`]. While the daemon holds bytes that it read of U and has not
    /// accounted for, this number stands still.
    pub fn budget(&self) -> u64 {
        self.entry().budget.load(Acquire)
    }

    /// Notes that `n` bytes of a plain response that came through U are written to C.
    pub fn relayed(&self, n: u64) {
        self.wrote(n);
        self.caught_up(n, self.budget().wrapping_sub(n));
    }

    /// Notes that `n` bytes were written to C, whatever they stand for.
    pub fn wrote(&self, n: u64) {
        self.entry().slow_bytes.fetch_add(n as u32, Relaxed);
    }

    /// Notes that all of the next `n` bytes that came through U has been passed on to C, behind which `budget` is to come.
    pub fn caught_up(&self, n: u64, budget: u64) {
        let entry = self.entry();
        entry.budget.store(budget, Relaxed);
        // Last: the verdict goes by it, and owns the budget from here on.
        entry.relayed.fetch_add(n as u32, Release);
    }

    /// Bytes that have gone the fast way so far.
    pub fn fast_bytes(&self) -> u64 {
        self.entry().fast_bytes.load(Relaxed)
    }

    /// Messages that passed so far.
    pub fn passed_messages(&self) -> u64 {
        self.entry().passed.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// To be called with bytes at hand that have passed, before they are written: waits for such as were redirected before
    /// them, if one of those may still be on its way.
    ///
    /// # Errors
    /// [`Unsettled`], as for [`Lane::settle`].
    pub async fn in_order(&self) -> Result<(), Unsettled> {
        let crossed = &self.entry().crossed;
        if crossed.load(Acquire) == 0 {
            return Ok(());
        }
        self.wait(|| self.arrived()).await?;
        // While what passed is not accounted for, no verdict looks at this.
        crossed.store(0, Relaxed);
        Ok(())
    }

    /// Ends the flow: from here on every message passes, and all that was redirected is in C's queue.
    ///
    /// # Errors
    /// [`Unsettled`]: the connection must be cut, since nobody knows when the rest of it would turn up.
    pub async fn settle(&self) -> Result<(), Unsettled> {
        self.wait(|| self.try_settle()).await
    }

    async fn wait(&self, arrived: impl Fn() -> Result<bool, Unsettled>) -> Result<(), Unsettled> {
        let mut pause = Duration::from_micros(50);
        let deadline = Instant::now() + SETTLE;
        while !arrived()? {
            if Instant::now() >= deadline {
                return Err(Unsettled);
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether all that was redirected so far is in C's queue.
    pub(super) fn arrived(&self) -> Result<bool, Unsettled> {
        self.ask(false)
    }

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

    /// As [`Lane::settle`], without waiting: `false` while a redirected message is still on its way.
    ///
    /// # Errors
    /// [`Unsettled`]: C cannot be asked any more.
    pub fn try_settle(&self) -> Result<bool, Unsettled> {
        if self.settled.load(Relaxed) {
            return Ok(true);
        }
        // Sequentially consistent, against the barrier with which a verdict begins.
        self.entry().armed.store(0, SeqCst);
        let settled = self.ask(true)?;
        self.settled.store(settled, Relaxed);
        Ok(settled)
    }

    /// Takes S out of its map at once, without waiting for what is on its way to C.
    pub fn withdraw(&self) {
        // Whether all has arrived is asked again, when it matters.
        let _ = self.try_settle();
    }

    fn entry(&self) -> &super::table::Entry {
        self.flows.table.entry(self.slot)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if self.armed.load(Relaxed) {
            self.withdraw();
            self.flows.totals.ended(self.entry());
        }
        if !self.settled.load(Relaxed) {
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
