//! Finds what listens on a port of the calling thread's network namespace: `sock_diag(7)`.
//!
//! The dump is asked for with the port as filter, for IPv4 and IPv6, and only sockets in LISTEN (net/ipv4/inet_diag.c,
//! `inet_diag_dump_icsk`). The answer comes from the kernel, yet it is read as if it did not: bounded in size and rounds,
//! and whatever cannot be understood is left out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, Parseable,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};

/// Room for one datagram of a dump; the kernel fills at most 32 KiB (net/netlink/af_netlink.c, `netlink_dump`).
const DATAGRAM: usize = 32 * 1024;
/// Datagrams read for one family. With the port filtered by the kernel, more than one is already unusual.
const ROUNDS: usize = 16;
/// Listeners of one port worth knowing. `SO_REUSEPORT` servers have one per worker, all with the same address.
const LISTENERS: usize = 64;

/// `NLMSG_ERROR` and `NLMSG_DONE` (linux/netlink.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// `SOCK_DIAG_BY_FAMILY` (linux/sock_diag.h).
const SOCK_DIAG_BY_FAMILY: u16 = 20;

/// The addresses on which something listens on TCP `port`, without duplicates. A wildcard stands as 0.0.0.0 or `::`.
///
/// Blocks for no longer than the kernel takes to walk its table of listeners: the netlink socket never waits.
///
/// # Errors
/// No netlink socket could be made, or the kernel refused both dumps.
pub(super) fn listening_on(port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    let ipv4 = dump(AF_INET, port, &mut found);
    let ipv6 = dump(AF_INET6, port, &mut found);
    match (ipv4, ipv6) {
        (Err(error), Err(_)) => Err(error),
        _ => Ok(found),
    }
}

fn dump(family: u8, port: u16, found: &mut Vec<SocketAddr>) -> io::Result<()> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.set_non_blocking(true)?;
    let kernel = NetlinkAddr::new(0, 0);
    socket.send_to(&request(family, port), &kernel, 0)?;
    let mut datagram = vec![0u8; DATAGRAM];
    for _ in 0..ROUNDS {
        // A dump is produced inside sendto(2) and recvfrom(2), so "nothing there" means it is over.
        let (length, from) = match socket.recv_from(&mut &mut datagram[..], 0) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        if from.port_number() != 0 {
            continue; // not the kernel
        }
        if read_datagram(&datagram[..length.min(DATAGRAM)], port, found)? == Dump::Over {
            break;
        }
    }
    Ok(())
}

fn request(family: u8, port: u16) -> Vec<u8> {
    let mut socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    socket_id.source_port = port;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(
        header,
        SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::LISTEN,
            socket_id,
        })
        .into(),
    );
    message.finalize();
    let mut bytes = vec![0; message.header.length as usize];
    message.serialize(&mut bytes);
    bytes
}

#[derive(Debug, PartialEq, Eq)]
enum Dump {
    Goes,
    Over,
}

