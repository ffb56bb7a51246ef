//! Caps on connections: in all, for a container, for a client's address.

use std::io::{Read, Write};
use std::net::TcpStream;

use portsplice_tests::client::{Caller, Conn, Proof};
use portsplice_tests::net::Netns;
use portsplice_tests::origin::contract;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::sign::Scheme;
use portsplice_tests::{pattern, privileged, process, wait};

/// Whether a connection that is made now is served. If there is no room it may be told so, or be reset, be it before it knows that
/// it is connected.
fn is_served(rig: &Rig, port: u16, fields: &[&str], status: u16) -> bool {
    let node = rig.node();
    let Ok(stream) = node.try_tcp(node.plain[0]) else { return false };
    let mut conn = Conn::plain(stream, Some(node.caller(Scheme::Bound, &rig.name, port)));
    let request = conn.head_for("GET", "/bytes/5", fields);
    conn.writer().write_all(&request).is_ok()
        && matches!(conn.input().head(), Ok(Some(head)) if head.status() == status)
}

/// Expects a 503 that says when to come again.
#[track_caller]
fn busy(conn: &mut Conn, proof: Proof) {
    let response = conn.response_with(proof);
    assert_eq!(response.status(), 503, "{response:?}");
    assert!(response.head.get("retry-after").is_some_and(|v| v.parse::<u32>().is_ok()), "{response:?}");
}

/// As many connections as the node may have; the next one is told, and works again once another has gone.
#[test]
fn in_all() {
    if !privileged() {
        return;
    }
    let rig = Rig::with(Path::Splice, |config| {
        config.set("limits", "connections", "3");
    });
    let origin = rig.serve(contract::serve);
    let mut conns: Vec<Conn> = (0..3).map(|_| rig.connect()).collect();
    for conn in &mut conns {
        assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
    }
    let mut one_more = rig.connect();
    one_more.send("GET", "/bytes/5", &[], b"");
    busy(&mut one_more, Proof::Absent);
    conns.pop();
    wait::until_true("there is room again", || is_served(&rig, origin.port(), &[], 200));
    for conn in &mut conns {
        assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
    }
}

/// Clients beyond the cap that never go away take few sockets of the daemon, and are told again once there is room for it.
#[test]
fn refused_connections_are_capped_too() {
    if !privileged() {
        return;
    }
    let rig = Rig::with(Path::Splice, |config| {
        config.set("limits", "connections", "1");
    });
    let _origin = rig.serve(contract::serve);
    let mut conn = rig.connect();
    assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
    let node = rig.node();
    let before = node.open_files();
    // Those that are not told are reset, be it before they know that they are connected.
    let connect = || TcpStream::connect(node.plain[0]).ok();
    let flood: Vec<TcpStream> = (0..300).filter_map(|_| connect()).collect();
    // All of them have been accepted once this one is read to its end.
    let last = connect();
    let _ = last.as_ref().map(|mut last| last.read_to_end(&mut Vec::new()));
    let more = node.open_files().saturating_sub(before);
    assert!(more <= 24, "300 refused connections hold {more} descriptors");
    assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
    drop((flood, last));
    wait::until_true("clients are told again", || {
        let mut told = Vec::new();
        let _ = connect().map(|mut conn| conn.read_to_end(&mut told));
        told.starts_with(b"HTTP/1.1 503 ")
    });
}

/// As many connections as one container may have, by configuration and by its own registration; others are not touched.
#[test]
fn for_a_container() {
    if !privileged() {
        return;
    }
    let other = Netns::new();
    let rig = Rig::with(Path::Splice, |config| {
        config.set("limits", "connections-per-container", "2");
        config.container("free", &format!("netns = {:?}\n", other.path()));
        config.container("narrow", &format!("netns = {:?}\nmax-connections = 1\n", other.path()));
    });
    let origin = rig.serve(contract::serve);
    let _other =
        portsplice_tests::origin::Origin::start(&other, &format!("127.0.0.1:{}", origin.port()), contract::serve);
    // A connection counts while it holds one of the container's: a tunnel does, for as long as it is open.
    let mut tunnels: Vec<Conn> = (0..2).map(|_| rig.connect()).collect();
    tunnels.iter_mut().for_each(crate::tunnels::open_tunnel);
    let mut third = rig.connect();
    third.send("GET", "/bytes/5", &[], b"");
    busy(&mut third, Proof::Owed);
    // The same connection may go elsewhere.
    third.caller.as_mut().expect("signed").uuid = "free".to_owned();
    assert_eq!(third.get("/bytes/5").body, pattern::bytes(5));
    let narrow = |conn: &mut Conn| conn.caller.as_mut().expect("signed").uuid = "narrow".to_owned();
    let mut first = rig.connect();
    narrow(&mut first);
    crate::tunnels::open_tunnel(&mut first);
    let mut second = rig.connect();
    narrow(&mut second);
    second.send("GET", "/bytes/5", &[], b"");
    busy(&mut second, Proof::Owed);
    drop(tunnels);
    wait::until_true("there is room again", || {
        let mut conn = rig.connect();
        conn.send("GET", "/bytes/5", &[], b"");
        conn.any_head().status() == 200
    });
}

