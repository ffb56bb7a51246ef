//! A flow on the fast path, from attaching to draining.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::atomic::{AtomicBool, AtomicU64};

use proxy_common::{
    ATTACH_NONBLOCKING, ATTACH_QUIET, AttachRequest, AttachStatus, DrainRequest, Framing, TUPLE_V4, TUPLE_V6, drained,
};
use socket2::Socket;

use super::flows::Flows;
use super::turn::TurnError;
use portsplice_net::netns::Netns;
use portsplice_relay::bypass::{AttachError, FastFlow, ServerUse, Unaccounted};

/// What is to be attached.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The network namespace of U and S.
    pub netns: &'a Netns,
    /// C, the client's connection.
    pub client: &'a Socket,
    /// U, the daemon's connection to the container.
    pub upstream: &'a Socket,
    /// How the response is framed.
    pub framing: Framing,
    /// For a plain one, bytes that are still to come, [`proxy_common::Flow::UNTIL_END`] if nobody knows. For a chunked
    /// one, bytes before the next chunk line.
    pub budget: u64,
    /// What S will be used for while the flow is attached.
    pub server: ServerUse,
}

/// Why a flow is not attached. The response then takes the ordinary way, and nothing else happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachFailure {
    /// The programs found something against it.
    Program(AttachStatus),
    /// The flow table is full.
    TableFull,
    /// The kernel did not take C into its map: it is in somebody else's, or has been shut down.
    Client,
    /// A system call failed.
    System,
}

impl AttachFailure {
    /// The value of a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Program(AttachStatus::Attached) => "none",
            Self::Program(AttachStatus::Argument) => "argument",
            Self::Program(AttachStatus::NoServer) => "no-server",
            Self::Program(AttachStatus::NoUpstream) => "no-upstream",
            Self::Program(AttachStatus::NoClient) | Self::Client => "client",
            Self::Program(AttachStatus::State) => "state",
            Self::Program(AttachStatus::Protocol) => "protocol",
            Self::Program(AttachStatus::ZeroCopy) => "zero-copy",
            Self::Program(AttachStatus::Multipath) => "multipath",
            Self::Program(AttachStatus::Unread) => "unread",
            Self::Program(AttachStatus::Blocking) => "blocking",
            Self::Program(AttachStatus::Refused) => "refused",
            Self::Program(AttachStatus::Foreign) => "foreign",
            Self::TableFull => "table-full",
            Self::System => "system",
        }
    }

    /// Whether the same flow may be attached a little later.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::TableFull | Self::Program(AttachStatus::Unread | AttachStatus::Refused))
    }
}

impl From<AttachFailure> for AttachError {
    fn from(reason: AttachFailure) -> Self {
        Self { reason: reason.label(), permanent: !reason.is_transient() }
    }
}

impl fmt::Display for AttachFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A flow that is attached: messages of S may go straight to C.
///
/// How the daemon relays what passes to U is told at [`FastFlow`].
#[derive(Debug)]
pub struct KernelFlow {
    flows: Arc<Flows>,
    slot: u32,
    generation: u32,
    /// The budget at first.
    budget: u64,
    framing: Framing,
    /// S has been put under the verdict.
    attached: AtomicBool,
    /// Bytes that were redirected when it was last known that all had arrived.
    arrived: AtomicU64,
    /// It is known that just what was allowed has arrived; S and C are out of the maps.
    drained: AtomicBool,
}

impl KernelFlow {
    pub(super) fn attach(flows: &Arc<Flows>, request: &Request<'_>) -> Result<Self, AttachFailure> {
        let Some(slot) = flows.table.take() else {
            flows.totals.attached(Err(AttachFailure::TableFull));
            return Err(AttachFailure::TableFull);
        };
        let flow = Self {
            flows: Arc::clone(flows),
            slot,
            generation: flows.next_generation(),
            budget: request.budget,
            framing: request.framing,
            attached: AtomicBool::new(false),
            arrived: AtomicU64::new(0),
            drained: AtomicBool::new(false),
        };
        let attached = flow.try_attach(request);
        flows.totals.attached(attached);
        attached.map(|()| flow)
    }

