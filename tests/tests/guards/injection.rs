//! A container that holds CAP_NET_RAW, as Docker gives it to all, puts bytes into the daemon's own socket which its server
//! never sent, while the server sends at full speed: what the daemon reads and what the server's socket says are two stories.
//!
//! Whatever its own client makes of the answer, nothing of it may be taken for the answer of another container, on the same
//! connection or next to it.

use std::io::{self, ErrorKind, Write as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{scope, sleep};
use std::time::Duration;

use portsplice_tests::client::{Conn, Proof};
use portsplice_tests::http::Framing;
use portsplice_tests::net::Netns;
use portsplice_tests::origin::{Origin, Peer};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::sign::Scheme;
use portsplice_tests::zoo::{Manner, Server};
use portsplice_tests::{pattern, privileged};
use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{access, by_path};

/// An answer as another container would give it, of 40 bytes; the attack consists of nothing else.
const FORGED: &[u8; 40] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
/// The same as a chunk that holds the end of a chunked body, with the forged answer behind it.
const FORGED_CHUNK: &[u8; 70] =
    b"40\r\nxxxxxx\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhixxxxxxxxxxx\r\n";
/// The answer's length, where it has one.
const LENGTH: usize = 1_000_000;
/// Bytes that are put into the daemon's socket, and bytes of the answer that are left then.
const INJECTED: usize = 60_000;

/// Flags of a segment with data, and of one that resets.
const ACK_PSH: u8 = 0x18;
const RST: u8 = 0x14;

/// What one scenario does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attack {
    framing: Framing,
    tunnel: bool,
    /// The address that the server listens on.
    address: &'static str,
    /// Afterwards the server catches up with what was put in, and forges a single answer some time later.
    later: bool,
    /// The daemon's socket is destroyed in the midst of it, as CAP_NET_ADMIN allows.
    kill: bool,
}

const PLAIN: Attack = Attack {
    framing: Framing::Length(LENGTH as u64),
    tunnel: false,
    address: "127.0.0.1:0",
    later: false,
    kill: false,
};

/// How often each is tried: `PORTSPLICE_ATTACKS`, 1,000 before a release.
fn tries() -> usize {
    std::env::var("PORTSPLICE_ATTACKS").map_or(8, |tries| tries.parse().expect("PORTSPLICE_ATTACKS is a number"))
}

/// What the raw socket has seen of one connection last.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    next: u32,
    acknowledged: u32,
    stamps: Option<[u8; 8]>,
    known: bool,
}

/// Sees and sends TCP segments as they are.
struct Raw {
    socket: Socket,
    address: IpAddr,
    netns: PathBuf,
}

impl Raw {
    fn new(netns: &Netns, address: IpAddr) -> Self {
        let domain = Domain::for_address((address, 0).into());
        let socket = netns.enter(|| Socket::new(domain, Type::RAW, Some(Protocol::TCP)).expect("a raw socket"));
        sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20).expect("SO_RCVBUFFORCE");
        socket.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
        Self { socket, address, netns: netns.path() }
    }

    /// Takes in what was sent from one port to the other, until nothing is left.
    fn watch(&self, ports: (u16, u16), seen: &mut Seen) {
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
    fn inject(&self, ports: (u16, u16), seen: &Seen, flags: u8, data: &[u8]) -> io::Result<()> {
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

/// Answers one request with an attack.
fn answer(peer: &mut Peer, raw: &Raw, attack: Attack) -> io::Result<()> {
    let stream = peer.stream().try_clone()?;
    let ports = (stream.local_addr()?.port(), stream.peer_addr()?.port());
    let mut seen = Seen::default();
    peer.must_request()?;
    let (unit, rest): (&[u8], usize) = match attack.framing {
        _ if attack.tunnel => {
            peer.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: attack\r\n\r\n")?;
            (FORGED, 600_000)
        }
        Framing::Chunked => {
            peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            (FORGED_CHUNK, 280_000)
        }
        Framing::UntilClose => {
            peer.write("HTTP/1.1 200 OK\r\n\r\n")?;
            (FORGED, 600_000)
        }
        _ => {
            peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n"))?;
            (FORGED, LENGTH - 4000 - INJECTED)
        }
    };
    let block = unit.repeat(INJECTED.div_ceil(unit.len()));
    // A tunnel goes fast only where the server never blocks.
    stream.set_nonblocking(true)?;
    // Enough messages for the daemon to arm the flow; then what goes fast.
    let first = 4000 / unit.len() * unit.len();
    for part in block[..first].chunks(unit.len() * 10) {
        put(&stream, part)?;
        sleep(Duration::from_millis(3));
    }
    sleep(Duration::from_millis(25));
    let mut left = rest / unit.len() * unit.len();
    while left > 0 {
        let part = left.min(unit.len() * 200);
        put(&stream, &block[..part])?;
        left -= part;
    }
    sleep(Duration::from_millis(40));
    raw.watch(ports, &mut seen);

    let base = seen;
    let stop = AtomicBool::new(false);
    scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                match (&stream).write(unit) {
                    Ok(n) if n == unit.len() => {}
                    // Half a unit would do, too, but the next one would not be read as meant.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                    Ok(_) | Err(_) => break,
                }
            }
        });
        sleep(Duration::from_millis(3));
        let injected = raw.inject(ports, &base, ACK_PSH, &block[..INJECTED]);
        sleep(Duration::from_millis(15));
        if attack.kill {
            let mut ss = Command::new("nsenter");
            ss.arg(format!("--net={}", raw.netns.display()));
            ss.args(["ss", "-K", "-tn", "sport", "=", &ports.1.to_string()]);
            let killed = ss.output().expect("ss runs");
            assert!(killed.status.success(), "ss -K: {}", String::from_utf8_lossy(&killed.stderr));
        }
        stop.store(true, Relaxed);
        injected
    })?;
    if attack.later {
        raw.watch(ports, &mut seen);
        // The daemon's socket has these already, and takes them for repeated.
        let moved = seen.next.wrapping_sub(base.next) as usize;
        put(&stream, &block[..INJECTED.saturating_sub(moved)])?;
        sleep(Duration::from_millis(20));
        put(&stream, FORGED)?;
        sleep(Duration::from_millis(100));
    }
    if !matches!(attack.framing, Framing::Length(_)) || attack.tunnel {
        // The daemon's socket takes the server's end for repeated, if more was put in than the server has sent, and an answer
        // that only its end would complete goes on for ever. So that ends, too, as if by the server.
        raw.watch(ports, &mut seen);
        seen.next = seen.next.max(base.next.wrapping_add(INJECTED as u32));
        raw.inject(ports, &seen, RST, &[])?;
    }
    Ok(())
}

