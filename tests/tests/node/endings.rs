//! How answers end: what a server has sent comes whole, however slowly it is taken; and what is not whole does not look so.

use std::io::Read;
use std::process::Command;
use std::sync::mpsc::channel;
use std::time::Duration;

use portsplice_tests::client::{Conn, End, Proof};
use portsplice_tests::net::Netns;
use portsplice_tests::process::{Process, try_run};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::servers::{Kind, Server, certificate, scripts};
use portsplice_tests::{HANG, over_gateway, over_paths, pattern, wait};

/// Bytes of an answer: more than a client's own buffers take, less than what all buffers on the way do.
const LEN: usize = 5_000_000;

/// The heads of answers that are framed in the three ways.
const HEADS: [&str; 3] = [
    "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
];

/// A whole answer of [`LEN`] bytes.
fn answer(head: &str) -> Vec<u8> {
    let mut all = head.as_bytes().to_vec();
    if !head.contains("chunked") {
        all.extend(pattern::bytes(LEN));
        return all;
    }
    for part in pattern::bytes(LEN).chunks(50_000) {
        all.extend(format!("{:x}\r\n", part.len()).bytes());
        all.extend(part);
        all.extend(b"\r\n");
    }
    all.extend(b"0\r\n\r\n");
    all
}

/// A server that gives one answer and ends: its process, its port, and the directory of its answer.
fn once(netns: &Netns, answer: &[u8], tls: bool) -> (Process, u16, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name);
    std::fs::write(file("answer"), answer).expect("written");
    let mut command = Command::new("python3");
    command.arg(scripts().join("once.py")).arg(file("answer"));
    if tls {
        let (certificate, key) = certificate(dir.path());
        command.arg("tls").arg(certificate).arg(key);
    }
    let process = Process::spawn("once", &mut command, Some(netns));
    let port = process.line_with("port ").parse().expect("a port");
    (process, port, dir)
}

/// A rig whose container ends with a process.
fn rig_of(path: Path, process: &Process, more: &str) -> (Rig, &'static str) {
    let name = "zzzzz-dz642-once00000000000";
    let toml = format!("pid = {}\n{more}", process.pid());
    let rig = Rig::with(path, |config| {
        config.container(name, &toml);
    });
    (rig, name)
}

/// A client that takes little at a time, from the beginning.
fn slow(rig: &Rig, name: &str, port: u16) -> Conn {
    let dialer = rig.dialer_for(name, port);
    dialer.connect_with(|socket| socket.set_recv_buffer_size(64 * 1024))
}

/// Takes the rest of a body, which must be whole and right.
fn take_all(conn: &mut Conn, framing: portsplice_tests::http::Framing) {
    let mut check = pattern::Check::default();
    conn.body_into(framing, &mut |part| {
        check.update(part);
        std::thread::sleep(Duration::from_micros(200));
    })
    .unwrap_or_else(|error| panic!("{framing:?}: {error} after {} bytes", check.len()));
    assert_eq!(check.len(), LEN as u64, "{framing:?}");
}

