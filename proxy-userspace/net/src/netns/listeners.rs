//! Finds what listens in the calling thread's network namespace: asks `sock_diag(7)`, or reads `/proc` where there is none, and
//! bounds what comes.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};
use parking_lot::Mutex;

use crate::proc_net::{self, Line};
use crate::sock_diag::{self, Dump, Listener};

/// Room for one datagram of a dump; the kernel fills at most 32 KiB (net/netlink/af_netlink.c, `netlink_dump`).
const DATAGRAM: usize = 32 * 1024;
/// Datagrams read for one port. With the port filtered by the kernel, more than one is already unusual.
const ROUNDS: usize = 16;
/// Listeners of one port worth knowing. `SO_REUSEPORT` servers have one per worker, all with the same address.
const LISTENERS: usize = 64;
/// Datagrams read for all ports, some 300 listeners each.
const ALL_ROUNDS: usize = 64;

/// Octets read of one file of /proc, some 7,000 sockets.
const FILE: usize = 1024 * 1024;
/// Octets read of sockets that do not listen, behind those that do.
const REST: usize = 64 * 1024;
/// How long after sock_diag was found missing it is asked again: its module may have been loaded.
const ASK_AGAIN: Duration = Duration::from_secs(60);

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

/// Why sock_diag was of no use the last time, and when that was. One for all threads: it is a matter of the kernel, or of a filter
/// of the whole process.
static MISSING: Mutex<Option<(String, Instant)>> = Mutex::new(None);

/// Why sock_diag is not used, if it is not: as far as is known.
pub fn sock_diag_missing() -> Option<String> {
    MISSING.lock().as_ref().map(|(reason, _)| reason.clone())
}

/// Asks sock_diag for something, so that [`sock_diag_missing`] knows.
pub fn try_sock_diag() {
    let _ = ask(1, ROUNDS);
}

/// All TCP sockets that listen.
///
/// Blocks for no longer than the kernel takes to walk its table of listeners: the netlink socket never waits.
///
/// # Errors
/// Neither sock_diag nor /proc worked; the error of /proc.
pub(super) fn listening() -> io::Result<Listening> {
    ask(0, ALL_ROUNDS)
}

/// The addresses on which something listens on TCP `port`, without duplicates. A wildcard stands as 0.0.0.0 or `::`.
///
/// Blocks no longer than [`listening`].
///
/// # Errors
/// As for [`listening`], also if not all was told, and nothing of this port.
pub(super) fn listening_on(port: u16) -> io::Result<Vec<SocketAddr>> {
    let listening = ask(port, ROUNDS)?;
    let mut found = Vec::new();
    for Listener { address, .. } in listening.sockets {
        if found.len() < LISTENERS && !found.contains(&address) {
            found.push(address);
        }
    }
    if found.is_empty() && !listening.complete {
        return Err(io::Error::other("there are too many sockets to examine"));
    }
    Ok(found)
}

fn ask(port: u16, rounds: usize) -> io::Result<Listening> {
    let known = MISSING.lock().as_ref().is_some_and(|(_, when)| when.elapsed() < ASK_AGAIN);
    if known {
        return read_proc(port);
    }
    match dump(port, rounds) {
        Ok(listening) => {
            if MISSING.lock().take().is_some() {
                tracing::info!("sock_diag(7) works again; no longer reading /proc for listening ports");
            }
            Ok(listening)
        }
        Err(error) => {
            if !is_passing(&error) {
                let again = MISSING.lock().replace((error.to_string(), Instant::now())).is_some();
                if !again {
                    tracing::warn!(
                        %error,
                        "sock_diag(7) is not available: reading /proc/PID/net/tcp for listening ports instead, which is slower and less precise; load the kernel modules inet_diag and tcp_diag, or allow AF_NETLINK in the system call filter"
                    );
                }
            }
            read_proc(port)
        }
    }
}

/// Whether the next question may be answered: resources were short.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EAGAIN | libc::EINTR)
    )
}

/// Takes a dump of sock_diag.
fn dump(port: u16, rounds: usize) -> io::Result<Listening> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.set_non_blocking(true)?;
    let kernel = NetlinkAddr::new(0, 0);
    socket.send_to(&sock_diag::request(port), &kernel, 0)?;
    let mut datagram = vec![0u8; DATAGRAM];
    let mut listening = Listening { one_piece: true, ..Listening::default() };
    for _ in 0..rounds {
        // A dump is produced inside sendto(2) and recvfrom(2), so it cannot be late.
        let (length, from) = match socket.recv_from(&mut &mut datagram[..], 0) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            received => received?,
        };
        if from.port_number() != 0 {
            continue; // not the kernel
        }
        let before = listening.sockets.len();
        let read =
            sock_diag::read(&datagram[..length.min(DATAGRAM)], port, |listener| listening.sockets.push(listener));
        listening.one_piece &= before == 0 || listening.sockets.len() == before;
        if read? == Dump::Over {
            listening.complete = true;
            break;
        }
    }
    Ok(listening)
}