    fn try_attach(&self, request: &Request<'_>) -> Result<(), AttachFailure> {
        self.entry().reset_counts();
        let argument = self.argument(request).map_err(|error| {
            tracing::debug!(%error, "cannot query a flow's sockets");
            AttachFailure::System
        })?;
        self.flows.insert_client(self.slot, request.client).map_err(|error| {
            tracing::debug!(%error, "the client's connection cannot take part in the fast path");
            AttachFailure::Client
        })?;
        match self.flows.attach(request.netns, &argument) {
            Ok(AttachStatus::Attached) => {
                self.attached.store(true, Relaxed);
                super::buffers::prepare(request.client);
                Ok(())
            }
            Ok(refused) => Err(AttachFailure::Program(refused)),
            Err(error) => {
                tracing::debug!(%error, "cannot attach a flow");
                Err(AttachFailure::System)
            }
        }
    }

    fn argument(&self, request: &Request<'_>) -> io::Result<AttachRequest> {
        let upstream = inet(&request.upstream.local_addr()?)?;
        let server = inet(&request.upstream.peer_addr()?)?;
        let (tuple_bytes, server_tuple) = tuple(upstream, server);
        let (_, upstream_tuple) = tuple(server, upstream);
        let flags = match request.server {
            ServerUse::Responds => ATTACH_QUIET,
            ServerUse::Duplex if self.flows.quirks().fionread => ATTACH_QUIET | ATTACH_NONBLOCKING,
            ServerUse::Duplex => ATTACH_NONBLOCKING,
        };
        Ok(AttachRequest {
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

    /// Messages that passed so far.
    pub(super) fn fallback_messages(&self) -> u64 {
        self.entry().fallbacks.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Whether C's sequence number is where all that was taken brings it.
    fn ask(&self, end: bool) -> Result<bool, Unaccounted> {
        match self.flows.drain(DrainRequest { slot: self.slot, end: u32::from(end) }) {
            Ok(drained::YES) => Ok(true),
            Ok(drained::NOT_YET) => Ok(false),
            Ok(_) | Err(_) => Err(Unaccounted),
        }
    }

    /// Whether what was taken is what the budget has lost.
    fn adds_up(&self) -> bool {
        let entry = self.entry();
        self.framing == Framing::Chunked
            || self.budget.checked_sub(entry.budget.load(Relaxed)) == Some(entry.taken.load(Relaxed))
    }

    fn entry(&self) -> &super::table::Entry {
        self.flows.table.entry(self.slot)
    }
}

impl FastFlow for KernelFlow {
    /// It stands still only while the daemon has the turn.
    fn budget(&self) -> u64 {
        self.entry().budget.load(Acquire)
    }

    /// `false` while a verdict is being reached, or a redirected message is still on its way.
    fn try_claim(&self) -> Result<bool, Unaccounted> {
        match self.entry().claim(self.generation) {
            Ok(()) => {}
            Err(TurnError::Busy) => return Ok(false),
            Err(TurnError::Closed) => return Err(Unaccounted),
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

    fn is_claimed(&self) -> bool {
        self.entry().is_claimed(self.generation)
    }

    fn take(&self, n: u64) -> u64 {
        self.entry().take(n)
    }

    fn writes(&self, n: u64) {
        self.entry().count(n);
    }

    fn release(&self, read: u64) {
        self.entry().release(self.generation, read);
    }

    fn release_at(&self, read: u64, place: u64) {
        self.entry().budget.store(place, Relaxed);
        self.release(read);
    }

    /// `false` while a verdict is being reached, or a redirected message is still on its way.
    fn try_drain(&self) -> Result<bool, Unaccounted> {
        if self.drained.load(Relaxed) {
            return Ok(true);
        }
        if self.entry().close(self.generation).is_err() {
            return Ok(false);
        }
        if !self.adds_up() {
            return Err(Unaccounted);
        }
        let drained = self.ask(true)?;
        self.drained.store(drained, Relaxed);
        Ok(drained)
    }

    fn detach(&self) {
        self.flows.remove_server(self.slot);
    }

    fn fast_bytes(&self) -> u64 {
        self.entry().fast_bytes.load(Relaxed)
    }

    /// Whether the server reads and writes with blocking calls. One that has begun to read while its socket was
    /// attached may get `EAGAIN` from a signal, where it does not expect it (`tcp_bpf_recvmsg`); so its connection is
    /// not used again.
    fn exhausts_server(&self) -> bool {
        self.entry().blocking.load(Relaxed) != 0
    }
}

impl Drop for KernelFlow {
    fn drop(&mut self) {
        let drained = self.drained.load(Relaxed);
        if self.attached.load(Relaxed) {
            if !drained {
                self.detach();
                // If a verdict has the turn, the entry remains open, and the table does not hand it out before that is over.
                let _ = self.entry().close(self.generation);
            }
            self.flows.totals.ended(self.entry());
        }
        if !drained {
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