/// Reads the messages of one datagram, up to the first that is cut short.
fn read_datagram(mut bytes: &[u8], port: u16, found: &mut Vec<SocketAddr>) -> io::Result<Dump> {
    while let Ok(message) = NetlinkBuffer::new_checked(bytes) {
        match message.message_type() {
            NLMSG_DONE => return Ok(Dump::Over),
            NLMSG_ERROR => return Err(refusal_of(bytes)),
            // Only the fixed part: the attributes that follow it differ from kernel to kernel and are not needed.
            SOCK_DIAG_BY_FAMILY => {
                if let Ok(socket) = InetResponseHeader::parse(message.payload())
                    && socket.state == TCP_LISTEN
                    && socket.socket_id.source_port == port
                {
                    let address = address_of(&socket.socket_id);
                    if found.len() < LISTENERS && !found.contains(&address) {
                        found.push(address);
                    }
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

fn refusal_of(bytes: &[u8]) -> io::Error {
    match NetlinkMessage::<SockDiagMessage>::deserialize(bytes) {
        Ok(NetlinkMessage { payload: NetlinkPayload::Error(error), .. }) => error.to_io(),
        _ => io::Error::from(io::ErrorKind::InvalidData),
    }
}

/// Where to connect for a listener: a mapped IPv4 address is IPv4, and a link-local one needs its interface.
fn address_of(id: &SocketId) -> SocketAddr {
    match id.source_address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, id.source_port)),
            None => {
                let scope = if v6.is_unicast_link_local() { id.interface_id } else { 0 };
                SocketAddrV6::new(v6, id.source_port, 0, scope).into()
            }
        },
        v4 => SocketAddr::from((v4, id.source_port)),
    }
}

/// Whether `address` is one that every connection to the loopback addresses would have found already.
pub(super) fn is_tried_by_loopback(address: &SocketAddr) -> bool {
    let ip = address.ip();
    ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || ip == Ipv6Addr::LOCALHOST
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::TcpListener;

    fn answer(family: u8, state: u8, port: u16, address: &[u8], interface: u32) -> Vec<u8> {
        let mut m = vec![0u8; 16 + 72];
        m[0..4].copy_from_slice(&88u32.to_ne_bytes());
        m[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        m[16] = family;
        m[17] = state;
        m[20..22].copy_from_slice(&port.to_be_bytes());
        m[24..24 + address.len()].copy_from_slice(address);
        m[56..60].copy_from_slice(&interface.to_ne_bytes());
        m
    }

    #[test]
    fn finds_a_listener_of_this_namespace() {
        let v4 = TcpListener::bind("127.0.0.53:0").unwrap();
        let address = v4.local_addr().unwrap();
        assert_eq!(listening_on(address.port()).unwrap(), [address]);
        drop(v4);
        assert_eq!(listening_on(address.port()).unwrap(), []);
    }

    #[test]
    fn reads_addresses_of_both_families() {
        let mut bytes = answer(AF_INET, TCP_LISTEN, 80, &[172, 17, 0, 2], 0);
        let mut link_local = [0u8; 16];
        link_local[..2].copy_from_slice(&[0xfe, 0x80]);
        link_local[15] = 1;
        bytes.extend(answer(AF_INET6, TCP_LISTEN, 80, &link_local, 7));
        let mapped = Ipv4Addr::new(10, 0, 0, 9).to_ipv6_mapped().octets();
        bytes.extend(answer(AF_INET6, TCP_LISTEN, 80, &mapped, 3));
        bytes.extend(answer(AF_INET6, TCP_LISTEN, 80, &[0; 16], 0));
        bytes.extend(answer(AF_INET, 1, 80, &[9, 9, 9, 9], 0)); // established
        bytes.extend(answer(AF_INET, TCP_LISTEN, 81, &[9, 9, 9, 9], 0)); // another port
        let mut found = Vec::new();
        assert_eq!(read_datagram(&bytes, 80, &mut found).unwrap(), Dump::Goes);
        let expected: Vec<SocketAddr> =
            ["172.17.0.2:80", "[fe80::1%7]:80", "10.0.0.9:80", "[::]:80"].map(|a| a.parse().unwrap()).into();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_end_and_a_refusal_are_seen() {
        let mut done = vec![0u8; 20];
        done[0..4].copy_from_slice(&20u32.to_ne_bytes());
        done[4..6].copy_from_slice(&NLMSG_DONE.to_ne_bytes());
        assert_eq!(read_datagram(&done, 80, &mut Vec::new()).unwrap(), Dump::Over);

        let mut refused = vec![0u8; 36];
        refused[0..4].copy_from_slice(&36u32.to_ne_bytes());
        refused[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        refused[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        let error = read_datagram(&refused, 80, &mut Vec::new()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn a_repeated_listener_counts_once_and_their_number_is_bounded() {
        let mut bytes = Vec::new();
        for i in 0..200u8 {
            bytes.extend(answer(AF_INET, TCP_LISTEN, 80, &[10, 0, 0, i], 0));
            bytes.extend(answer(AF_INET, TCP_LISTEN, 80, &[10, 0, 0, i], 0));
        }
        let mut found = Vec::new();
        read_datagram(&bytes, 80, &mut found).unwrap();
        assert_eq!(found.len(), LISTENERS);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read_datagram(&bytes, 80, &mut Vec::new());
        }

        #[test]
        fn a_cut_answer_is_survived(cut in 0usize..176) {
            let mut bytes = answer(AF_INET, TCP_LISTEN, 80, &[10, 0, 0, 1], 0);
            bytes.extend(answer(AF_INET, TCP_LISTEN, 80, &[10, 0, 0, 2], 0));
            let mut found = Vec::new();
            read_datagram(&bytes[..cut], 80, &mut found).unwrap();
            prop_assert_eq!(found.len(), cut / 88);
        }
    }
}
