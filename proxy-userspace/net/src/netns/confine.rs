//! Keeps a connection inside its network namespace: its packets go over the loopback interface there, or nowhere.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::{Domain, SockAddr, Socket, Type};

use super::dial::DialError;
use super::route;
use crate::sock::set_option;

/// The index of the loopback interface in every namespace (`LOOPBACK_IFINDEX` in include/net/flow.h), whatever its name.
const LOOPBACK: libc::c_int = 1;

/// Prepares `socket`, made in the calling thread's namespace, so that it connects to `address` only if that belongs to the
/// namespace.
///
/// A server may listen on an address that is not its own (`IP_FREEBIND`, `net.ipv4.ip_nonlocal_bind`), and without its
/// loopback interface a namespace has no route to 127.0.0.1 but the default one. A connection would leave the container
/// then, and be answered by whoever has the address, or by nobody.
///
/// - Loopback addresses: the socket is bound to the loopback interface, whatever routes the container has.
/// - Others: the socket is bound to the address itself. For IPv4 connect(2) refuses a source that is not local
///   (`ip_route_output_key_hash_rcu` in net/ipv4/route.c), even if bind(2) did not. For IPv6 it does not, so the route is asked
///   for. Whoever may change routes in the namespace at that very moment may send such packets without our help.
///
/// # Errors
/// [`DialError::LoopbackDown`] or [`DialError::Foreign`], or [`DialError::Io`].
pub(super) fn confine(socket: &Socket, address: SocketAddr) -> Result<(), DialError> {
    if address.ip().is_loopback() {
        return Ok(set_option(socket, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, LOOPBACK)?);
    }
    // What goes to any local address goes over this interface, and vanishes without a word while it is down.
    if !loopback_is_up(socket)? {
        return Err(DialError::LoopbackDown);
    }
    // The port is chosen by connect, when the whole 4-tuple is known (ip(7)); without it, many connections to one
    // address would run out of ports.
    set_option(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
    if let SocketAddr::V6(v6) = &address {
        match route::is_local(v6) {
            Ok(false) => return Err(DialError::Foreign(address.ip())),
            // By a route of the type `local` a whole network may be the container's, and of IPv6 bind(2) does not see that.
            Ok(true) => socket.set_freebind_v6(true)?,
            // Where rtnetlink is forbidden, bind(2) decides.
            Err(error) => {
                tracing::debug!(%error, "rtnetlink did not report whether an address is local in a container")
            }
        }
    }
    let mut own = address;
    own.set_port(0);
    match socket.bind(&SockAddr::from(own)) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Err(DialError::Foreign(address.ip())),
        bound => Ok(bound?),
    }
}

/// What it means that a [confined](confine) socket could not connect to `address` because of `error`, which was no refusal.
/// Like `confine`, it looks at the calling thread's namespace.
pub(super) fn explain(address: IpAddr, error: io::Error) -> DialError {
    if address.is_loopback() {
        let asked = Socket::new(Domain::UNIX, Type::DGRAM, None);
        if matches!(asked.and_then(|socket| loopback_is_up(&socket)), Ok(false)) {
            return DialError::LoopbackDown;
        }
    } else if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EINVAL)) {
        return DialError::Foreign(address);
    }
    error.into()
}

/// Whether the loopback interface of the socket's namespace is up (netdevice(7)).
fn loopback_is_up(socket: &Socket) -> io::Result<bool> {
    // SAFETY: zeroes are a value of this C structure, whose union has only numbers, octets and pointers.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    interface.ifr_ifru.ifru_ifindex = LOOPBACK;
    for request in [libc::SIOCGIFNAME, libc::SIOCGIFFLAGS] {
        // SAFETY: the kernel reads and writes one `ifreq`, which outlives the call: the name of the index first, which
        // the second request then reads.
        if unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut interface) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: the kernel has just written this member of the union.
    let flags = unsafe { interface.ifr_ifru.ifru_flags };
    Ok(libc::c_int::from(flags) & libc::IFF_UP != 0)
}
