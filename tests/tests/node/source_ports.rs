//! The gateway's own ports inside a container stand in nobody's way.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use portsplice_tests::net::Netns;
use portsplice_tests::origin::contract;
use portsplice_tests::rig::Rig;
use portsplice_tests::{over_gateway, wait};
use socket2::{Domain, Socket, Type};

use super::tunnels::open_tunnel;

/// The local ports of all TCP sockets of a namespace, those in TIME_WAIT among them (proc_pid_net(5)).
fn local_ports(netns: &Netns) -> Vec<u16> {
    let tables = netns.enter(|| {
        ["tcp", "tcp6"].map(|table| {
            std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).expect("the namespace's sockets")
        })
    });
    let port = |line: &str| u16::from_str_radix(line.split_whitespace().nth(1)?.rsplit(':').next()?, 16).ok();
    tables.iter().flat_map(|table| table.lines().skip(1).filter_map(port)).collect()
}

/// Binds a port as a server does that takes every address.
fn bind(netns: &Netns, port: u16, reuse: bool) -> io::Result<()> {
    netns.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(reuse)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        socket.listen(1)
    })
}

over_gateway! {
    /// While a connection is open, servers that set SO_REUSEADDR bind its port; after its end everybody does, however it ended.
    fn a_program_binds_them(path) {
        let rig = Rig::new(path);
        rig.node().register("other", &format!("netns = {:?}\n", rig.netns.path()));
        let origin = rig.serve(contract::serve);
        rig.node().until_status("other", origin.port(), |status| status == 404);
        let mut used = Vec::new();
        let mut note = || {
            let own: Vec<u16> = local_ports(&rig.netns).into_iter().filter(|&port| port != origin.port()).collect();
            for &port in &own {
                bind(&rig.netns, port, true).unwrap_or_else(|e| panic!("{port}, while it is open: {e}"));
            }
            used.extend(own);
        };
        // A connection that is kept until its client goes, after one that was given up for another container. (On the fast
        // path they end sooner: that of a server that blocks serves one response.)
        let mut conn = rig.connect();
        assert_eq!(conn.get("/bytes/100000").body.len(), 100_000);
        note();
        conn.caller.as_mut().expect("signed").uuid = "other".to_owned();
        assert_eq!(conn.get("/chunked/100000").body.len(), 100_000);
        note();
        drop(conn);
        // One whose client wants no other request; one that the server ends; a tunnel that the server ends.
        let mut conn = rig.connect();
        conn.send("GET", "/bytes/7", &["Connection: close"], b"");
        assert_eq!(conn.response().body.len(), 7);
        assert_eq!(rig.connect().get("/close/100000").body.len(), 100_000);
        let mut conn = rig.connect();
        open_tunnel(&mut conn);
        conn.write(b"GET /close/7 HTTP/1.1\r\nHost: x\r\n\r\n");
        note();
        assert!(conn.rest().0.ends_with(&portsplice_tests::pattern::bytes(7)));
        drop(conn);
        wait::until_true("nothing of the gateway's is left", || {
            local_ports(&rig.netns).iter().all(|&port| port == origin.port())
        });
        assert!(!used.is_empty(), "the tunnel had a port");
        for port in used {
            bind(&rig.netns, port, false).unwrap_or_else(|e| panic!("{port}, after its end: {e}"));
        }
        origin.check();
    }
}
