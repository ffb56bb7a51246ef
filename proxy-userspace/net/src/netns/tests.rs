//! Against real namespaces, so they need root. They make unnamed ones, which vanish with their last descriptor.

#![allow(clippy::print_stdout, clippy::print_stderr)] // figures and skips are for whoever runs the tests

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;

/// Whether a privileged test may be skipped: only when the environment says that skipping is meant.
fn skipping() -> bool {
    let skip = std::env::var_os("PORTSPLICE_SKIP_PRIVILEGED").is_some_and(|v| v == "1");
    if skip {
        eprintln!("skipped: PORTSPLICE_SKIP_PRIVILEGED=1");
    }
    skip
}

/// A new namespace with nothing but a `lo` that is down.
fn bare() -> Netns {
    std::thread::spawn(|| {
        // SAFETY: changes only this thread's namespace, and the thread ends here.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0, "{} (root?)", io::Error::last_os_error());
        Netns::current().unwrap()
    })
    .join()
    .expect("privileged tests need root; PORTSPLICE_SKIP_PRIVILEGED=1 skips them")
}

fn ip(netns: &Netns, arguments: &str) {
    let status = netns.run(|| Command::new("ip").args(arguments.split(' ')).status().unwrap()).unwrap();
    assert!(status.success(), "ip {arguments}");
    let words: Vec<&str> = arguments.split(' ').collect();
    if let ["addr", "add", address, "dev", device, ..] = words[..]
        && address.contains(':')
    {
        // It has no local route before its link has a carrier, which comes a moment after the link is set up.
        let (address, _) = address.split_once('/').unwrap();
        let get = ["-6", "route", "get", address, "oif", device];
        let route = || netns.run(|| Command::new("ip").args(get).output().unwrap().stdout).unwrap();
        let start = Instant::now();
        while !route().starts_with(b"local ") {
            assert!(start.elapsed() < 10 * SECOND, "{address} does not become local");
            std::thread::sleep(SECOND / 100);
        }
    }
}

fn with_loopback() -> Netns {
    let netns = bare();
    ip(&netns, "link set lo up");
    netns
}

/// An interface `eth9` that is up and has a carrier: its other end is in the same namespace.
fn wire(netns: &Netns) {
    ip(netns, "link add eth9 type veth peer name eth8");
    ip(netns, "link set eth8 up");
    ip(netns, "link set eth9 up");
}

fn listen(netns: &Netns, address: &str) -> TcpListener {
    netns.run(|| TcpListener::bind(address).unwrap_or_else(|e| panic!("{address}: {e}"))).unwrap()
}

const SECOND: Duration = Duration::from_secs(1);

async fn dial_to(netns: &Netns, port: u16, hints: &DialHints) -> Result<SocketAddr, DialError> {
    dial(netns, port, SourceAddress::Loopback, hints, 5 * SECOND)
        .await
        .map(|sock| sock.socket().peer_addr().unwrap().as_socket().unwrap())
}

#[test]
fn a_closure_runs_inside_and_the_thread_comes_back() {
    if skipping() {
        return;
    }
    let (home, netns) = (Netns::current().unwrap(), bare());
    assert_ne!(home.id(), netns.id());
    assert_ne!(home.cookie(), netns.cookie());
    assert!(netns.cookie().is_some(), "Linux 5.14 and later have cookies");
    let inside = netns.run(|| Netns::current().unwrap()).unwrap();
    assert_eq!((inside.id(), inside.cookie()), (netns.id(), netns.cookie()));
    assert_eq!(Netns::current().unwrap().id(), home.id());
}

#[test]
fn calls_nest_and_a_panic_comes_back() {
    if skipping() {
        return;
    }
    let (home, a, b) = (Netns::current().unwrap(), bare(), bare());
    let here = || Netns::current().unwrap().id();
    let seen = a.run(|| [here(), b.run(here).unwrap(), here(), a.run(here).unwrap(), home.run(here).unwrap(), here()]);
    assert_eq!(seen.unwrap(), [a.id(), b.id(), a.id(), a.id(), home.id(), a.id()]);
    assert_eq!(here(), home.id());

    assert!(catch_unwind(AssertUnwindSafe(|| a.run(|| panic!("inside")))).is_err());
    assert_eq!(here(), home.id());
    assert_eq!(b.run(here).unwrap(), b.id());
    assert_eq!(here(), home.id());
}

