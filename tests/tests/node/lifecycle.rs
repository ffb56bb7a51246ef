//! Containers come, go and change under running connections.

use std::io::Read;
use std::process::Command;
use std::sync::mpsc::channel;

use portsplice_tests::client::Proof;
use portsplice_tests::net::Netns;
use portsplice_tests::node::NodeConfig;
use portsplice_tests::origin::{Origin, Peer, contract};
use portsplice_tests::process::Process;
use portsplice_tests::rig::Rig;
use portsplice_tests::servers::{Kind, Server};
use portsplice_tests::{HANG, pattern, privileged, wait};

use portsplice_tests::over_gateway;

/// A server that answers every request with one text.
fn says(text: &'static str) -> impl Fn(&mut Peer) -> std::io::Result<()> {
    move |peer| {
        while peer.request()?.is_some() {
            peer.respond("200 OK", text)?;
        }
        Ok(())
    }
}

/// A process that does nothing inside a namespace: what a container's first process is to its runtime.
fn pause(netns: &Netns) -> Process {
    Process::spawn("pause", Command::new("sleep").arg("infinity"), Some(netns))
}

over_gateway! {
    /// A container that dies in the middle of a response: the client does not take the part for the whole, and the next
    /// request learns that the container is gone.
    fn killed_mid_response(path) {
        let netns = Netns::new();
        let mut server = Server::start(Kind::Blocking, &netns);
        let name = "zzzzz-dz642-killed000000000";
        let rig = Rig::with(path, |config| {
            config.container(name, &format!("pid = {}\n", server.process.pid()));
        });
        let mut conn = rig.connect_to(server.port);
        conn.caller.as_mut().expect("signed").uuid = name.to_owned();
        conn.send("GET", "/bytes/10000000000", &[], b"");
        let (_, _, framing) = conn.final_head(Proof::Owed);
        pattern::read_from(&mut conn, 1 << 20, 65536).expect("the first part");
        server.process.kill();
        assert!(conn.body_into(framing, &mut |_| ()).is_err(), "it cannot have come whole");
        let node = rig.node();
        assert_eq!(node.until_status(name, server.port, |status| status != 502), 421);
    }

    /// A container that is started anew, in another namespace, under the same name: a kept-alive connection's next
    /// request reaches the new one.
    fn restarted_elsewhere(path) {
        let rig = Rig::new(path);
        let old = rig.serve(says("old"));
        let mut conn = rig.connect();
        assert_eq!(conn.get("/").text(), "old");
        let netns = Netns::new();
        let _new = Origin::start(&netns, &format!("127.0.0.1:{}", old.port()), says("new"));
        rig.node().register(&rig.name, &format!("netns = {:?}\n", netns.path()));
        wait::until_true("the new container answers on the old connection", || match conn.get("/").text().as_str() {
            "new" => true,
            text => {
                assert_eq!(text, "old");
                false
            }
        });
        // The daemon keeps nothing of the old one.
        wait::until_true("the old container's connections are closed", || old.open() == 0);
    }

    /// A registration that is taken away: 421 from then on, also on a kept-alive connection.
    fn unregistered(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(says("here"));
        let mut conn = rig.connect();
        assert_eq!(conn.get("/").text(), "here");
        rig.node().unregister(&rig.name);
        wait::until_true("the container is gone", || {
            let response = conn.get("/");
            match response.status() {
                200 => false,
                status => {
                    assert_eq!(status, 421);
                    true
                }
            }
        });
        wait::until_true("its connections are closed", || origin.open() == 0);
    }

    /// What runs when a container goes is reset: a tunnel does not outlive it.
    fn tunnels_end_with_their_container(path) {
        let rig = Rig::new(path);
        let (told, tell) = channel();
        let _origin = rig.serve(move |peer| {
            peer.write("hello")?;
            told.send(peer.rest().0.len()).expect("the test waits");
            Ok(())
        });
        let mut conn = rig.connect();
        crate::tunnels::open_tunnel(&mut conn);
        conn.read_exact(&mut [0; 5]).expect("the greeting");
        rig.node().unregister(&rig.name);
        conn.end();
        assert_eq!(tell.recv_timeout(HANG).expect("the server saw an end"), 0);
    }
}

/// A container by its process's id; when the process dies it is gone, even while other processes hold its namespace.
#[test]
fn by_process_id() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let mut process = pause(&netns);
    let origin = Origin::start(&netns, "127.0.0.1:0", says("alive"));
    let name = "zzzzz-dz642-bypid0000000000";
    let node = NodeConfig::new().container(name, &format!("pid = {}\n", process.pid())).start();
    assert_eq!(node.connect(name, origin.port()).get("/").text(), "alive");
    process.kill();
    assert_eq!(node.until_status(name, origin.port(), |status| status != 200), 421);
}

/// The name in the file counts, not the file's name; names may be plain words.
#[test]
fn registered_under_another_name() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", says("named"));
    let mut config = NodeConfig::new();
    let node = config.container("file", &format!("name = \"given-name\"\nnetns = {:?}\n", netns.path())).start();
    assert_eq!(node.connect("given-name", origin.port()).get("/").text(), "named");
    let mut conn = node.connect("file", origin.port());
    conn.send("GET", "/", &[], b"");
    assert_eq!(conn.response().status(), 421);
}

