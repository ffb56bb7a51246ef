//! Two nodes that report to one edge, and what happens when any of them is killed.

use std::io::Read;

use portsplice_tests::node::write_secret;
use portsplice_tests::privileged;
use portsplice_tests::process::Process;
use portsplice_tests::records::records;
use portsplice_tests::sign;
use portsplice_tests::wait;

use crate::cluster::{Cluster, Container, PLAIN, TLS, until, until_uuids, visit};

/// Also when it holds only its containers' keys and its own, a node's records come, change and go.
#[test]
fn nodes_report_to_an_edge() {
    if !privileged() {
        return;
    }
    let (cluster, container) = (Cluster::new(), Container::new());
    let edge = cluster.edge();
    let toml = container.toml();
    let one = cluster.node("n1", &format!("https://{TLS}")).container("a", &toml).container("b", &toml).start();
    let mut config = cluster.node("n2", &format!("http://{PLAIN}"));
    config.container("c", &toml).keys_only();
    let site = config.site();
    write_secret(&site.keys().join("@n2"), &sign::container_key(&cluster.root, "@n2"));
    let process = Process::spawn("portsplice node", &mut site.command(&config), Some(&cluster.netns));
    let two = portsplice_tests::node::Node::ready(site, process, Some(cluster.netns.clone()));

    until_uuids(&cluster.store(), &["a", "b", "c"]);
    visit(&two, "c", &container);
    let held = until(&cluster.store(), "a connection in the record", |records| {
        records["c"]["accepted_any_connection"] == true
    });
    assert_eq!((&held["c"]["node"], &held["a"]["node"]), (&"n2".into(), &"n1".into()));
    one.unregister("a");
    until_uuids(&cluster.store(), &["b", "c"]);
    // It has moved: a late report of the first node changes nothing.
    write_secret(&two.site.keys().join("b"), &sign::container_key(&cluster.root, "b"));
    two.signal(rustix::process::Signal::HUP);
    wait::until_true("the key to be read", || {
        two.metric("portsplice_config_reloads_total", &["result=\"applied\""]) == 1.0
    });
    two.register("b", &toml);
    until(&cluster.store(), "the record of the other node", |records| records["b"]["node"] == "n2");
    // Without a key nothing is reported, and nothing else is held up.
    two.register("keyless", &toml);
    wait::until_true("the node to say so", || two.admin_get("/readyz").1.contains("there is no key of keyless here"));
    assert!(!records(&cluster.store()).contains_key("keyless"));
    one.unregister("b");
    wait::until_steady("records", std::time::Duration::from_millis(300), || {
        records(&cluster.store())["b"]["node"].clone()
    });
    assert_eq!(records(&cluster.store())["b"]["node"], "n2");
    drop((one, two, edge));
}

/// While the edge is dead, traffic goes on; when it is back, it holds what runs then, also if it has lost its file.
#[test]
fn an_edge_that_was_killed_catches_up() {
    if !privileged() {
        return;
    }
    let (cluster, container) = (Cluster::new(), Container::new());
    let mut edge = cluster.edge();
    let toml = container.toml();
    let one = cluster.node("n1", &format!("https://{TLS}")).container("a", &toml).container("b", &toml).start();
    let two = cluster.node("n2", &format!("http://{PLAIN}")).container("c", &toml).start();
    until_uuids(&cluster.store(), &["a", "b", "c"]);
    let mut open = one.connect("a", container.port());
    open.get("/bytes/10");

    edge.process.kill();
    drop(edge);
    one.unregister("b");
    one.register("d", &toml);
    two.register("e", &toml);
    wait::until_true("the node to notice", || one.metric("portsplice_registry_up", &[]) == 0.0);
    let (head, text) = one.admin_get("/readyz");
    assert_eq!(head.status(), 200, "a registry that is away makes no node unready: {text}");
    assert!(text.contains("degraded registry: "), "{text}");
    assert_eq!(open.get("/bytes/100000").body.len(), 100_000);
    visit(&one, "d", &container);
    visit(&two, "e", &container);

    let mut edge = cluster.edge();
    until_uuids(&cluster.store(), &["a", "c", "d", "e"]);
    until(&cluster.store(), "what has happened meanwhile", |records| records["e"]["accepted_any_connection"] == true);

    // Nothing changes on the nodes now: it is their heartbeats that tell.
    edge.process.kill();
    drop(edge);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", cluster.store().display()));
    }
    let edge = cluster.edge();
    until_uuids(&cluster.store(), &["a", "c", "d", "e"]);
    wait::until_true("the node to notice", || one.metric("portsplice_registry_up", &[]) == 1.0);
    assert_eq!(open.get("/bytes/10").body.len(), 10);
    drop((one, two, edge));
}

/// The records of a node that is gone go too; those of others stay.
#[test]
fn records_of_a_killed_node_vanish() {
    if !privileged() {
        return;
    }
    let (cluster, container) = (Cluster::new(), Container::new());
    let edge = cluster.edge();
    let toml = container.toml();
    let mut one = cluster.node("n1", &format!("https://{TLS}")).container("a", &toml).start();
    let mut two = cluster.node("n2", &format!("https://{TLS}")).container("b", &toml).start();
    until_uuids(&cluster.store(), &["a", "b"]);
    one.process().kill();
    until_uuids(&cluster.store(), &["b"]);
    assert!(edge.process.log().contains("no heartbeat from its node"), "{}", edge.process.log());
    two.signal(rustix::process::Signal::TERM);
    assert!(two.wait().success());
    until_uuids(&cluster.store(), &[]);
}

/// Where few files may be open, connections beyond those that there is room for are closed, and the edge can be asked how it
/// is.
#[test]
fn few_descriptors() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let edge = cluster.edge_with(&["prlimit", "--nofile=200:200"]);
    let mut node = cluster.connect("a");
    node.send("GET", "/v1/records/a", &[], b"");
    assert_eq!(node.response().status(), 404);
    let flood: Vec<_> = (0..250).map(|_| cluster.tcp(PLAIN)).collect();
    let mut last = cluster.tcp(PLAIN);
    last.set_read_timeout(Some(portsplice_tests::HANG)).expect("a timeout");
    assert!(matches!(last.read(&mut [0; 1]), Ok(0) | Err(_)), "it is turned away");
    for target in ["/readyz", "/metrics"] {
        let mut admin = portsplice_tests::client::Conn::plain(cluster.tcp("127.0.0.1:7462"), None);
        admin.send("GET", target, &["Host: edge"], b"");
        assert_eq!(admin.response().status(), 200, "{target}: {}", edge.process.log());
    }
    node.send("GET", "/v1/records/a", &[], b"");
    assert_eq!(node.response().status(), 404);
    let log = edge.process.log();
    assert!(log.contains("LimitNOFILE=") && !log.contains("cannot accept a connection"), "{log}");
    drop((flood, edge));
}
