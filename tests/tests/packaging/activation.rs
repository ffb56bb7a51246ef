//! The packaged configuration under socket activation.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use portsplice_tests::client::Version;
use portsplice_tests::net::Netns;
use portsplice_tests::node::{Node, NodeConfig, Site, binary, write_secret};
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::process::{Process, run, try_run};
use portsplice_tests::sign::Scheme;
use portsplice_tests::{pattern, privileged, wait};

use crate::{repository, text};

/// What the machine's own daemon would use, were there one, turned to files of the test.
fn elsewhere(site: &Site) -> Vec<(&'static str, String)> {
    let at = |name: &str| site.path(name).display().to_string();
    vec![
        ("PORTSPLICE_ADMIN", "127.0.0.1:0".to_owned()),
        ("PORTSPLICE_CONTAINERS_DIRECTORY", site.containers().display().to_string()),
        ("PORTSPLICE_CONTAINERS_DOCKER", String::new()),
        ("PORTSPLICE_CONTROL_SOCKET", site.control().display().to_string()),
        ("PORTSPLICE_CONTROL_STATE", at("registered.json")),
        // The package makes the group `portsplice`; here is none.
        ("PORTSPLICE_CONTROL_GROUP", "root".to_owned()),
        ("PORTSPLICE_REGISTRY_PATH", at("registry.db")),
        ("PORTSPLICE_REGISTRY_ACCEPTED_FILE", at("accepted")),
        ("PORTSPLICE_AUTH_USED_FILE", at("used")),
        ("CREDENTIALS_DIRECTORY", at("credentials")),
    ]
}

/// The root secret as systemd passes it on.
#[track_caller]
fn credential(site: &Site) {
    fs::create_dir(site.path("credentials")).expect("a directory");
    write_secret(&site.path("credentials").join("portsplice.root"), &site.root);
}

/// The name of the socket in the .socket unit is the one that the listener asks for.
fn descriptor_name() -> String {
    let unit = text("packaging/systemd/portsplice-node.socket");
    let name = unit.lines().find_map(|line| line.strip_prefix("FileDescriptorName=")).expect("a name");
    name.to_owned()
}

/// As systemd does it: it listens, and starts the daemon when somebody connects; that connection is served.
#[test]
fn the_first_connection_starts_the_packaged_node() {
    if !privileged() {
        return;
    }
    let (host, inside) = (Arc::new(Netns::new()), Netns::new());
    let origin = Origin::start(&inside, "127.0.0.1:0", contract::serve);
    let mut config = NodeConfig::new();
    config.container("here", &format!("netns = {:?}\n", inside.path()));
    let site = config.site();
    credential(&site);
    let mut check = Command::new(binary());
    check.args(["node", "--check-config", "--config"]).arg(repository("packaging/config/node.toml"));
    let shown = run(check.envs(elsewhere(&site)), None);
    for real in ["\"/run/portsplice", "\"/var/lib/portsplice"] {
        assert!(!shown.contains(real), "the test would touch the machine's own files:\n{shown}");
    }

    let mut activate = Command::new("systemd-socket-activate");
    activate.args(["--listen", "127.0.0.1:7450", "--fdname", &descriptor_name()]);
    for (name, value) in elsewhere(&site) {
        // It clears the environment but for what it is told.
        activate.args(["--setenv", &format!("{name}={value}")]);
    }
    activate.arg(binary()).args(["node", "--config"]).arg(repository("packaging/config/node.toml"));
    let mut process = Process::spawn("systemd-socket-activate", &mut activate, Some(&host));
    let address = "127.0.0.1:7450".parse().expect("an address");
    let first = wait::until("systemd-socket-activate listens", || {
        assert!(process.running(), "{}", process.log());
        host.connect(address).ok()
    });
    let node = Node::ready(site, process, Some(host));
    assert_eq!(node.tls, [address]);

    let caller = node.caller(Scheme::Bound, "here", origin.port());
    let mut conn = portsplice_tests::client::Conn::tls(first, Version::Tls13, Some(caller));
    assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
    let mut conn = node.connect_tls(Version::Tls12, Scheme::Bound, "here", origin.port());
    assert_eq!(conn.get("/bytes/70000").body, pattern::bytes(70000));
}

/// With a credential the packaged configuration is in order; without one the error tells what to do.
#[test]
fn the_packaged_configuration_is_in_order() {
    let site = NodeConfig::new().site();
    credential(&site);
    let mut check = Command::new(binary());
    check.args(["node", "--check-config", "--config"]).arg(repository("packaging/config/node.toml"));
    let (ok, _, err) = try_run(&mut check, None);
    assert!(!ok && err.contains("portsplice.root"), "{err}");
    check.env("CREDENTIALS_DIRECTORY", site.path("credentials"));
    let shown = run(&mut check, None);
    for line in
        [format!("systemd:{}", descriptor_name()), "store = \"embedded\"".into(), "group = \"portsplice\"".into()]
    {
        assert!(shown.contains(&line), "no {line} in\n{shown}");
    }
}

/// The edge's too, with the credential that its unit passes.
#[test]
fn the_packaged_configuration_of_an_edge_is_in_order() {
    let site = NodeConfig::new().site();
    credential(&site);
    let mut check = Command::new(binary());
    check.args(["edge", "--check-config", "--config"]).arg(repository("packaging/config/edge.toml"));
    check.env("CREDENTIALS_DIRECTORY", site.path("credentials"));
    let shown = run(&mut check, None);
    // Where the unit lets it write.
    assert!(text("packaging/systemd/portsplice-edge.service").contains("StateDirectory=portsplice-edge\n"));
    assert!(shown.contains("path = \"/var/lib/portsplice-edge/"), "{shown}");
}
