//! A server is found at whatever address it listens on inside its container, and nowhere else.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::Command;

use portsplice_tests::net::Netns;
use portsplice_tests::node::NodeConfig;
use portsplice_tests::origin::{Origin, Peer};
use portsplice_tests::process::try_run;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::{over_gateway, privileged, wait};

/// A server that answers with its own address as the connection has it.
fn address(peer: &mut Peer) -> std::io::Result<()> {
    while peer.request()?.is_some() {
        let local = peer.stream().local_addr()?;
        peer.respond("200 OK", local.ip().to_string())?;
    }
    Ok(())
}

/// Every address that a server can be bound to.
#[test]
fn wherever_the_server_is_bound() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    rig.netns.add_address("10.201.7.3/32");
    rig.netns.add_address("fd00:201:7::3/128");
    for (bound, expected) in [
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("0.0.0.0", "127.0.0.1"),
        ("[::]", "127.0.0.1"),
        ("127.0.0.53", "127.0.0.53"),
        ("10.201.7.3", "10.201.7.3"),
        ("[fd00:201:7::3]", "fd00:201:7::3"),
    ] {
        let origin = Origin::start(&rig.netns, &format!("{bound}:0"), address);
        rig.use_port(origin.port());
        let mut conn = rig.connect();
        for _ in 0..3 {
            let answered = conn.get("/").text().replace("::ffff:", "");
            assert_eq!(answered, expected, "bound to {bound}");
        }
        // A new connection, for which the address may be remembered.
        assert_eq!(rig.connect().get("/").text().replace("::ffff:", ""), expected, "bound to {bound}");
    }
}

/// A server that listens on IPv6 only, with IPV6_V6ONLY.
#[test]
fn ipv6_only() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let listener = rig.netns.enter(|| {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).expect("a socket");
        socket.set_only_v6(true).expect("IPV6_V6ONLY");
        let any: std::net::SocketAddr = "[::]:0".parse().expect("an address");
        socket.bind(&any.into()).expect("bound");
        socket.listen(16).expect("listening");
        TcpListener::from(socket)
    });
    let origin = Origin::on(listener, address);
    rig.use_port(origin.port());
    assert_eq!(rig.connect().get("/").text(), "::1");
}

/// A server that moves to another address between two requests is found again.
#[test]
fn a_server_that_moves() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    rig.netns.add_address("10.201.7.4/32");
    let port = rig.netns.free_port();
    rig.use_port(port);
    let mut conn = rig.connect();
    for bound in ["127.0.0.1", "10.201.7.4", "[::1]", "127.0.0.9", "127.0.0.1"] {
        let origin = Origin::start(&rig.netns, &format!("{bound}:{port}"), address);
        let answered = wait::until("the moved server answers", || {
            let response = conn.get("/");
            (response.status() == 200).then(|| response.text())
        });
        assert_eq!(answered, bound.trim_matches(['[', ']']));
        drop(origin);
    }
}

/// What listens on the same port on the host, or in another container, is never reached.
#[test]
fn never_outside_the_container() {
    if !privileged() {
        return;
    }
    let other = Netns::new();
    let rig = Rig::with(Path::Splice, |config: &mut NodeConfig| {
        config.container("other", &format!("netns = {:?}\n", other.path()));
    });
    let on_host = Origin::on(TcpListener::bind("127.0.0.1:0").expect("a port"), address);
    let port = on_host.port();
    let v6 = TcpListener::bind(format!("[::1]:{port}"));
    let elsewhere = Origin::start(&other, &format!("127.0.0.1:{port}"), address);
    rig.use_port(port);
    let mut conn = rig.connect();
    conn.send("GET", "/", &[], b"");
    assert_eq!(conn.response().status(), 502);
    conn.caller.as_mut().expect("signed").uuid = "other".to_owned();
    assert_eq!(conn.get("/").text(), "127.0.0.1");
    assert_eq!((on_host.accepted(), elsewhere.accepted()), (0, 1));
    drop(v6);
}

