//! Listening sockets as sock_diag(7) tells of them: bytes of netlink in, sockets out.
//!
//! The answer comes from the kernel, yet it is read as if it did not: whatever cannot be understood is left out, and nothing
//! here reads further than it was given. The I/O around it is in `netns`.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NlasIterator, Parseable};
use netlink_packet_sock_diag::constants::{AF_INET6, INET_DIAG_SKV6ONLY, TCP_LISTEN};
use netlink_packet_sock_diag::inet::{InetResponseHeader, SocketId};

/// `NLMSG_ERROR` and `NLMSG_DONE` (linux/netlink.h).
pub(crate) const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `TCPDIAG_GETSOCK` (linux/inet_diag.h): TCP sockets of both families with one walk of the kernel's table of listeners, which
/// all namespaces share. `SOCK_DIAG_BY_FAMILY` would walk it once for each.
const GETSOCK: u16 = 18;

const HEADER: usize = 16;
/// The sizes of `struct inet_diag_req` and `struct inet_diag_msg` (linux/inet_diag.h).
const REQUEST: usize = 60;
const ANSWER: usize = 72;

/// A listening socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Where to connect: a mapped IPv4 address is IPv4, and a link-local one has its interface as scope.
    pub address: SocketAddr,
    /// Whether it is a socket of IPv6 that takes IPv4 too; `None` if that was not told.
    pub dual_stack: Option<bool>,
    /// The socket's cookie (`SO_COOKIE`), which no other socket ever gets; `None` if it was not told, which sock_diag always does.
    pub cookie: Option<u64>,
    /// Its inode, as `/proc/PID/fd` shows it in `socket:[…]`; 0 if it has none any more.
    pub inode: u32,
}

/// Whether a dump goes on behind a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    /// There may be more.
    Goes,
    /// That was all.
    Over,
}

/// The request for a dump of what listens, on one port or (0) on any.
pub fn request(port: u16) -> [u8; HEADER + REQUEST] {
    let mut bytes = [0; HEADER + REQUEST];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &((HEADER + REQUEST) as u32).to_ne_bytes());
    put(4, &GETSOCK.to_ne_bytes());
    put(6, &(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    // idiag_src_port, the first field of the socket's id behind four octets, and idiag_states behind that id.
    put(HEADER + 4, &port.to_be_bytes());
    put(HEADER + 52, &(1_u32 << TCP_LISTEN).to_ne_bytes());
    bytes
}

/// Reads the messages of one datagram, up to the first that is cut short; `port` as for [`request`].
///
/// # Errors
/// The kernel's refusal.
pub fn read(mut bytes: &[u8], port: u16, mut found: impl FnMut(Listener)) -> io::Result<Dump> {
    while let Ok(message) = NetlinkBuffer::new_checked(bytes) {
        match message.message_type() {
            // Both begin with the number of an error, negative, or 0 (netlink(7)).
            NLMSG_DONE => return error_in(message.payload()).map_or(Ok(Dump::Over), Err),
            NLMSG_ERROR => {
                return Err(error_in(message.payload()).unwrap_or_else(|| io::ErrorKind::InvalidData.into()));
            }
            GETSOCK => {
                if let Some(listener) = listener_in(message.payload())
                    && (port == 0 || listener.address.port() == port)
                {
                    found(listener);
                }
            }
            _ => {}
        }
        // Messages are padded to four bytes (NLMSG_ALIGN); `new_checked` made sure of 16 <= length <= bytes.len().
        let length = (message.length() as usize).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(Dump::Goes)
}

fn error_in(payload: &[u8]) -> Option<io::Error> {
    let number = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?);
    (number < 0).then(|| io::Error::from_raw_os_error(number.saturating_neg()))
}

fn listener_in(payload: &[u8]) -> Option<Listener> {
    let socket = InetResponseHeader::parse(payload).ok()?;
    if socket.state != TCP_LISTEN {
        return None;
    }
    // Of sockets of IPv6 the kernel always says which they are (`inet_diag_msg_attrs_fill` in net/ipv4/inet_diag.c).
    let v6only = || {
        let attributes = NlasIterator::new(payload.get(ANSWER..).unwrap_or_default());
        let mut flags = attributes.map_while(Result::ok).filter(|attribute| attribute.kind() == INET_DIAG_SKV6ONLY);
        flags.any(|flag| flag.value().first().is_some_and(|&value| value != 0))
    };
    let address = address_of(&socket.socket_id);
    // Two words of 32 bits, the lower one first (`sock_diag_save_cookie` in net/core/sock_diag.c).
    let [a, b, c, d, e, f, g, h] = socket.socket_id.cookie;
    let (lower, upper) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
    Some(Listener {
        dual_stack: Some(socket.family == AF_INET6 && is_wildcard(address.ip()) && !v6only()),
        address,
        cookie: Some(u64::from(upper) << 32 | u64::from(lower)),
        inode: socket.inode,
    })
}

fn address_of(id: &SocketId) -> SocketAddr {
    match canonical(id.source_address) {
        IpAddr::V6(v6) => {
            let scope = if v6.is_unicast_link_local() { id.interface_id } else { 0 };
            SocketAddrV6::new(v6, id.source_port, 0, scope).into()
        }
        v4 => SocketAddr::from((v4, id.source_port)),
    }
}

/// The address at which a socket is reached that is bound to `ip`: a mapped one means IPv4.
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// Whether a socket that is bound to `ip`, and is not told otherwise, takes connections of both families.
pub fn is_wildcard(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unspecified())
}

#[cfg(test)]
mod tests;
