//! Finds what listens in the calling thread's network namespace: asks `sock_diag(7)`, and bounds what comes.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

use crate::sock_diag::{self, Dump, Listener};

/// Room for one datagram of a dump; the kernel fills at most 32 KiB (net/netlink/af_netlink.c, `netlink_dump`).
const DATAGRAM: usize = 32 * 1024;
/// Datagrams read for one port. With the port filtered by the kernel, more than one is already unusual.
const ROUNDS: usize = 16;
/// Listeners of one port worth knowing. `SO_REUSEPORT` servers have one per worker, all with the same address.
const LISTENERS: usize = 64;
/// Datagrams read for all ports, some 300 listeners each.
const ALL_ROUNDS: usize = 64;

/// What a dump of all ports brought.
#[derive(Debug, Default)]
pub struct Listening {
    /// The sockets.
    pub sockets: Vec<Listener>,
    /// The kernel told it in one piece. In several, a socket may have been passed over because another one closed in between.
    pub one_piece: bool,
    /// There were not more than are read.
    pub complete: bool,
}

/// All TCP sockets that listen.
///
/// Blocks for no longer than the kernel takes to walk its table of listeners: the netlink socket never waits.
///
/// # Errors
/// No netlink socket could be made, or the kernel refused the dump.
pub(super) fn listening() -> io::Result<Listening> {
    let mut sockets = Vec::new();
    let (rounds, over) = dump(0, ALL_ROUNDS, |listener| sockets.push(listener))?;
    Ok(Listening { sockets, one_piece: rounds <= 1, complete: over })
}

/// The addresses on which something listens on TCP `port`, without duplicates. A wildcard stands as 0.0.0.0 or `::`.
///
/// Blocks no longer than [`listening`].
///
/// # Errors
/// As for [`listening`].
pub(super) fn listening_on(port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    dump(port, ROUNDS, |listener| {
        if found.len() < LISTENERS && !found.contains(&listener.address) {
            found.push(listener.address);
        }
    })?;
    Ok(found)
}

/// Reads a dump; how many datagrams had sockets in them, and whether that was all.
fn dump(port: u16, rounds: usize, mut found: impl FnMut(Listener)) -> io::Result<(usize, bool)> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.set_non_blocking(true)?;
    let kernel = NetlinkAddr::new(0, 0);
    socket.send_to(&sock_diag::request(port), &kernel, 0)?;
    let mut datagram = vec![0u8; DATAGRAM];
    let mut pieces = 0;
    for _ in 0..rounds {
        // A dump is produced inside sendto(2) and recvfrom(2), so "nothing there" means it is over.
        let (length, from) = match socket.recv_from(&mut &mut datagram[..], 0) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok((pieces, true)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        if from.port_number() != 0 {
            continue; // not the kernel
        }
        let mut some = false;
        let read = sock_diag::read(&datagram[..length.min(DATAGRAM)], port, |listener| {
            some = true;
            found(listener);
        });
        pieces += usize::from(some);
        if read? == Dump::Over {
            return Ok((pieces, true));
        }
    }
    Ok((pieces, false))
}

/// Whether `address` is one that every connection to the loopback addresses would have found already.
pub(super) fn is_tried_by_loopback(address: &SocketAddr) -> bool {
    let ip = address.ip();
    ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn finds_a_listener_of_this_namespace() {
        let v4 = TcpListener::bind("127.0.0.53:0").unwrap();
        let address = v4.local_addr().unwrap();
        assert_eq!(listening_on(address.port()).unwrap(), [address]);
        drop(v4);
        assert_eq!(listening_on(address.port()).unwrap(), []);
    }

    #[test]
    fn finds_all_listeners_of_both_families() {
        let wanted = ["127.0.0.53:0", "0.0.0.0:0", "[::1]:0", "[::]:0"].map(|a| TcpListener::bind(a).unwrap());
        let all = listening().unwrap();
        assert!(all.complete);
        let find = |address: SocketAddr| all.sockets.iter().find(|socket| socket.address == address);
        for listener in &wanted {
            let address = listener.local_addr().unwrap();
            let found = find(address).unwrap_or_else(|| panic!("{address} is missing"));
            assert_eq!(found.dual_stack, address.ip() == Ipv6Addr::UNSPECIFIED, "{address}");
            let inode = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(listener)));
            assert_eq!(inode.unwrap().to_str().unwrap(), format!("socket:[{}]", found.inode));
        }
    }

    #[test]
    fn more_than_one_datagram_holds_is_read_too() {
        let listeners: Vec<_> = (0..400).map(|_| TcpListener::bind("127.0.0.54:0").unwrap()).collect();
        let all = listening().unwrap();
        assert!(all.complete && !all.one_piece);
        for listener in &listeners {
            let address = listener.local_addr().unwrap();
            assert_eq!(all.sockets.iter().filter(|socket| socket.address == address).count(), 1);
        }
    }
}