#[test]
fn each_thread_comes_back_to_its_own_namespace() {
    if skipping() {
        return;
    }
    let (a, b) = (bare(), bare());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            move_into_link_name_space(a.fd.load_full().unwrap().as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            b.run(|| ()).unwrap();
            assert_eq!(Netns::current().unwrap().id(), a.id());
        });
    });
}

#[test]
fn only_a_network_namespace_is_taken() {
    for path in ["/proc/self/ns/uts", "/dev/null", "/proc/self/stat"] {
        let error = Netns::open(Path::new(path)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{path}");
    }
    assert_eq!(Netns::open(Path::new("/nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn entering_costs_microseconds() {
    if skipping() {
        return;
    }
    let netns = bare();
    let once = || netns.run(|| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()).unwrap();
    drop(once());
    let rounds = 2000;
    let start = Instant::now();
    for _ in 0..rounds {
        drop(once());
    }
    let each = start.elapsed() / rounds;
    println!("enter, make a socket, come back, close it: {each:?}");
    assert!(each < Duration::from_micros(500), "{each:?}");
}

#[tokio::test]
async fn a_server_is_found_wherever_it_listens() {
    if skipping() {
        return;
    }
    let netns = with_loopback();
    wire(&netns);
    ip(&netns, "addr add 10.77.0.2/24 dev eth9");
    ip(&netns, "addr add 10.77.0.3/24 dev eth9");
    ip(&netns, "addr add fd77::2/64 dev eth9 nodad");
    ip(&netns, "addr add fe80::77/64 dev eth9 nodad");
    let index = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap()).unwrap();
    let index = index.lines().find(|l| l.ends_with("eth9")).and_then(|l| l.split_whitespace().nth(1)).unwrap();
    let link_local = format!("[fe80::77%{}]:7010", u32::from_str_radix(index, 16).unwrap());
    let cases = [
        ("127.0.0.1:7001", "127.0.0.1:7001"),
        ("0.0.0.0:7002", "127.0.0.1:7002"),
        ("[::1]:7003", "[::1]:7003"),
        ("[::]:7004", "127.0.0.1:7004"),
        ("10.77.0.2:7005", "10.77.0.2:7005"),
        ("10.77.0.3:7006", "10.77.0.3:7006"), // a secondary address, whose local route prefers the primary as source
        ("127.0.0.53:7007", "127.0.0.53:7007"),
        ("[fd77::2]:7008", "[fd77::2]:7008"),
        ("[::ffff:10.77.0.2]:7009", "10.77.0.2:7009"),
        (&link_local, &link_local),
    ];
    for (bound, reached) in cases {
        let server = listen(&netns, bound);
        let port = server.local_addr().unwrap().port();
        let hints = DialHints::default();
        for _ in 0..2 {
            assert_eq!(dial_to(&netns, port, &hints).await.unwrap(), reached.parse().unwrap(), "{bound}");
        }
        let default = reached.starts_with("127.0.0.1:");
        assert_eq!(hints.get(port, SourceAddress::Loopback).is_none(), default, "{bound}");
        drop(server);
        assert!(matches!(dial_to(&netns, port, &hints).await, Err(DialError::NotListening)), "{bound}");
        assert_eq!(hints.get(port, SourceAddress::Loopback), None, "{bound}: a refused address is forgotten");
    }
}

#[tokio::test]
async fn connections_come_from_the_own_address_where_that_is_asked_for() {
    if skipping() {
        return;
    }
    let netns = with_loopback();
    let hints = DialHints::default();
    let at_own = async |port| {
        let sock = dial(&netns, port, SourceAddress::Address, &hints, SECOND).await?;
        let ends = [sock.socket().local_addr().unwrap(), sock.socket().peer_addr().unwrap()];
        let [local, peer] = ends.map(|end| end.as_socket().unwrap());
        assert_eq!(local.ip(), peer.ip());
        Ok::<_, DialError>(local.ip())
    };
    let _any = listen(&netns, "[::]:7500");
    assert!(matches!(at_own(7500).await, Err(DialError::NoAddress)));
    assert!(matches!(at_own(7501).await, Err(DialError::NotListening)));
    wire(&netns);
    ip(&netns, "addr add fe80::77/64 dev eth9 nodad");
    ip(&netns, "addr add fd77::2/64 dev eth9 nodad");
    for _ in 0..2 {
        assert_eq!(at_own(7500).await.unwrap(), "fd77::2".parse::<IpAddr>().unwrap());
    }
    ip(&netns, "addr add 10.77.0.2/24 dev eth9");
    ip(&netns, "addr add 10.77.0.3/24 dev eth9");
    ip(&netns, "addr add fd77::3/64 dev eth9 nodad");
    for (port, bound, expected) in [
        (7502, "0.0.0.0", Some("10.77.0.2")),
        (7503, "10.77.0.3", Some("10.77.0.3")),
        (7504, "[fd77::3]", Some("fd77::3")),
        (7505, "127.0.0.1", None),
        (7506, "127.0.0.53", None),
        (7507, "[::1]", None),
    ] {
        let _server = listen(&netns, &format!("{bound}:{port}"));
        // What was found the other way is no hint for this one.
        assert!(dial_to(&netns, port, &hints).await.is_ok(), "{bound}");
        for _ in 0..2 {
            match (at_own(port).await, expected) {
                (Ok(ip), Some(expected)) => assert_eq!(ip, expected.parse::<IpAddr>().unwrap(), "{bound}"),
                (Err(DialError::LoopbackOnly), None) => {}
                (result, _) => panic!("{bound}: {result:?}"),
            }
        }
    }
    // A remembered address that the container has no longer is no reason for anything.
    let moving = listen(&netns, "10.77.0.3:7508");
    assert_eq!(at_own(7508).await.unwrap(), "10.77.0.3".parse::<IpAddr>().unwrap());
    drop(moving);
    ip(&netns, "addr del 10.77.0.3/24 dev eth9");
    let _moved = listen(&netns, "127.0.0.1:7508");
    assert!(matches!(at_own(7508).await, Err(DialError::LoopbackOnly)));
    ip(&netns, "link set lo down");
    assert!(matches!(at_own(7500).await, Err(DialError::LoopbackDown)));
}

#[tokio::test]
async fn a_server_that_moves_is_found_again() {
    if skipping() {
        return;
    }
    let netns = with_loopback();
    let hints = DialHints::default();
    for address in ["127.0.0.9:7100", "[::1]:7100", "127.0.0.1:7100", "127.0.0.8:7100"] {
        let _server = listen(&netns, address);
        assert_eq!(dial_to(&netns, 7100, &hints).await.unwrap(), address.parse().unwrap());
    }
}

#[tokio::test]
async fn the_connection_is_made_in_the_namespace_and_nowhere_else() {
    if skipping() {
        return;
    }
    let netns = with_loopback();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let hints = DialHints::default();
    assert!(matches!(dial_to(&netns, port, &hints).await, Err(DialError::NotListening)));
    let inside = listen(&netns, &format!("127.0.0.1:{port}"));
    let sock = dial(&netns, port, SourceAddress::Loopback, &hints, SECOND).await.unwrap();
    assert!(sock.socket().tcp_nodelay().unwrap());
    let (accepted, peer) = inside.accept().unwrap();
    assert_eq!(sock.socket().local_addr().unwrap().as_socket(), Some(peer));
    drop(accepted);
    // And the other way round: nothing of it is seen outside.
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

/// A listener on an address that the namespace need not have (`IP_FREEBIND`, ip(7)).
fn freely_bound(netns: &Netns, address: SocketAddr) -> Socket {
    let listening = netns.run(|| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        let freebind = if address.is_ipv4() { Socket::set_freebind_v4 } else { Socket::set_freebind_v6 };
        freebind(&socket, true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(8).unwrap();
        socket
    });
    listening.unwrap()
}

#[tokio::test]
async fn a_listener_on_a_foreign_address_is_not_followed_outside() {
    if skipping() {
        return;
    }
    let netns = with_loopback();
    wire(&netns);
    ip(&netns, "addr add 10.77.0.2/24 dev eth9");
    ip(&netns, "addr add fd77::2/64 dev eth9 nodad");
    ip(&netns, "route add default via 10.77.0.1");
    ip(&netns, "-6 route add default via fd77::1");
    for nonlocal in ["0", "1"] {
        netns
            .run(|| {
                for family in ["ipv4", "ipv6"] {
                    std::fs::write(format!("/proc/sys/net/{family}/ip_nonlocal_bind"), nonlocal).unwrap();
                }
            })
            .unwrap();
        for foreign in ["192.0.2.1:7200", "[2001:db8::1]:7200"] {
            let foreign: SocketAddr = foreign.parse().unwrap();
            let _server = freely_bound(&netns, foreign);
            let result = dial_to(&netns, 7200, &DialHints::default()).await;
            assert!(
                matches!(&result, Err(DialError::Foreign(ip)) if *ip == foreign.ip()),
                "{nonlocal} {foreign}: {result:?}"
            );
        }
        // What the container has made its own by a route is no foreign address.
        ip(&netns, "route replace local 192.0.2.0/24 dev lo");
        ip(&netns, "-6 route replace local 2001:db8::/64 dev lo");
        for local in ["192.0.2.1:7201", "[2001:db8::1]:7201", "10.77.0.2:7202", "[fd77::2]:7202"] {
            let local: SocketAddr = local.parse().unwrap();
            let _server = freely_bound(&netns, local);
            assert_eq!(dial_to(&netns, local.port(), &DialHints::default()).await.unwrap(), local);
        }
        ip(&netns, "route delete local 192.0.2.0/24 dev lo");
        ip(&netns, "-6 route delete local 2001:db8::/64 dev lo");
    }
}

#[tokio::test]
async fn without_its_loopback_interface_nothing_leaves_a_namespace() {
    if skipping() {
        return;
    }
    let netns = bare();
    wire(&netns);
    ip(&netns, "addr add 10.77.0.2/24 dev eth9");
    ip(&netns, "addr add fd77::2/64 dev eth9 nodad");
    ip(&netns, "route add default via 10.77.0.1");
    ip(&netns, "-6 route add default via fd77::1");
    for (port, listening) in (7210..).zip(["0.0.0.0", "[::]", "10.77.0.2", "[fd77::2]"]) {
        let server = listen(&netns, &format!("{listening}:{port}"));
        let hints = DialHints::default();
        let result = dial_to(&netns, port, &hints).await;
        assert!(matches!(result, Err(DialError::LoopbackDown)), "{listening}: {result:?}");
        ip(&netns, "link set lo up");
        dial_to(&netns, port, &hints).await.unwrap();
        ip(&netns, "link set lo down");
        let result = dial_to(&netns, port, &hints).await;
        assert!(matches!(result, Err(DialError::LoopbackDown)), "{listening}, remembered: {result:?}");
        drop(server);
        let result = dial_to(&netns, port, &hints).await;
        assert!(matches!(result, Err(DialError::NotListening)), "{listening}: {result:?}");
    }
}

#[tokio::test]
async fn without_loopback_or_ipv6_the_answer_comes_at_once() {
    if skipping() {
        return;
    }
    let start = Instant::now();
    let netns = bare();
    let hints = DialHints::default();
    assert!(matches!(dial_to(&netns, 80, &hints).await, Err(DialError::NotListening)));
    let _server = listen(&netns, "0.0.0.0:80");
    assert!(matches!(dial_to(&netns, 80, &hints).await, Err(DialError::LoopbackDown)));

    let netns = with_loopback();
    netns.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap()).unwrap();
    assert!(matches!(dial_to(&netns, 80, &hints).await, Err(DialError::NotListening)));
    let _server = listen(&netns, "127.0.0.5:80");
    assert_eq!(dial_to(&netns, 80, &hints).await.unwrap(), "127.0.0.5:80".parse().unwrap());
    assert!(start.elapsed() < 2 * SECOND);
}

#[tokio::test]
async fn a_port_that_nobody_listens_on_is_not_connected_to_itself() {
    if skipping() {
        return;
    }
    let netns = with_loopback();
    netns.run(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40000").unwrap()).unwrap();
    let hints = DialHints::default();
    for _ in 0..3 {
        let result = dial_to(&netns, 40000, &hints).await;
        assert!(matches!(result, Err(DialError::NotListening)), "{result:?}");
    }
    // And nothing is left behind that would keep a server from taking the port.
    netns
        .run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&"127.0.0.1:40000".parse::<SocketAddr>().unwrap().into()).unwrap();
        })
        .unwrap();
}

/// Binds and listens as a server would; the error is the kernel's.
fn serve(netns: &Netns, address: SocketAddr, reuse: bool) -> io::Result<Socket> {
    let bound = netns.run(|| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(reuse)?;
        socket.bind(&address.into())?;
        socket.listen(8)?;
        Ok(socket)
    });
    bound.unwrap()
}

