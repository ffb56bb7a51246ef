//! What there is, as the control socket tells it, and connections that are reset over it.

use std::io::Read;

use portsplice_tests::control::Control;
use portsplice_tests::origin::contract;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::{over_gateway, pattern, privileged, wait};
use serde_json::{Value, json};

/// The only connection of a list.
#[track_caller]
fn only(control: &mut Control) -> Value {
    let list = control.call("connections.list", json!({}));
    let connections = list["connections"].as_array().expect("a list");
    assert_eq!(connections.len(), 1, "{list}");
    connections[0].clone()
}

/// The first thing a client asks.
#[test]
fn hello() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let mut control = rig.node().control();
    let hello = control.call("hello", json!({}));
    assert_eq!(hello["protocol"], json!(1));
    let methods: Vec<&str> = hello["methods"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert!(methods.contains(&"hello") && methods.contains(&"connections.close"), "{methods:?}");
    for method in methods {
        // What it is told it does not understand is not the method's name.
        let (code, _) = control.try_call(method, json!({ "no-such-parameter": 1 })).expect_err("strict parameters");
        assert_eq!(code, -32602, "{method}");
    }
    assert_eq!(control.refused("bonjour", json!({})), -32601);
}

/// A container as it was registered, and what is said of one that is not there.
#[test]
fn containers() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let mut control = rig.node().control();
    let list = control.call("container.list", json!({}));
    let container = &list["containers"][0];
    assert_eq!(container["name"], json!(rig.name));
    assert_eq!(container["source"], json!("directory"));
    assert_eq!(container["connections"], json!({ "active": 0, "total": 0 }));
    assert!(container.get("denied").is_none() && container.get("ports").is_none(), "{container}");
    let detail = control.call("container.get", json!({ "container": rig.name }));
    assert_eq!(detail["container"]["id"], container["id"]);
    assert_eq!(control.refused("container.get", json!({ "container": "nobody" })), -32010);
    assert_eq!(control.refused("container.get", json!({})), -32602);
    assert_eq!(control.refused("ports.list", json!({ "container": "nobody" })), -32010);
    assert_eq!(control.refused("connections.list", json!({ "container": "nobody" })), -32010);

    let (at, policy) =
        (rig.netns.path(), "ports = [80, '8000-8010']\nmax-connections = 3\nfast = false\nservice = true");
    rig.node()
        .register("other", &format!("netns = {at:?}\n{policy}\nrequest = 'r'\n[publish.99]\naccess = 'public'\n"));
    let other =
        wait::until("the other container", || control.try_call("container.get", json!({ "container": "other" })).ok());
    let other = &other["container"];
    assert_eq!((&other["ports"], &other["max_connections"]), (&json!("80,8000-8010"), &json!(3)));
    assert_eq!((&other["fast"], &other["service"], &other["request"]), (&json!(false), &json!(true), &json!("r")));
    assert_eq!(other["publish"]["99"]["access"], json!("public"));
}

over_gateway! {
    /// What is open is listed with what it does, its bytes while they move.
    fn connections_are_listed(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let mut control = rig.node().control();
        assert_eq!(control.call("connections.list", json!({})), json!({ "connections": [] }));

        let mut conn = rig.connect();
        assert_eq!(conn.get("/bytes/1000").body, pattern::bytes(1000));
        let idle = wait::until("idle", || Some(only(&mut control)).filter(|c| c["state"] == "idle"));
        assert_eq!((&idle["requests"], &idle["target"]["container"]), (&json!(1), &json!(rig.name)));
        assert!(idle["bytes_down"].as_u64() > Some(1000) && idle["bytes_up"].as_u64() > Some(30), "{idle}");
        let listener = if path == Path::Tls { "tls" } else { "tcp" };
        assert_eq!(idle["listener"], json!(listener));

        conn.send("GET", "/bytes/10000000000", &[], b"");
        conn.final_head(portsplice_tests::client::Proof::Owed);
        let mut last = 0;
        for part in 1..=3_u64 {
            std::io::copy(&mut conn.by_ref().take(4 << 20), &mut std::io::sink()).expect("four more");
            // Of what goes past the daemon, too, while it goes on.
            let more_fast = |now: &Value| path != Path::Fast || now["bytes_fast"].as_u64() > Some(last);
            let now = wait::until("more bytes", || {
                std::io::copy(&mut conn.by_ref().take(65536), &mut std::io::sink()).expect("and some more");
                let now = only(&mut control);
                (now["bytes_down"].as_u64() >= Some((part * 4) << 20) && more_fast(&now)).then_some(now)
            });
            assert_eq!((&now["state"], &now["requests"]), (&json!("request"), &json!(2)));
            let fast = now["bytes_fast"].as_u64().expect("a number");
            assert_eq!(fast > 0, path == Path::Fast, "{now}");
            assert!(fast <= now["bytes_down"].as_u64().expect("a number"));
            // Its container's counts go on with it.
            let container = control.call("container.get", json!({ "container": rig.name }))["container"].take();
            assert_eq!(container["traffic"]["requests"], json!(1), "one is over");
            assert!(container["traffic"]["bytes_down"].as_u64() >= now["bytes_down"].as_u64(), "{container}");
            assert!(container["traffic"]["bytes_fast"].as_u64() >= Some(fast), "{container}");
            last = fast;
        }
        let filtered = control.call("connections.list", json!({ "container": rig.name }));
        assert_eq!(filtered["connections"].as_array().map(Vec::len), Some(1));
        drop(conn);
        wait::until_true("nothing is listed", || control.call("connections.list", json!({})) == json!({ "connections": [] }));
        let container = control.call("container.get", json!({ "container": rig.name }))["container"].take();
        assert_eq!(container["traffic"]["requests"], json!(2));
        assert!(container["traffic"]["bytes_down"].as_u64() > Some(12 << 20), "{container}");
    }

    /// A tunnel that is reset over the socket: both ends see a reset, and nobody else does.
    fn a_tunnel_is_cut(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(contract::serve);
        let mut control = rig.node().control();
        let (mut cut, mut stays) = (rig.connect(), rig.connect());
        for conn in [&mut cut, &mut stays] {
            conn.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
            assert_eq!(conn.final_head(portsplice_tests::client::Proof::Owed).1.status(), 101);
        }
        let list = wait::until("two tunnels", || {
            let list = control.call("connections.list", json!({}))["connections"].take();
            let tunnels = list.as_array().expect("a list").iter().filter(|c| c["state"] == "tunnel").count();
            (tunnels == 2).then_some(list)
        });
        let id = list[0]["id"].clone();
        let closed = control.call("connections.close", json!({ "ids": [id, 999_999] }));
        assert_eq!(closed, json!({ "closed": [id], "unknown": [999_999] }));
        assert_eq!(cut.rest().1, portsplice_tests::client::End::Cut);
        wait::until_true("the server's end has gone", || origin.open() == 1);
        stays.send("GET", "/bytes/100", &["Connection: close"], b"");
        wait::until_true("one is left", || {
            let list = control.call("connections.list", json!({}))["connections"].take();
            list.as_array().is_some_and(|list| list.iter().all(|c| c["id"] != id))
        });
        assert_eq!(control.refused("connections.close", json!({ "ids": [-1] })), -32602);
    }

    /// Idle, between requests: cut all the same.
    fn an_idle_connection_is_cut(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let mut control = rig.node().control();
        let mut conn = rig.connect();
        assert_eq!(conn.get("/bytes/10").status(), 200);
        let id = only(&mut control)["id"].clone();
        control.call("connections.close", json!({ "ids": [id] }));
        assert_eq!(conn.rest().1, portsplice_tests::client::End::Cut);
    }
}