/// An address that another namespace has, reachable by a veth pair, is not where a container's own port is looked for.
#[test]
fn never_across_a_veth() {
    if !privileged() {
        return;
    }
    let neighbour = Netns::new();
    let rig = Rig::new(Path::Splice);
    rig.netns.veth("10.201.8.1/24", &neighbour, "10.201.8.2/24");
    let origin = Origin::start(&neighbour, "10.201.8.2:0", address);
    assert!(rig.netns.connect(([10, 201, 8, 2], origin.port()).into()).is_ok(), "the neighbour can be reached");
    rig.use_port(origin.port());
    let mut conn = rig.connect();
    conn.send("GET", "/", &[], b"");
    assert_eq!(conn.response().status(), 502);
    // The container's own end of the pair is found.
    let own = Origin::start(&rig.netns, "10.201.8.1:0", address);
    rig.use_port(own.port());
    assert_eq!(rig.connect().get("/").text(), "10.201.8.1");
}

/// A namespace that leads out: a veth pair, an address of both families at either end, and default routes to the other end.
fn with_a_way_out(rig: &Rig) -> Netns {
    let outside = Netns::new();
    rig.netns.veth("10.201.9.1/24", &outside, "10.201.9.2/24");
    let link = |ns: &Netns| {
        ns.enter(|| {
            let names = std::fs::read_to_string("/proc/thread-self/net/dev").expect("the interfaces");
            let names: Vec<_> = names.lines().filter_map(|line| line.trim().split_once(':')).map(|(n, _)| n).collect();
            names.iter().find(|name| name.starts_with(['v', 'w'])).expect("a veth").to_string()
        })
    };
    for (ns, address) in [(&rig.netns, "fd00:201:9::1/64"), (&outside, "fd00:201:9::2/64")] {
        ns.ip(&["address", "add", address, "dev", &link(ns), "nodad"]);
        // It has no local route before its link has a carrier, which comes a moment after the link is set up.
        let address = address.split('/').next().expect("an address");
        wait::until_true("the address is local", || {
            try_run(Command::new("ip").args(["-6", "route", "get", address]), Some(ns)).1.starts_with("local")
        });
    }
    rig.netns.ip(&["route", "add", "default", "via", "10.201.9.2"]);
    rig.netns.ip(&["-6", "route", "add", "default", "via", "fd00:201:9::2"]);
    outside
}

/// The status and the text of an answer of the gateway's own, to a request and to a tunnel's.
fn refusal(rig: &Rig) -> (u16, String) {
    let mut conn = rig.connect();
    conn.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
    let tunnel = conn.response();
    let response = rig.connect().get("/");
    assert_eq!((tunnel.status(), tunnel.text()), (response.status(), response.text()));
    (response.status(), response.text())
}

/// A server that listens on an address that is not its container's is not followed to whoever has it.
#[test]
fn never_to_a_foreign_address() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let outside = with_a_way_out(&rig);
    rig.netns.enter(|| {
        for family in ["ipv4", "ipv6"] {
            std::fs::write(format!("/proc/sys/net/{family}/ip_nonlocal_bind"), "1").expect("a sysctl of the namespace");
        }
    });
    let capture = outside.capture();
    for foreign in ["192.0.2.1", "2001:db8::1"] {
        let foreign: IpAddr = foreign.parse().expect("an address");
        let origin = Origin::start(&rig.netns, &SocketAddr::new(foreign, 0).to_string(), address);
        rig.use_port(origin.port());
        for _ in 0..3 {
            let (status, text) = refusal(&rig);
            assert!(status == 502 && text.contains(&format!("listens on {foreign}, which is not one of")), "{text}");
        }
        assert_eq!((capture.segments_to(foreign), origin.accepted()), (0, 0), "{foreign}");
        // Whoever connects without care does reach the outside.
        let to = SocketAddr::new(foreign, origin.port());
        let _ = rig.netns.enter(|| std::net::TcpStream::connect_timeout(&to, std::time::Duration::from_millis(100)));
        wait::until_true("the packet comes out", || capture.segments_to(foreign) > 0);
    }
}

/// Without its loopback interface nothing is delivered inside a namespace, and 127.0.0.1 is where the default route leads.
#[test]
fn without_loopback() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let outside = with_a_way_out(&rig);
    let capture = outside.capture();
    rig.netns.ip(&["link", "set", "lo", "down"]);
    for bound in ["0.0.0.0", "[::]", "10.201.9.1", "[fd00:201:9::1]"] {
        let origin = Origin::start(&rig.netns, &format!("{bound}:0"), address);
        rig.use_port(origin.port());
        let (status, text) = refusal(&rig);
        assert!(status == 502 && text.contains("loopback interface is down"), "{bound}: {text}");
        for address in ["127.0.0.1", "::1", "10.201.9.1", "fd00:201:9::1"] {
            assert_eq!(capture.segments_to(address.parse().expect("an address")), 0, "{bound}: {address}");
        }
        rig.netns.ip(&["link", "set", "lo", "up"]);
        assert_eq!(rig.connect().get("/").status(), 200, "{bound}");
        rig.netns.ip(&["link", "set", "lo", "down"]);
        drop(origin);
        assert_eq!(refusal(&rig).0, 502, "{bound}");
    }
}