fn port_range(netns: &Netns, range: &str, reserved: &str) {
    let set = |name, value| std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).unwrap();
    netns
        .run(|| {
            set("ip_local_port_range", range);
            set("ip_local_reserved_ports", reserved);
        })
        .unwrap();
}

#[tokio::test]
async fn the_own_port_keeps_no_server_from_it_and_is_free_after_the_end() {
    if skipping() {
        return;
    }
    for listening in ["127.0.0.1:7400", "[::1]:7400", "10.77.0.2:7400", "[fd77::2]:7400"] {
        let netns = with_loopback();
        wire(&netns);
        ip(&netns, "addr add 10.77.0.2/24 dev eth9");
        ip(&netns, "addr add fd77::2/64 dev eth9 nodad");
        port_range(&netns, "40000 40009", "40000-40007,40009");
        let server = listen(&netns, listening);
        for unread in [&b""[..], b"not read"] {
            let sock = dial(&netns, 7400, SourceAddress::Loopback, &DialHints::default(), SECOND).await.unwrap();
            let own = sock.socket().local_addr().unwrap().as_socket().unwrap();
            assert_eq!(own.port(), 40008, "{listening}: of the range, and not reserved");
            let any =
                SocketAddr::new(if own.is_ipv6() { "::".parse().unwrap() } else { "0.0.0.0".parse().unwrap() }, 40008);
            for address in [any, own] {
                drop(serve(&netns, address, true).unwrap_or_else(|e| panic!("{address} while it is open: {e}")));
            }
            let (mut accepted, _) = server.accept().unwrap();
            std::io::Write::write_all(&mut &*sock.socket(), unread).unwrap();
            drop(sock);
            let start = Instant::now();
            while let Err(error) = serve(&netns, any, false) {
                assert!(start.elapsed() < 5 * SECOND, "{listening}: after the end: {error}");
                tokio::time::sleep(SECOND / 100).await;
            }
            let mut read = Vec::new();
            std::io::Read::read_to_end(&mut accepted, &mut read).expect("an orderly end, and no reset");
            assert_eq!(read, unread, "{listening}");
        }
    }
}

#[tokio::test]
async fn a_full_backlog_is_a_timeout() {
    if skipping() {
        return;
    }
    let netns = with_loopback();
    let hints = DialHints::default();
    let server = netns
        .run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&"127.0.0.1:7300".parse::<SocketAddr>().unwrap().into()).unwrap();
            socket.listen(1).unwrap();
            socket
        })
        .unwrap();
    let mut held = Vec::new();
    let start = Instant::now();
    let outcome = loop {
        match dial(&netns, 7300, SourceAddress::Loopback, &hints, SECOND / 4).await {
            Ok(sock) => held.push(sock),
            Err(error) => break error,
        }
        assert!(held.len() < 10);
    };
    assert!(matches!(outcome, DialError::Timeout), "{outcome:?}");
    assert!(start.elapsed() < 2 * SECOND);
    drop(server);
}

#[tokio::test]
async fn hints_are_bounded() {
    let hints = DialHints::default();
    for port in 1..=2000 {
        hints.remember(SocketAddr::from(([10, 0, 0, 1], port)), SourceAddress::Loopback);
    }
    assert_eq!(hints.len(), dial::REMEMBERED_PORTS);
}
