//! A container that holds CAP_NET_RAW, as Docker gives it to all, puts bytes into the daemon's own socket which its server
//! never sent, while the server sends at full speed: what the daemon reads and what the server's socket says are two stories.
//!
//! Whatever its own client makes of the answer, nothing of it may be taken for the answer of another container, on the same
//! connection or next to it.

use std::io::{self, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{scope, sleep};
use std::time::Duration;

use portsplice_tests::client::{Conn, Proof};
use portsplice_tests::http::Framing;
use portsplice_tests::net::Netns;
use portsplice_tests::origin::{Origin, Peer};
use portsplice_tests::process::run;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::sign::Scheme;
use portsplice_tests::zoo::{Server, ServerVariant};
use portsplice_tests::{pattern, privileged};

use crate::raw::{Raw, Seen};
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
    /// Rules of nftables that CAP_NET_ADMIN lets it have in its namespace; none if empty.
    rules: &'static str,
}

const PLAIN: Attack = Attack {
    framing: Framing::Length(LENGTH as u64),
    tunnel: false,
    address: "127.0.0.1:0",
    later: false,
    kill: false,
    rules: "",
};

/// Segments come twice, late, behind others, or not at all, in both directions.
const DISORDER: &str = r#"table netdev disorder { chain lo { type filter hook ingress device "lo" priority 0;
    meta l4proto tcp numgen random mod 10 == 0 dup to "lo"
    meta l4proto tcp numgen random mod 10 == 0 fwd to "lo"
    meta l4proto tcp numgen random mod 100 == 0 drop
}
}
"#;
/// Now and then the one who sends a segment is told that the other has reset the connection.
const RESETS: &str = r#"table inet resets { chain out { type filter hook output priority 0;
    meta l4proto tcp numgen random mod 100 == 0 reject with tcp reset
}
}
"#;

/// How often each is tried: `PORTSPLICE_ATTACKS`, 1,000 before a release.
fn tries() -> usize {
    std::env::var("PORTSPLICE_ATTACKS").map_or(8, |tries| tries.parse().expect("PORTSPLICE_ATTACKS is a number"))
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
    // Enough messages for the daemon to attach the flow; then what goes fast.
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
    if !attack.rules.is_empty() {
        // The server may be told of a reset, and nobody else: then nothing comes any more, here as without a gateway.
        conn.stream().set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    }
    let Ok((head, framing)) = conn.final_head_or_end(Proof::Owed) else { return false };
    // Reset before it answered, or before it accepted.
    if head.status() == 502 && !attack.rules.is_empty() {
        return false;
    }
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
    if !attack.rules.is_empty() {
        run(Command::new("nft").arg(attack.rules), Some(&rig.netns));
    }
    let server = Server::start(ServerVariant::Edge, &neighbour);
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
        let cut = attack.kill || attack.tunnel || !attack.rules.is_empty();
        let must = matches!(attack.framing, Framing::Length(_)) && !cut;
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

#[test]
fn with_segments_in_disorder() {
    scenario(Attack { rules: DISORDER, ..PLAIN });
}

#[test]
fn chunked_with_segments_in_disorder() {
    scenario(Attack { framing: Framing::Chunked, rules: DISORDER, ..PLAIN });
}

#[test]
fn over_ipv6_with_segments_in_disorder() {
    scenario(Attack { address: "[::1]:0", later: true, rules: DISORDER, ..PLAIN });
}

#[test]
fn with_resets() {
    scenario(Attack { rules: RESETS, ..PLAIN });
}