/// A server that answers with the address that it sees its client at.
fn client(peer: &mut Peer) -> std::io::Result<()> {
    while peer.request()?.is_some() {
        let client = peer.stream().peer_addr()?.ip().to_canonical();
        // So much that the fast path is worth it.
        peer.respond("200 OK", format!("{client} {}", " ".repeat(200_000)))?;
    }
    Ok(())
}

over_gateway! {
    /// With `source = "address"` a server sees its client at the container's own address, and one that listens on loopback is
    /// not reached; without it, everybody comes from loopback.
    fn from_the_own_address(path) {
        let rig = Rig::new(path);
        rig.netns.add_address("10.201.7.5/32");
        rig.netns.add_address("fd00:201:7::5/128");
        let at = |source: &str| rig.node().register(&rig.name, &format!("netns = {:?}\n{source}", rig.netns.path()));
        let seen = || rig.connect().get("/").text().trim().to_owned();
        for (bound, own, loopback) in [
            ("0.0.0.0", "10.201.7.5", "127.0.0.1"),
            ("[::]", "10.201.7.5", "127.0.0.1"),
            ("[fd00:201:7::5]", "fd00:201:7::5", "fd00:201:7::5"),
            ("127.0.0.1", "loopback only", "127.0.0.1"),
            ("[::1]", "loopback only", "::1"),
        ] {
            let origin = Origin::start(&rig.netns, &format!("{bound}:0"), client);
            rig.use_port(origin.port());
            for (source, expected) in [("source = 'address'", own), ("source = 'loopback'", loopback), ("", loopback)] {
                at(source);
                wait::until_true(&format!("{bound}, {source}: {expected}"), || seen().contains(expected));
                if expected != "loopback only" {
                    assert_eq!(seen(), expected, "{bound}, {source}");
                }
            }
            origin.check();
        }
    }
}

/// A TCP connection to a free port of the ephemeral range can be given that very port as its own, and is then connected to
/// itself, without any server. What it sends would come back as the answer.
#[test]
fn no_connection_to_itself() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let port = 40_001;
    rig.netns.enter(|| {
        // Leaves the kernel no other choice of a port.
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", format!("{port} {port}"))
            .expect("a sysctl of the namespace");
    });
    assert!(rig.netns.connect(([127, 0, 0, 1], port).into()).is_ok(), "the kernel connects a socket to itself");
    rig.use_port(port);
    let mut conn = rig.connect();
    for _ in 0..3 {
        conn.send("GET", "/", &[], b"");
        assert_eq!(conn.response().status(), 502);
        conn.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
        assert_eq!(conn.response().status(), 502);
    }
}

/// The gateway itself on IPv4 and IPv6, several listeners at once, reported with the ports they got.
#[test]
fn listeners_of_both_families() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", address);
    let listen = |address: &str, tls| portsplice_tests::node::ListenOn {
        address: address.to_owned(),
        tls,
        credentials: vec!["bound"],
    };
    let mut config = NodeConfig::new();
    config.listen(vec![
        listen("127.0.0.1:0", false),
        listen("[::1]:0", false),
        listen("127.0.0.1:0", true),
        listen("[::1]:0", true),
    ]);
    let node = config.container("both", &format!("netns = {:?}\n", netns.path())).start();
    assert_eq!((node.plain.len(), node.tls.len()), (2, 2));
    use portsplice_tests::client::{Conn, Version};
    use portsplice_tests::sign::Scheme;
    for at in &node.plain {
        let caller = node.caller(Scheme::Bound, "both", origin.port());
        assert_eq!(Conn::plain(node.tcp(*at), Some(caller)).get("/").text(), "127.0.0.1");
    }
    for at in &node.tls {
        let caller = node.caller(Scheme::Bound, "both", origin.port());
        assert_eq!(Conn::tls(node.tcp(*at), Version::Tls13, Some(caller)).get("/").text(), "127.0.0.1");
    }
}
