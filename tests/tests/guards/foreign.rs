//! Another agent has put the same sockets into socket maps of its own, as service meshes do, with programs that have a say in
//! each message: they let it pass, or take it past TCP to another socket of the node.
//!
//! The daemon's sockets are taken out of it (pidfd_getfd(2)), in place of a program that would catch them as they connect, and
//! everybody else's on this machine with them.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use portsplice_tests::client::{Conn, Version};
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::sign::Scheme;
use portsplice_tests::sockmap::SockMap;
use portsplice_tests::{over_gateway, pattern, wait};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::{access, by_path};

const LEN: usize = 3_000_000;

/// Whose sockets are in the maps, and what becomes of their messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agent {
    /// All three; they pass.
    Watches,
    /// S; they pass.
    WatchesServer,
    /// C; they pass.
    WatchesClient,
    /// S and U; they come to the other past TCP.
    ShortensServer,
    /// C and the client's; they come to the other past TCP.
    ShortensClient,
}

/// The daemon's socket with these ends.
fn daemons(pid: u32, local: SocketAddr, peer: SocketAddr) -> TcpStream {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("not zero");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("it runs");
    let folder = format!("/proc/{}/fd", pid.as_raw_nonzero());
    wait::until(&format!("the daemon's socket from {local} to {peer}"), || {
        let open = std::fs::read_dir(&folder).expect("it runs").flatten();
        let sockets = open.filter(|entry| {
            std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        });
        let numbers = sockets.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut taken = numbers
            .filter_map(|number| pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).ok().map(TcpStream::from));
        taken.find(|socket| (socket.local_addr().ok(), socket.peer_addr().ok()) == (Some(local), Some(peer)))
    })
}

/// What the agent does with the socket of the server and with the daemon's that leads to it.
fn between_server_and_daemon(agent: Agent, pid: u32, server: &TcpStream) -> Vec<SockMap> {
    let upstream = || daemons(pid, server.peer_addr().expect("connected"), server.local_addr().expect("connected"));
    match agent {
        Agent::Watches => {
            let map = SockMap::passing().expect("a map");
            map.insert(0, server).expect("S");
            map.insert(1, upstream()).expect("U");
            vec![map]
        }
        Agent::WatchesServer => {
            let map = SockMap::passing().expect("a map");
            map.insert(0, server).expect("S");
            vec![map]
        }
        Agent::ShortensServer => {
            let (there, back) = SockMap::shortcut().expect("maps");
            there.insert(0, server).expect("S");
            back.insert(0, upstream()).expect("U");
            vec![there, back]
        }
        Agent::WatchesClient | Agent::ShortensClient => Vec::new(),
    }
}

/// The same on the other side.
fn between_daemon_and_client(agent: Agent, pid: u32, stream: &TcpStream) -> Vec<SockMap> {
    let accepted = || daemons(pid, stream.peer_addr().expect("connected"), stream.local_addr().expect("connected"));
    match agent {
        Agent::Watches | Agent::WatchesClient => {
            let map = SockMap::passing().expect("a map");
            map.insert(0, accepted()).expect("C");
            vec![map]
        }
        Agent::ShortensClient => {
            let (there, back) = SockMap::shortcut().expect("maps");
            there.insert(0, accepted()).expect("C");
            back.insert(0, stream).expect("the client's");
            vec![there, back]
        }
        Agent::WatchesServer | Agent::ShortensServer => Vec::new(),
    }
}

fn exchanges(rig: &Rig, agent: Agent) {
    let pid = rig.node().pid();
    let maps = Arc::new(std::sync::Mutex::new(Vec::new()));
    let kept = Arc::clone(&maps);
    let origin = Origin::start(&rig.netns, "127.0.0.1:0", move |peer| {
        let of_this = between_server_and_daemon(agent, pid, peer.stream());
        kept.lock().expect("one at a time").extend(of_this);
        contract::serve(peer)
    });
    let node = rig.node();
    let stream = node.tcp(if rig.path == Path::Tls { node.tls[0] } else { node.plain[0] });
    // Before anything is sent: what goes past TCP would overtake what does not.
    let _maps = between_daemon_and_client(agent, pid, &stream);
    let caller = Some(node.caller(Scheme::Bound, &rig.name, origin.port()));
    let mut conn = match rig.path {
        Path::Tls => Conn::tls(stream, Version::Tls13, caller),
        _ => Conn::plain(stream, caller),
    };
    let body = pattern::bytes(LEN);
    for round in 0..3 {
        for target in ["bytes", "chunked"] {
            let response = conn.get(&format!("/{target}/{LEN}"));
            assert!(response.body == body, "{agent:?}, round {round}: wrong bytes of /{target}");
        }
        let sunk = conn.post("/sink", &body).text();
        assert_eq!(sunk.trim(), format!("{LEN} {}", pattern::sha256(LEN as u64)), "{agent:?}, round {round}");
        assert!(conn.post("/echo", &body[..100_000]).body == body[..100_000], "{agent:?}, round {round}: wrong echo");
    }
    let response = conn.get(&format!("/close/{LEN}"));
    assert!(response.body == body, "{agent:?}: wrong bytes up to the end");
}

over_gateway! {
    /// All bytes come, in their order, and nothing hangs; nothing goes the fast way past a program of somebody else.
    fn an_agent_of_sockets(path) {
        if !portsplice_tests::privileged() {
            return;
        }
        for agent in [
            Agent::Watches, Agent::WatchesServer, Agent::WatchesClient, Agent::ShortensServer, Agent::ShortensClient,
        ] {
            let rig = Rig::new(path);
            exchanges(&rig, agent);
            let lines = access(&rig, 13);
            assert_eq!(by_path(&lines, "fast"), 0, "{agent:?}: {lines:?}");
            if path == Path::Fast {
                let refused: f64 = rig.node().metrics().iter().filter(|(name, _)| name.starts_with("portsplice_fast_attach_failed"))
                    .map(|(_, value)| value).sum();
                assert!(refused > 0.0, "{agent:?}: nothing tells why");
            }
        }
    }
}