/// Reads what the thread's own files in /proc show: those of `/proc/self` are of the main thread's namespace.
fn read_proc(port: u16) -> io::Result<Listening> {
    let mut listening = Listening { one_piece: true, complete: true, ..Listening::default() };
    read_file(File::open("/proc/thread-self/net/tcp")?, port, &mut listening)?;
    match File::open("/proc/thread-self/net/tcp6") {
        Ok(file) => read_file(file, port, &mut listening)?,
        // IPv6 is not compiled in or switched off.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(listening)
}

/// Reads one of the files up to the last socket that listens. Linux shows those first (`tcp_seek_last_pos` in
/// net/ipv4/tcp_ipv4.c), and a container can have any number of others; a kernel that mixes them is read for as long as it
/// goes on showing some.
fn read_file(mut file: File, port: u16, listening: &mut Listening) -> io::Result<()> {
    let (mut text, mut begun, mut pieces) = (vec![0; DATAGRAM], 0, 0);
    let (mut total, mut rest, mut others, mut in_order) = (0, 0, false, true);
    loop {
        let length = match file.read(&mut text[begun..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            length => length?,
        };
        total += length;
        rest += length;
        let mut some = false;
        let whole = text[..begun + length].iter().rposition(|&octet| octet == b'\n').map_or(0, |at| at + 1);
        for line in text[..whole].split(|&octet| octet == b'\n') {
            match proc_net::read_line(line) {
                Some(Line::Listens(listener)) => {
                    (some, rest, in_order) = (true, 0, in_order && !others);
                    if port == 0 || listener.address.port() == port {
                        listening.sockets.push(listener);
                    }
                }
                Some(Line::Other) => others = true,
                None => {}
            }
        }
        pieces += usize::from(some);
        listening.one_piece &= pieces <= 1;
        if length == 0 {
            return Ok(());
        }
        if total > FILE || rest > REST {
            listening.complete &= in_order && total <= FILE;
            return Ok(());
        }
        text.copy_within(whole..begun + length, 0);
        begun = (begun + length - whole) % text.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv6Addr, TcpListener};

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
            assert_eq!(found.dual_stack, Some(address.ip() == Ipv6Addr::UNSPECIFIED), "{address}");
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

    /// Both tell of the same sockets, as far as each tells.
    #[test]
    fn proc_shows_the_same() {
        let mut listeners: Vec<_> =
            ["127.0.0.53:0", "0.0.0.0:0", "[::1]:0", "[::]:0"].map(|a| TcpListener::bind(a).unwrap()).into();
        listeners.extend((0..400).map(|_| TcpListener::bind("127.0.0.56:0").unwrap()));
        let connections: Vec<_> = (0..600)
            .map(|at| {
                let listener = &listeners[4 + at % 400];
                (std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener.accept().unwrap())
            })
            .collect();
        assert!(!connections.is_empty());
        // While others come and go on this host, a look in several pieces may pass a socket over, or show it twice.
        let differences = || {
            let (shown, dumped) = (read_proc(0).unwrap(), dump(0, ALL_ROUNDS).unwrap());
            assert!(shown.complete && !shown.one_piece);
            let differs = |listener: &&TcpListener| {
                let address = listener.local_addr().unwrap();
                let all = |listening: &Listening| -> Vec<Listener> {
                    listening.sockets.iter().filter(|socket| socket.address == address).cloned().collect()
                };
                let (shown, dumped) = (all(&shown), all(&dumped));
                let ([shown], [dumped]) = (&shown[..], &dumped[..]) else { return true };
                shown.inode != dumped.inode || shown.dual_stack.is_some_and(|known| Some(known) != dumped.dual_stack)
            };
            listeners.iter().filter(differs).count()
        };
        assert!((0..100).any(|_| differences() == 0), "{} differ", differences());
        // Other addresses may have a listener on the same port, here or in another test.
        let address = listeners[0].local_addr().unwrap();
        let opened = read_proc(address.port()).unwrap().sockets;
        assert!(opened.iter().all(|socket| socket.address.port() == address.port()));
        assert_eq!(opened.iter().filter(|socket| socket.address == address).count(), 1);
    }
}
