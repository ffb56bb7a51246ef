//! SIGHUP: keys and configuration change, connections stay.

use rustix::process::Signal;

use portsplice_tests::client::Proof;
use portsplice_tests::net::Netns;
use portsplice_tests::node::{NodeConfig, write_secret};
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::rig::Rig;
use portsplice_tests::{pattern, privileged, sign, wait};

use portsplice_tests::over_gateway;

over_gateway! {
    /// A new root secret: requests signed with it are accepted, also on connections that stand; a download that runs
    /// is not disturbed, and the old secret is worth nothing any more.
    fn a_new_secret(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let len = 64_u64 << 20;
        let mut running = rig.connect();
        running.set_receive_buffer(16384);
        running.send("GET", &format!("/bytes/{len}"), &[], b"");
        let (_, _, framing) = running.final_head(Proof::Owed);
        let mut conn = rig.connect();
        assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
        let node = rig.node();
        let fresh = sign::nonce();
        write_secret(&node.site.path("root"), &fresh);
        node.signal(Signal::HUP);
        wait::until_true("the new secret is accepted", || {
            let mut conn = rig.connect();
            conn.caller.as_mut().expect("signed").root = fresh.clone();
            conn.send("GET", "/bytes/5", &[], b"");
            conn.any_head().status() == 200
        });
        conn.caller.as_mut().expect("signed").root = fresh;
        assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
        let mut old = rig.connect();
        old.send("GET", "/bytes/5", &[], b"");
        assert_eq!(old.response_with(Proof::Absent).status(), 401);
        let mut check = pattern::Check::default();
        running.body_into(framing, &mut |part| check.update(part)).expect("the whole body");
        assert_eq!(check.len(), len);
    }
}

/// Keys that are added and removed under a running daemon.
#[test]
fn a_directory_of_keys() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let name = "zzzzz-dz642-keyed0000000000";
    let mut config = NodeConfig::new();
    let node = config.keys_only().container(name, &format!("netns = {:?}\n", netns.path())).start();
    let status = |key: Option<String>| {
        let mut conn = node.connect(name, origin.port());
        conn.caller.as_mut().expect("signed").key = key;
        conn.send("GET", "/bytes/5", &[], b"");
        conn.any_head().status()
    };
    assert_eq!(status(None), 200);
    let another = sign::container_key("another root", name);
    write_secret(&node.site.keys().join(name), &another);
    node.signal(Signal::HUP);
    wait::until_true("the new key is accepted", || status(Some(another.clone())) == 200);
    assert_eq!(status(None), 401);
    std::fs::remove_file(node.site.keys().join(name)).expect("removed");
    node.signal(Signal::HUP);
    wait::until_true("the removed key is refused", || status(Some(another.clone())) == 401);
}

/// A configuration that is no good is refused as a whole: the old one stays, and the log says what is wrong.
#[test]
fn a_bad_configuration_changes_nothing() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let mut config = NodeConfig::new();
    let node = config.container("here", &format!("netns = {:?}\n", netns.path())).start();
    let mut conn = node.connect("here", origin.port());
    assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
    let rejected = || node.metric("portsplice_config_reloads_total", &["\"rejected\""]);
    for (i, (section, key, value)) in
        [("limits", "head-timeout", "\"soon\""), ("limits", "no-such-key", "1"), ("log", "level", "7")]
            .into_iter()
            .enumerate()
    {
        let mut bad = NodeConfig::new();
        bad.set(section, key, value);
        node.site.configure(&bad);
        node.signal(Signal::HUP);
        wait::until_true("the configuration is rejected", || rejected() >= (i + 1) as f64);
        wait::until_true(&format!("the log names {key}"), || node.log().contains(key));
        assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
        assert_eq!(node.connect("here", origin.port()).get("/bytes/5").body, pattern::bytes(5));
    }
    // A secret that anyone may read is refused as well.
    node.site.configure(&config);
    use std::os::unix::fs::PermissionsExt;
    let root = node.site.path("root");
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o644)).expect("mode");
    node.signal(Signal::HUP);
    wait::until_true("the open secret is rejected", || rejected() >= 4.0);
    assert_eq!(node.connect("here", origin.port()).get("/bytes/5").body, pattern::bytes(5));
}

/// Limits that may change while it runs do.
#[test]
fn limits_change() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let mut config = NodeConfig::new();
    let node = config.container("here", &format!("netns = {:?}\n", netns.path())).start();
    let with_long_target = || {
        let mut conn = node.connect("here", origin.port());
        conn.send("GET", &format!("/bytes/5?{}", "a".repeat(2000)), &[], b"");
        conn.any_head().status()
    };
    assert_eq!(with_long_target(), 200);
    config.set("limits", "target-bytes", "1000");
    node.site.configure(&config);
    node.signal(Signal::HUP);
    wait::until_true("the new limit is in force", || with_long_target() == 414);
    assert_eq!(node.metric("portsplice_config_reloads_total", &["\"applied\""]), 1.0);
}
