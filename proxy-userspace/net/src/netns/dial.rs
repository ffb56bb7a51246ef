//! Connects to a port inside a network namespace, wherever in it the server listens.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use parking_lot::RwLock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::{Instant, timeout_at};

use super::confine::{confine, explain};
use super::{Netns, listeners, own};
use crate::deadline::deadline;
use crate::sock::{Sock, set_option};

/// Ports of one container whose address is remembered; beyond that they are looked for each time.
pub(super) const REMEMBERED_PORTS: usize = 1024;

/// The segment size that the server is told, in bytes.
///
/// Loopback's own is just below 64 KiB. A sender whose buffer has room for one such segment waits for its acknowledgement,
/// and the receiver, which acknowledges at once only what is more than one segment (`__tcp_ack_snd_check` in
/// net/ipv4/tcp_input.c), delays it by 40 ms. With smaller segments the kernel still moves as much at a time (GSO), and acknowledges
/// it at once.
const SEGMENT: u32 = 16 * 1024;

/// Where connections into a namespace come from, as its servers see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceAddress {
    /// From 127.0.0.1 or `::1`, wherever a server can be reached by that.
    #[default]
    Loopback,
    /// From an address of the namespace's own that is no loopback address, and never from loopback.
    Address,
}

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing listens on this port, at any address of the namespace.
    #[error("nothing listens on the port")]
    NotListening,
    /// Nothing answers at the loopback addresses, and what listens elsewhere could not be asked.
    #[error("cannot determine whether something listens on the port: {0}")]
    Unknown(io::Error),
    /// The deadline passed first: the server's backlog is full, or a packet filter in the container drops the connection.
    #[error("the port did not respond in time")]
    Timeout,
    /// Something listens, but the loopback interface is down in the namespace, and without it nothing is delivered inside.
    #[error("the loopback interface is down in the container's network namespace")]
    LoopbackDown,
    /// Something listens on this address, which is none of the namespace's: a connection to it would leave the container.
    #[error("the server listens on {0}, which is not one of the container's addresses")]
    Foreign(IpAddr),
    /// The server listens on loopback addresses only, and connections are not to come from there.
    #[error("the server listens on loopback only, and connections are to come from the container's own address")]
    LoopbackOnly,
    /// The namespace has no address but loopback ones, and connections are not to come from there.
    #[error("the container has no address of its own, and connections are not to come from loopback")]
    NoAddress,
    /// The namespace could not be entered, the socket not be made, or what listens cannot be reached from inside.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where the ports of one container were found the last time.
///
/// Holds an entry only for ports that answer somewhere else than at 127.0.0.1, so that for most containers looking into
/// it costs a read lock of an empty map. What was found with one source is no hint for another.
#[derive(Debug, Default)]
pub struct DialHints {
    found_at: RwLock<HashMap<(u16, SourceAddress), SocketAddr>>,
}

impl DialHints {
    pub(super) fn get(&self, port: u16, source: SourceAddress) -> Option<SocketAddr> {
        self.found_at.read().get(&(port, source)).copied()
    }

    pub(super) fn remember(&self, address: SocketAddr, source: SourceAddress) {
        let (mut found_at, key) = (self.found_at.write(), (address.port(), source));
        if found_at.len() < REMEMBERED_PORTS || found_at.contains_key(&key) {
            found_at.insert(key, address);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.found_at.read().len()
    }

    fn forget(&self, port: u16, source: SourceAddress) {
        self.found_at.write().remove(&(port, source));
    }
}

/// Connects to TCP `port` inside `netns` within `timeout`; zero is no limit.
///
/// Tried in this order: the address remembered in `hints`, 127.0.0.1, `::1`, then the addresses that sockets listening
/// on the port are bound to. With [`SourceAddress::Address`] addresses of the namespace's own take the place of the loopback
/// ones, and no loopback address is ever tried: a connection comes from the address that it goes to.
///
/// The socket is made inside the namespace and connects only to an address that is local there, so no packet leaves the
/// container. `TCP_NODELAY` and `SO_OOBINLINE` are on; keepalive is not: both ends are sockets of one kernel, and neither can
/// vanish without a word. Its port keeps no server from binding that port, and closing it leaves no TIME_WAIT.
///
/// # Errors
/// See [`DialError`].
pub async fn dial(
    netns: &Netns,
    port: u16,
    source: SourceAddress,
    hints: &DialHints,
    timeout: Duration,
) -> Result<Sock, DialError> {
    let mut dialer = Dialer { netns, deadline: deadline(timeout), unreachable: None };
    let remembered = hints.get(port, source);
    if let Some(address) = remembered {
        match dialer.attempt(address).await {
            Ok(Some(sock)) => return Ok(sock),
            // A timeout says nothing about the address: the server is the same and has no time.
            Ok(None) => hints.forget(port, source),
            Err(error) => return Err(error),
        }
        if matches!(dialer.unreachable, Some(DialError::Foreign(_))) {
            // The container had the address and has lost it; whether anything listens there still, is asked below.
            dialer.unreachable = None;
        }
    }
    let first = match source {
        SourceAddress::Loopback => vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        SourceAddress::Address => netns.run(own::addresses)?,
    };
    for address in first.iter().map(|&ip| SocketAddr::new(ip, port)) {
        if Some(address) != remembered
            && let Some(sock) = dialer.attempt(address).await?
        {
            if address.ip() != Ipv4Addr::LOCALHOST {
                hints.remember(address, source);
            }
            return Ok(sock);
        }
    }
    for address in dialer.listeners(port, source, &first)? {
        if let Some(sock) = dialer.attempt(address).await? {
            hints.remember(address, source);
            return Ok(sock);
        }
    }
    Err(dialer.unreachable.unwrap_or(DialError::NotListening))
}

struct Dialer<'a> {
    netns: &'a Netns,
    deadline: Instant,
    /// Why an address that something listens on could not be reached.
    unreachable: Option<DialError>,
}