/// As many connections as one address may have; another address is not touched.
#[test]
fn for_a_client() {
    if !privileged() {
        return;
    }
    let rig = Rig::with(Path::Splice, |config| {
        config.set("limits", "connections-per-client", "2");
    });
    let origin = rig.serve(contract::serve);
    let node = rig.node();
    let from = |address: [u8; 4]| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let local: std::net::SocketAddr = (address, 0).into();
        socket.bind(&local.into()).expect("all of 127/8 is ours");
        socket.connect(&node.plain[0].into()).expect("the gateway listens");
        let caller: Caller = node.caller(Scheme::Bound, &rig.name, origin.port());
        Conn::plain(TcpStream::from(socket), Some(caller))
    };
    let mut conns: Vec<Conn> = (0..2).map(|_| from([127, 0, 0, 1])).collect();
    for conn in &mut conns {
        assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
    }
    let mut third = from([127, 0, 0, 1]);
    third.send("GET", "/bytes/5", &[], b"");
    busy(&mut third, Proof::Absent);
    assert_eq!(from([127, 0, 0, 2]).get("/bytes/5").body, pattern::bytes(5));
    drop(conns);
    wait::until_true("there is room again", || is_served(&rig, origin.port(), &[], 200));
}

/// Where few files may be open, clients cannot use them up: those beyond what there is room for are told so, and whoever asks
/// the daemon how it is gets an answer.
#[test]
fn few_descriptors() {
    if !privileged() {
        return;
    }
    for limit in [200, 1024] {
        let rig = Rig::with(Path::Splice, |config| {
            // What is for connections depends on how many threads there are, and they on the machine.
            config.open_files(limit).set("", "threads", "2");
        });
        // Bytes wait in pipes too, behind clients that do not read. Small segments and a small window keep the queues before them
        // small: those of hundreds of connections must not use up what the machine has for TCP (`tcp_mem`), which other tests need,
        // and beyond which the kernel resets connections.
        let origin = rig.serve(|peer| {
            let mut out = peer.stream();
            pattern::write_to(&mut out, 1 << 20, 1 << 20)
        });
        let node = rig.node();
        let dialer = rig.dialer(origin.port());
        let connect = || {
            dialer.connect_with(|socket| {
                socket.set_tcp_mss(536)?;
                socket.set_recv_buffer_size(4096)
            })
        };
        let mut tunnels = Vec::new();
        let mut refused = loop {
            let mut conn = connect();
            conn.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
            if conn.any_head().status() != 101 {
                break connect();
            }
            tunnels.push(conn);
        };
        assert!(tunnels.len() >= limit as usize / 8, "{limit}: room for {} connections only", tunnels.len());
        refused.send("GET", "/", &[], b"");
        busy(&mut refused, Proof::Absent);
        wait::until_true("bytes wait in pipes", || node.open_pipes() > 4);
        // Many more, which are reset without a word once enough are being told.
        let flood: Vec<TcpStream> = (0..300).filter_map(|_| node.try_tcp(node.plain[0]).ok()).collect();
        for target in ["/readyz", "/healthz", "/metrics"] {
            assert_eq!(node.admin_get(target).0.status(), 200, "{limit}: {target}\n{}", node.log());
        }
        let mut ps = std::process::Command::new(portsplice_tests::node::binary());
        let listed = process::run(ps.args(["ps", "--socket"]).arg(node.site.control()), None);
        assert!(listed.contains(&rig.name), "{listed}");
        assert!(node.open_files() < limit as usize - 16, "{limit}: {} files are open", node.open_files());
        let log = node.log();
        assert!(log.contains(&format!("allows {} connections", tunnels.len())), "{limit}: {log}");
        assert!(log.contains("LimitNOFILE=") && !log.contains("cannot accept a connection"), "{limit}: {log}");
        drop((flood, tunnels));
        let upgrade: &[&str] = &["Connection: Upgrade", "Upgrade: tcp"];
        wait::until_true("there is room again", || is_served(&rig, origin.port(), upgrade, 101));
    }
}

/// More connections than the daemon has file descriptors for: those that stand work on, and it recovers.
#[test]
fn out_of_descriptors() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let origin = rig.serve(contract::serve);
    let mut conn = rig.connect();
    assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
    let node = rig.node();
    let pid = node.pid().to_string();
    let limit = (node.open_files() + 20).to_string();
    process::run(std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={limit}:20000")]), None);
    let flood: Vec<TcpStream> = (0..200).map(|_| node.tcp(node.plain[0])).collect();
    wait::until_true("it is out of descriptors", || node.open_files() + 2 >= limit.parse::<usize>().expect("a number"));
    for _ in 0..5 {
        assert_eq!(conn.get("/bytes/3000000").body.len(), 3_000_000);
    }
    drop(flood);
    wait::until_true("it takes connections again", || is_served(&rig, origin.port(), &[], 200));
}