/// Counts, and the state of what the node needs.
#[test]
fn stats() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Fast);
    let _origin = rig.serve(contract::serve);
    assert_eq!(rig.connect().get("/bytes/3000000").body.len(), 3_000_000);
    let mut control = rig.node().control();
    let stats = wait::until("a request is counted", || {
        Some(control.call("stats", json!({}))).filter(|stats| stats["requests"] == json!(1))
    });
    assert_eq!((&stats["pid"], &stats["ready"]), (&json!(rig.node().pid()), &json!(true)));
    assert_eq!(stats["sources"][0], json!({ "name": "directory" }));
    assert!(stats["fast"]["bytes"].as_u64() > Some(0) && stats["fast"].get("unavailable").is_none(), "{stats}");
    let down: u64 = stats["bytes"].as_array().expect("a list").iter().filter_map(|way| way["down"].as_u64()).sum();
    assert!(down >= 3_000_000, "{stats}");
}

/// Levels for a time: for one container, for a target, for everything; and what cannot be one.
#[test]
fn log_levels() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let origin = rig.serve(contract::serve);
    rig.node().register("other", &format!("netns = {:?}\n", rig.netns.path()));
    let mut control = rig.node().control();
    wait::until_true("the other container", || {
        control.try_call("container.get", json!({ "container": "other" })).is_ok()
    });
    let debug = |name: &str| {
        let lines = rig.node().log_records().into_iter();
        lines.filter(|line| line["level"] == "DEBUG" && line.get("container") == Some(&json!(name))).count()
    };
    let visit = |name: &str| {
        assert_eq!(rig.connect().get("/bytes/10").status(), 200);
        assert_eq!(rig.dialer_for(name, origin.port()).connect().get("/bytes/10").status(), 200);
    };
    visit("other");
    assert_eq!((debug(&rig.name), debug("other")), (0, 0));
    let state = control.call("log.set", json!({ "level": "debug", "container": "other" }));
    assert_eq!(state["filter"], json!("info"));
    assert_eq!((&state["set"][0]["container"], &state["set"][0]["level"]), (&json!("other"), &json!("debug")));
    visit("other");
    wait::until_true("lines about it", || debug("other") > 0);
    assert_eq!(debug(&rig.name), 0, "and about no other");
    control.call("log.set", json!({ "level": "debug", "container": "other", "seconds": 1 }));
    wait::until_true("the time is over", || rig.node().log().contains("temporary log level expired"));
    let before = debug("other");
    visit("other");
    assert_eq!(debug("other"), before);

    let state = control.call("log.set", json!({ "level": "trace", "target": "portsplice::node" }));
    assert_eq!(state["filter"], json!("info,portsplice::node=trace"));
    let state = control.call("log.set", json!({ "level": "warn" }));
    assert_eq!(state["filter"], json!("info,portsplice::node=trace,warn"));
    control.call("log.set", json!({ "target": "portsplice::node" }));
    assert_eq!(control.call("log.set", json!({})), json!({ "filter": "info", "set": [] }));
    for params in [
        json!({ "level": "loud" }),
        json!({ "level": "debug", "seconds": 0 }),
        json!({ "level": "debug", "seconds": 86_401 }),
        json!({ "level": "debug", "target": "a=b" }),
        json!({ "level": "debug", "target": "a", "container": "other" }),
    ] {
        assert_eq!(control.refused("log.set", params.clone()), -32602, "{params}");
    }
    assert_eq!(control.refused("log.set", json!({ "level": "debug", "container": "nobody" })), -32010);
}