impl Dialer<'_> {
    /// `Ok(None)` when the next address should be tried.
    async fn attempt(&mut self, address: SocketAddr) -> Result<Option<Sock>, DialError> {
        let socket = match self.netns.run(|| new_socket(address))? {
            Ok(socket) => socket,
            // IPv6 is not compiled in or switched off.
            Err(DialError::Io(e)) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => return Ok(None),
            Err(DialError::Io(e)) if !is_out_of_reach(&e) => return Err(e.into()),
            Err(error) => {
                self.unreachable = Some(error);
                return Ok(None);
            }
        };
        match timeout_at(self.deadline, Sock::connect(socket, address)).await {
            Err(_) => Err(DialError::Timeout),
            Ok(Ok(sock)) if is_connected_to_itself(&sock, address) => {
                sock.reset_on_close();
                Ok(None)
            }
            Ok(Ok(sock)) => Ok(Some(sock)),
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            Ok(Err(e)) if is_out_of_reach(&e) => {
                self.unreachable = Some(self.netns.run(|| explain(address.ip(), e))?);
                Ok(None)
            }
            Ok(Err(e)) if e.raw_os_error() == Some(libc::ETIMEDOUT) => Err(DialError::Timeout),
            Ok(Err(e)) => Err(e.into()),
        }
    }

    /// What else listens on the port than what was `tried`, and whether anything does: without a listener nothing was out of
    /// reach either.
    fn listeners(&mut self, port: u16, source: SourceAddress, tried: &[IpAddr]) -> Result<Vec<SocketAddr>, DialError> {
        let found = self.netns.run(|| listeners::listening_on(port))?.map_err(DialError::Unknown)?;
        if found.is_empty() {
            self.unreachable = None;
        } else if source == SourceAddress::Address && self.unreachable.is_none() {
            if found.iter().all(|address| address.ip().is_loopback()) {
                self.unreachable = Some(DialError::LoopbackOnly);
            } else if tried.is_empty() {
                self.unreachable = Some(DialError::NoAddress);
            }
        }
        let other = |address: &SocketAddr| {
            let ip = address.ip();
            let allowed = source == SourceAddress::Loopback || !ip.is_loopback();
            allowed && !ip.is_unspecified() && !tried.contains(&ip)
        };
        Ok(found.into_iter().filter(other).collect())
    }
}

/// A socket of the calling thread's namespace that connects to `address` inside it or not at all.
fn new_socket(address: SocketAddr) -> Result<Socket, DialError> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    // Otherwise an octet of urgent data would be taken out of the stream, and lost.
    socket.set_out_of_band_inline(true)?;
    leave_ports_free(&socket)?;
    // Nothing is lost or shared between two sockets of one namespace, so there is nothing for congestion control to find
    // out. BBR, where it is the default, would put a timer between the segments of an upload. Reno is always there, unless
    // an administrator has forbidden it, and then the default will do.
    let _ = socket.set_tcp_congestion(b"reno");
    let _ = socket.set_tcp_mss(SEGMENT);
    confine(&socket, address)?;
    Ok(socket)
}

/// Keeps the socket's own port out of the way of the container's programs.
///
/// The kernel chooses it where the container lets it (`net.ipv4.ip_local_port_range` and `ip_local_reserved_ports` of the
/// namespace), as for a client inside. Programs that set `SO_REUSEADDR`, as nearly all servers do, can bind it all the same if
/// this socket has set it too, before it gets its port (`inet_bind_conflict` in net/ipv4/inet_connection_sock.c).
///
/// And it is not kept in TIME_WAIT: when the server's kernel has acknowledged the end of the stream, and so all before it, the
/// closed socket resets the connection and is gone (`tcp_rcv_state_process` in net/ipv4/tcp_input.c). The server reads an
/// orderly end, since that came first; what it would still write, nobody could read. `SO_LINGER` would destroy what is on
/// its way, and look like a failure to the server.
fn leave_ports_free(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    set_option(socket, libc::IPPROTO_TCP, libc::TCP_LINGER2, -1)
}

/// Without a listener, a port in the range of ephemeral ports may be chosen as the socket's own. TCP then connects the
/// socket to itself (RFC 9293 3.5, simultaneous open), and everything sent would come back.
fn is_connected_to_itself(sock: &Sock, peer: SocketAddr) -> bool {
    // Compared by hand: the scope and flow of an IPv6 address need not be told back as they were given.
    let own = sock.socket().local_addr().ok().and_then(|own| own.as_socket());
    own.is_some_and(|own| own.port() == peer.port() && own.ip() == peer.ip())
}

/// The address exists no more, its interface is down, or it has no route: another one may still answer.
fn is_out_of_reach(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EADDRNOTAVAIL
                | libc::ENETDOWN
                | libc::ENODEV
                | libc::EACCES
                | libc::EPERM
                | libc::EINVAL
        )
    )
}