/// Writes all of it, unless nobody takes it in.
fn put(mut stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let mut patience = 2000;
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::WouldBlock && patience > 0 => {
                patience -= 1;
                sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives whether the attacked answer came whole.
fn attacked(rig: &Rig, port: u16, honest: u16, attack: Attack) -> bool {
    let mut conn = rig.connect_to(port);
    let fields: &[&str] = if attack.tunnel { &["Connection: Upgrade", "Upgrade: attack"] } else { &[] };
    conn.send("GET", "/", fields, b"");
    let Ok((_, framing)) = conn.final_head_or_end(Proof::Owed) else { return false };
    if attack.tunnel {
        return io::copy(&mut conn, &mut io::sink()).is_ok();
    }
    let mut length = 0;
    if conn.body_into(framing, &mut |part| length += part.len()).is_err() {
        return false;
    }
    assert!(framing == Framing::Chunked || framing == Framing::UntilClose || length == LENGTH, "{length} bytes");
    // A forged answer must be there by now.
    sleep(Duration::from_millis(if attack.later { 250 } else { 30 }));
    next_answer_is_honest(rig, conn, honest);
    true
}

/// Asks another container over the same connection: it answers itself, or the connection has ended.
fn next_answer_is_honest(rig: &Rig, mut conn: Conn, honest: u16) {
    conn.caller = Some(rig.node().caller(Scheme::Bound, "honest", honest));
    let request = conn.head_for("GET", "/bytes/18", &[]);
    if conn.writer().write_all(&request).is_err() {
        return;
    }
    let Ok((head, framing)) = conn.final_head_or_end(Proof::Owed) else { return };
    let mut body = Vec::new();
    conn.body_into(framing, &mut |part| body.extend_from_slice(part)).expect("the honest container's answer");
    assert_eq!((head.status(), &body[..]), (200, &pattern::bytes(18)[..]), "forged");
}

fn scenario(attack: Attack) {
    if !privileged() {
        return;
    }
    let _memory = crate::without_crowd();
    let neighbour = Netns::new();
    let rig = Rig::with(Path::Fast, |config| {
        config.container("honest", &format!("netns = {:?}\n", neighbour.path()));
    });
    let server = Server::start(Manner::Edge, &neighbour);
    let honest = server.port;
    let address: SocketAddr = attack.address.parse().expect("an address");
    let raw = Arc::new(Mutex::new(Raw::new(&rig.netns, address.ip())));
    let origin = Origin::start(&rig.netns, attack.address, move |peer| {
        let raw = raw.lock().expect("one at a time");
        raw.watch((0, 0), &mut Seen::default());
        // Its own connection may well be cut.
        let _ = answer(peer, &raw, attack);
        Ok(())
    });
    let stop = AtomicBool::new(false);
    let dialer = rig.dialer_for("honest", honest);
    scope(|scope| {
        scope.spawn(|| {
            let expected = pattern::bytes(3_000_000);
            let mut conn = dialer.connect();
            while !stop.load(Relaxed) {
                assert!(conn.get("/bytes/3000000").body == expected, "wrong bytes at the neighbour");
                sleep(Duration::from_millis(50));
            }
        });
        let attacks = || (0..tries()).filter(|_| attacked(&rig, origin.port(), honest, attack)).count();
        let whole = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attacks));
        stop.store(true, Relaxed);
        let whole = whole.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let must = matches!(attack.framing, Framing::Length(_)) && !attack.kill && !attack.tunnel;
        assert!(whole > 0 || !must, "every answer was cut: the attack did not get far enough to prove anything");
    });
    let lines = access(&rig, tries());
    let lines: Vec<_> = lines.into_iter().filter(|line| line["container"] == *rig.name).collect();
    assert!(by_path(&lines, "fast") > 0, "nothing went the fast way");
}

#[test]
fn of_known_length() {
    scenario(PLAIN);
}

#[test]
fn of_known_length_later() {
    scenario(Attack { later: true, ..PLAIN });
}

#[test]
fn over_ipv6() {
    scenario(Attack { address: "[::1]:0", ..PLAIN });
}

#[test]
fn over_ipv6_later() {
    scenario(Attack { address: "[::1]:0", later: true, ..PLAIN });
}

#[test]
fn chunked() {
    scenario(Attack { framing: Framing::Chunked, ..PLAIN });
}

#[test]
fn chunked_over_ipv6() {
    scenario(Attack { framing: Framing::Chunked, address: "[::1]:0", ..PLAIN });
}

#[test]
fn until_the_end() {
    scenario(Attack { framing: Framing::UntilClose, ..PLAIN });
}

#[test]
fn tunnel() {
    scenario(Attack { tunnel: true, ..PLAIN });
}

#[test]
fn with_the_socket_destroyed() {
    scenario(Attack { kill: true, ..PLAIN });
}