over_gateway! {
    /// A server that ends, and its container with it, when it has handed its answer to the kernel: all of it comes, though the
    /// client takes it only when the container is long gone. Its namespace does not wait for that.
    fn a_container_ends_behind_its_answer(path) {
        for head in HEADS {
            let (netns, host) = (Netns::new(), Netns::new());
            // Goes with the namespace that the other end is in.
            host.ip(&["link", "add", "there", "type", "veth", "peer", "name", "here"]);
            host.ip(&["link", "set", "here", "netns", &netns.path().display().to_string()]);
            let (mut server, port, _dir) = once(&netns, &answer(head), false);
            let (rig, name) = rig_of(path, &server, "");
            let mut conn = slow(&rig, name, port);
            conn.send("GET", "/", &[], b"");
            let (_, _, framing) = conn.final_head(Proof::Owed);
            let mut namespace = Some(netns);
            let mut check = pattern::Check::default();
            conn.body_into(framing, &mut |part| {
                check.update(part);
                if namespace.is_some() && server.running() {
                    std::thread::sleep(Duration::from_millis(5));
                } else if let Some(netns) = namespace.take() {
                    assert_eq!(rig.node().until_status(name, port, |status| status != 502), 421);
                    drop(netns);
                    wait::until_true("the namespace is free", || {
                        !try_run(Command::new("ip").args(["link", "show", "there"]), Some(&host)).0
                    });
                }
            })
            .unwrap_or_else(|error| panic!("{framing:?}: {error} after {} bytes", check.len()));
            assert_eq!((check.len(), namespace.is_none()), (LEN as u64, true), "{framing:?}");
            wait::until_true("no memory is held", || rig.node().metric("portsplice_tail_bytes", &[]) == 0.0);
        }
    }

    /// The same without a container that ends: a server over TLS that ends its connection without close_notify.
    fn no_close_notify(path) {
        for head in HEADS {
            let netns = Netns::new();
            let (server, port, _dir) = once(&netns, &answer(head), true);
            let place = format!("netns = {:?}\nhttps-ports = [{port}]\n", netns.path());
            let name = "zzzzz-dz642-notify000000000";
            let rig = Rig::with(path, |config| {
                config.container(name, &place);
            });
            let mut conn = slow(&rig, name, port);
            conn.send("GET", "/", &[], b"");
            let (_, _, framing) = conn.final_head(Proof::Owed);
            take_all(&mut conn, framing);
            server.line_with("written");
        }
    }

    /// A daemon that is killed: what it was sending does not look whole, neither where the body ends with its connection nor in
    /// a tunnel, to neither side.
    fn a_killed_daemon(path) {
        let mut rig = Rig::new(path);
        let (told, tell) = channel();
        let _origin = rig.serve(move |peer| {
            if peer.index == 0 {
                peer.must_request()?;
                peer.write(HEADS[0])?;
            }
            peer.write(pattern::slice(0, 1000))?;
            told.send((peer.index, peer.rest().1.is_ok())).expect("the test waits");
            Ok(())
        });
        let mut conn = rig.connect();
        conn.send("GET", "/", &[], b"");
        conn.final_head(Proof::Owed);
        let mut tunnel = rig.connect();
        crate::tunnels::open_tunnel(&mut tunnel);
        for conn in [&mut conn, &mut tunnel] {
            pattern::read_from(conn, 1000, 1000).expect("what was sent");
        }
        rig.node_mut().process().kill();
        assert_eq!((conn.end(), tunnel.end()), (End::Cut, End::Cut));
        let seen = [(); 2].map(|()| tell.recv_timeout(HANG).expect("the server saw an end"));
        assert!(seen.contains(&(1, false)), "the tunnel's server: {seen:?}");
    }

    /// A container that is withdrawn, closed or replaced while its server goes on sending: its streams are reset.
    fn access_ends_in_mid_stream(path) {
        for change in ["", "deny = true\n", "other"] {
            let rig = Rig::new(path);
            let origin = rig.serve(|peer| {
                peer.must_request()?;
                peer.write(HEADS[0])?;
                loop {
                    peer.write(pattern::slice(0, 200))?;
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let mut conn = rig.connect();
            conn.send("GET", "/", &[], b"");
            conn.final_head(Proof::Owed);
            conn.read_exact(&mut [0; 1000]).expect("some of it");
            let other = Netns::new();
            match change {
                "" => rig.node().unregister(&rig.name),
                "other" => rig.node().register(&rig.name, &format!("netns = {:?}\n", other.path())),
                deny => rig.node().register(&rig.name, &format!("netns = {:?}\n{deny}", rig.netns.path())),
            }
            let mut buffer = [0; 4096];
            let error = loop {
                match conn.read(&mut buffer) {
                    Ok(0) => panic!("{change:?}: a part passed for the whole"),
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{change:?}");
            wait::until_true("the server is told", || origin.open() == 0);
        }
    }

    /// An answer that ends too early: what there is of it comes first, to a slow client too, and then the break.
    fn what_was_sent_comes_before_the_break(path) {
        const PART: usize = 3_000_000;
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            peer.must_request()?;
            peer.write(HEADS[1])?;
            peer.write(pattern::bytes(PART))
        });
        let dialer = rig.dialer(_origin.port());
        let mut conn = dialer.connect_with(|socket| socket.set_recv_buffer_size(64 * 1024));
        conn.send("GET", "/", &[], b"");
        let (_, _, framing) = conn.final_head(Proof::Owed);
        let mut check = pattern::Check::default();
        let ended = conn.body_into(framing, &mut |part| {
            check.update(part);
            std::thread::sleep(Duration::from_micros(500));
        });
        assert!(ended.is_err() && check.len() == PART as u64, "{ended:?} after {} bytes", check.len());
    }
}

over_paths! {
    /// A server that stands still in the middle of its answer, as in a container that is paused, and goes on: all of it comes.
    fn frozen_in_mid_stream(path) {
        use rustix::process::Signal;
        for (kind, target) in [(Kind::Blocking, "/bytes/"), (Kind::Asyncio, "/chunked/"), (Kind::Asyncio, "/close/")] {
            let rig = Rig::new(path);
            let server = Server::start(kind, &rig.netns);
            rig.use_port(server.port);
            let mut conn = rig.connect();
            conn.send("GET", &format!("{target}20000000"), &[], b"");
            let (_, _, framing) = conn.final_head(Proof::Owed);
            let mut check = pattern::Check::default();
            let mut next = 1_000_000;
            conn.body_into(framing, &mut |part| {
                check.update(part);
                if check.len() >= next {
                    next += 4_000_000;
                    server.process.signal(Signal::STOP);
                    std::thread::sleep(Duration::from_millis(100));
                    server.process.signal(Signal::CONT);
                }
            })
            .expect("it comes whole");
            assert_eq!(check.len(), 20_000_000);
        }
    }
}
