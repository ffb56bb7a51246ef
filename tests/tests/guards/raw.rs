//! A raw socket (raw(7)) in a container's namespace: sees its segments, and sends some in others' names.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use portsplice_tests::net::Netns;
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

/// What the raw socket has seen of one connection last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// The sequence number that comes next.
    pub(crate) next: u32,
    acknowledged: u32,
    stamps: Option<[u8; 8]>,
    known: bool,
}

/// Sees and sends TCP segments as they are.
pub(crate) struct Raw {
    socket: Socket,
    address: IpAddr,
    pub(crate) netns: PathBuf,
}

impl Raw {
    pub(crate) fn new(netns: &Netns, address: IpAddr) -> Self {
        let domain = Domain::for_address((address, 0).into());
        let socket = netns.enter(|| Socket::new(domain, Type::RAW, Some(Protocol::TCP)).expect("a raw socket"));
        sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20).expect("SO_RCVBUFFORCE");
        socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
        Self { socket, address, netns: netns.path() }
    }

    /// Takes in what was sent from one port to the other, until nothing is left.
    pub(crate) fn watch(&self, ports: (u16, u16), seen: &mut Seen) {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 70_000];
        while let Ok(n) = self.socket.recv(&mut buffer) {
            // SAFETY: the kernel has written the first `n` bytes.
            let packet = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), n) };
            // A raw socket of IPv6 gives no header.
            let header = if self.address.is_ipv4() { usize::from(packet[0] & 15) * 4 } else { 0 };
            seen.take(&packet[header..], ports);
        }
    }

    /// Sends a segment in the name of one port to the other.
    pub(crate) fn inject(&self, ports: (u16, u16), seen: &Seen, flags: u8, data: &[u8]) -> io::Result<()> {
        let mut segment = Vec::with_capacity(32 + data.len());
        segment.extend_from_slice(&ports.0.to_be_bytes());
        segment.extend_from_slice(&ports.1.to_be_bytes());
        segment.extend_from_slice(&seen.next.to_be_bytes());
        segment.extend_from_slice(&seen.acknowledged.to_be_bytes());
        let options = seen.stamps.map_or(0, |_| 12);
        // A window of 512, and room for the checksum.
        segment.extend_from_slice(&[(20 + options) << 2, flags, 2, 0, 0, 0, 0, 0]);
        if let Some(stamps) = seen.stamps {
            segment.extend_from_slice(&[1, 1, 8, 10]);
            segment.extend_from_slice(&stamps);
        }
        segment.extend_from_slice(data);
        let checksum = self.checksum(&segment);
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        self.socket.send_to(&segment, &SocketAddr::from((self.address, 0)).into()).map(drop)
    }

    /// RFC 9293, section 3.1, with both addresses the same.
    fn checksum(&self, segment: &[u8]) -> u16 {
        let address = match self.address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let words = |bytes: &[u8]| -> u64 {
            let pairs = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
            pairs.sum()
        };
        let mut sum = 2 * words(&address) + 6 + segment.len() as u64 + words(segment);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}

impl Seen {
    fn take(&mut self, segment: &[u8], ports: (u16, u16)) {
        let number = |at: usize| u32::from_be_bytes(segment[at..at + 4].try_into().expect("four"));
        if segment.len() < 20 || number(0) != u32::from(ports.0) << 16 | u32::from(ports.1) {
            return;
        }
        let data = usize::from(segment[12] >> 4) * 4;
        let flags = u32::from(segment[13] & 2 != 0);
        let end = number(4).wrapping_add((segment.len() - data) as u32).wrapping_add(flags);
        if !self.known || (end.wrapping_sub(self.next) as i32) > 0 {
            (self.next, self.known) = (end, true);
        }
        self.acknowledged = number(8);
        // Linux puts the timestamps first, behind two octets that fill up.
        if data >= 32 && segment[20..24] == [1, 1, 8, 10] {
            self.stamps = Some(segment[24..32].try_into().expect("eight"));
        }
    }
}
