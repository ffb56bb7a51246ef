//! Asks the kernel where a packet to an IPv6 address would go (rtnetlink(7)), in the calling thread's network namespace.
//!
//! Only of IPv6: there the kernel answers without its lock on all network configuration (`RTNL_FLAG_DOIT_UNLOCKED` in
//! net/ipv6/route.c), which anybody on the host may hold for long; and IPv4 does not need it.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkBuffer};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_ROUTE};

use super::own;
use crate::sock_diag::NLMSG_ERROR;

/// Message types: linux/netlink.h, linux/rtnetlink.h.
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
/// `struct nlmsghdr`, `struct rtmsg`, and a `struct rtattr` without its value.
const HEADER: usize = 16;
const ROUTE: usize = 12;
const ATTRIBUTE: usize = 4;
/// Attributes of a route (linux/rtnetlink.h): its destination and its interface.
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
/// The type of a route whose packets are delivered here (linux/rtnetlink.h).
const RTN_LOCAL: u8 = 2;

const REQUEST: usize = HEADER + ROUTE + (ATTRIBUTE + 16) + (ATTRIBUTE + 4);
/// Room for the answer, which is one message of a few attributes.
const ANSWER: usize = 4096;

/// Whether packets to `address` stay in the namespace, because it belongs to it (also by a route of the type `local`).
///
/// Where there is no netlink, or a filter of system calls denies it, the addresses of the interfaces alone count.
///
/// # Errors
/// The kernel's answer could not be understood, or neither netlink nor /proc could be asked.
pub(super) fn is_local(address: &SocketAddrV6) -> io::Result<bool> {
    match Socket::new(NETLINK_ROUTE) {
        Ok(socket) => ask(&socket, address),
        Err(error) => own::lines("if_inet6").ok_or(error).map(|mut lines| lines.any(|line| is_of(&line, address))),
    }
}

/// Whether a line of /proc/net/if_inet6 shows this address: its digits, then the interface's number
/// (`if6_seq_show` in net/ipv6/addrconf.c).
fn is_of(line: &str, address: &SocketAddrV6) -> bool {
    let mut fields = line.split_ascii_whitespace();
    let ip = fields.next().and_then(|digits| u128::from_str_radix(digits, 16).ok());
    let interface = fields.next().and_then(|digits| u32::from_str_radix(digits, 16).ok());
    ip == Some(address.ip().to_bits()) && (address.scope_id() == 0 || interface == Some(address.scope_id()))
}

fn ask(socket: &Socket, address: &SocketAddrV6) -> io::Result<bool> {
    socket.set_non_blocking(true)?;
    socket.send_to(&request(address.ip(), address.scope_id()), &NetlinkAddr::new(0, 0), 0)?;
    let mut answer = vec![0; ANSWER];
    // The answer is made inside sendto(2).
    let (length, from) = socket.recv_from(&mut &mut answer[..], 0)?;
    if from.port_number() != 0 {
        return Err(io::ErrorKind::InvalidData.into()); // not the kernel
    }
    read(&answer[..length.min(ANSWER)])
}

/// The request for the route to `address`, by the interface `scope` if that is not 0.
fn request(address: &Ipv6Addr, scope: u32) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    let mut at = 0;
    let mut put = |value: &[u8]| {
        bytes[at..at + value.len()].copy_from_slice(value);
        at += value.len();
    };
    put(&(REQUEST as u32).to_ne_bytes());
    put(&RTM_GETROUTE.to_ne_bytes());
    put(&NLM_F_REQUEST.to_ne_bytes());
    put(&[0; 8]); // sequence number and port: the kernel's answer is the only one
    put(&[libc::AF_INET6 as u8, 128, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // the whole address counts, all else is open
    put(&((ATTRIBUTE + 16) as u16).to_ne_bytes());
    put(&RTA_DST.to_ne_bytes());
    put(&address.octets());
    put(&((ATTRIBUTE + 4) as u16).to_ne_bytes());
    put(&RTA_OIF.to_ne_bytes());
    put(&scope.to_ne_bytes());
    bytes
}

/// Whether the answer is a route of the type `local`. An error says that there is no route.
fn read(answer: &[u8]) -> io::Result<bool> {
    let message = NetlinkBuffer::new_checked(answer).map_err(|_| io::ErrorKind::InvalidData)?;
    match (message.message_type(), message.payload().get(..ROUTE)) {
        (RTM_NEWROUTE, Some(route)) => Ok(route[7] == RTN_LOCAL),
        (NLMSG_ERROR, _) => Ok(false),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn loopback_is_local_and_documentation_is_not() {
        let is_local = |ip: &str| is_local(&SocketAddrV6::new(ip.parse().unwrap(), 0, 0, 0)).unwrap();
        assert!(is_local("::1"));
        assert!(!is_local("2001:db8::1"));
    }

    #[test]
    fn addresses_that_proc_shows() {
        let lines = [
            "00000000000000000000000000000001 01 80 10 80       lo",
            "fe80000000000000000000000000000a 0c 40 20 80     eth0",
        ];
        let shown = |ip: &str, scope| {
            let address = SocketAddrV6::new(ip.parse().unwrap(), 80, 0, scope);
            lines.iter().any(|line| is_of(line, &address))
        };
        assert!(shown("::1", 0) && shown("fe80::a", 12) && shown("fe80::a", 0));
        assert!(!shown("fe80::a", 1) && !shown("fe80::b", 12) && !shown("::", 0));
        assert!(!is_of("", &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0)));
        let loopback = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 1);
        assert!(own::lines("if_inet6").unwrap().any(|line| is_of(&line, &loopback)));
    }

    proptest! {
        #[test]
        fn nothing_that_comes_is_too_much(answer in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&answer);
        }
    }
}