/// Containers that are registered while the daemon runs; bad files beside them do no harm.
#[test]
fn registered_later() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", says("late"));
    let node = NodeConfig::new().start();
    let at = format!("netns = {:?}\n", netns.path());
    node.register("broken-toml", "pid = = 3");
    node.register("unknown-key", &format!("{at}colour = \"red\"\n"));
    node.register("no-place", "ports = [1]\n");
    node.register("two-places", &format!("{at}pid = 1\n"));
    node.register("no-such-netns", "netns = \"/run/netns/there-is-none\"\n");
    node.register("no-such-pid", "pid = 4194303\n");
    node.register("late", &at);
    assert_eq!(node.until_status("late", origin.port(), |status| status != 421), 200);
    for name in ["broken-toml", "unknown-key", "no-place", "no-such-netns", "no-such-pid"] {
        let mut conn = node.connect(name, origin.port());
        conn.send("GET", "/", &[], b"");
        assert_eq!(conn.response().status(), 421, "{name}");
    }
    // A file that becomes bad no longer stands for a container, or stands for the old one; it never stands for another.
    node.register("late", &format!("{at}ports = [1]\n"));
    assert_eq!(node.until_status("late", origin.port(), |status| status != 200), 403);
    node.register("late", &at);
    assert_eq!(node.until_status("late", origin.port(), |status| status != 403), 200);
    // Mended files are read again.
    node.register("broken-toml", &at);
    assert_eq!(node.until_status("broken-toml", origin.port(), |status| status != 421), 200);
}

/// A policy that forbids counts for requests on connections that stand already.
#[test]
fn policy_changes_reach_open_connections() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(portsplice_tests::rig::Path::Splice);
    let _origin = rig.serve(says("open"));
    let mut conn = rig.connect();
    assert_eq!(conn.get("/").text(), "open");
    rig.node().register(&rig.name, &format!("netns = {:?}\ndeny = true\n", rig.netns.path()));
    wait::until_true("connections are denied", || {
        let response = conn.get("/");
        assert!(matches!(response.status(), 200 | 403), "{response:?}");
        response.status() == 403
    });
}

/// Two containers that claim one name: the first has it for as long as it is there.
#[test]
fn one_name_twice() {
    if !privileged() {
        return;
    }
    let (one, two) = (Netns::new(), Netns::new());
    let origin = Origin::start(&one, "127.0.0.1:0", says("one"));
    let _other = Origin::start(&two, &format!("127.0.0.1:{}", origin.port()), says("two"));
    let mut config = NodeConfig::new();
    config.container("first", &format!("name = \"same\"\nnetns = {:?}\n", one.path()));
    config.container("second", &format!("name = \"same\"\nnetns = {:?}\n", two.path()));
    let node = config.start();
    for _ in 0..3 {
        assert_eq!(node.connect("same", origin.port()).get("/").text(), "one");
    }
    node.unregister("first");
    wait::until_true("the second has it", || {
        let mut conn = node.connect("same", origin.port());
        conn.send("GET", "/", &[], b"");
        let response = conn.response();
        response.status() == 200 && response.text() == "two"
    });
}

/// The daemon's own namespace, which a container on the host's network shares: closed unless the configuration opens it.
#[test]
fn host_network() {
    if !privileged() {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let origin = Origin::on(listener, says("host"));
    for allowed in [false, true] {
        let mut config = NodeConfig::new();
        config.set("containers", "allow-host-network", &allowed.to_string());
        // This test's own process stands for one on the host's network.
        let own = format!("pid = {}\n", std::process::id());
        let node = config.container("hosted", &own).start();
        let mut conn = node.connect("hosted", origin.port());
        conn.send("GET", "/", &[], b"");
        let response = conn.response();
        assert_eq!(response.status(), if allowed { 200 } else { 403 }, "{}", response.text());
    }
}

/// Connections of every kind, ended in every way, leave no file open in the daemon.
#[test]
fn nothing_is_left_open() {
    if !privileged() {
        return;
    }
    let rig = Rig::with(portsplice_tests::rig::Path::Splice, |config| {
        // Pipes that are kept for later use are no leak, but would hide one.
        config.set("relay", "idle-pipes", "0");
    });
    let origin = rig.serve(contract::serve);
    assert_eq!(rig.connect().get("/bytes/100000").body.len(), 100_000);
    wait::until_true("idle", || origin.open() == 0);
    let node = rig.node();
    let rounds = |n: usize| {
        for round in 0..n {
            let mut conns: Vec<_> = (0..30).map(|_| rig.connect()).collect();
            for (i, conn) in conns.iter_mut().enumerate() {
                match (i + round) % 4 {
                    0 => assert_eq!(conn.get("/bytes/3000000").body.len(), 3_000_000),
                    1 => conn.send("GET", "/bytes/1000000000", &[], b""),
                    2 => conn.send("POST", "/sink", &["Content-Length: 1000000"], b"part"),
                    _ => crate::tunnels::open_tunnel(conn),
                }
            }
            conns.into_iter().enumerate().for_each(|(i, conn)| if i % 2 == 0 { conn.reset() } else { drop(conn) });
        }
    };
    // What each of the daemon's threads opens once is no leak: it is there after a first round.
    rounds(1);
    wait::until_true("the server's connections end", || origin.open() == 0);
    let baseline = wait::until_steady("open files", std::time::Duration::from_millis(300), || node.open_files());
    rounds(4);
    wait::until_true("the server's connections end", || origin.open() == 0);
    // A thread that had nothing to do in the first round may still come to it.
    node.until_files(baseline + 4);
}
