//! Containers that are registered over the socket: reached by signed requests, and gone with all that is theirs.

use std::process::Command;
use std::time::Duration;

use portsplice_tests::client::{Caller, Conn, End, Proof};
use portsplice_tests::net::Netns;
use portsplice_tests::node::{Node, NodeConfig};
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::process::Process;
use portsplice_tests::sign::{self, Scheme};
use portsplice_tests::{privileged, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A process that does nothing inside a namespace: what a container's first process is to its runtime.
fn pause(netns: &Netns) -> Process {
    Process::spawn("pause", Command::new("sleep").arg("infinity"), Some(netns))
}

/// The status of a request for a container.
#[track_caller]
fn status(node: &Node, name: &str, port: u16) -> u16 {
    let mut conn = node.connect(name, port);
    conn.send("GET", "/bytes/10", &[], b"");
    conn.response().status()
}

/// A connection whose requests are signed with a key of the container's own.
fn signed(node: &Node, name: &str, port: u16, key: &str) -> Conn {
    let caller =
        Caller { root: String::new(), key: Some(key.to_owned()), scheme: Scheme::Bound, uuid: name.to_owned(), port };
    Conn::plain(node.tcp(node.plain[0]), Some(caller))
}

/// The state file.
fn kept(node: &Node) -> Value {
    let text = std::fs::read_to_string(node.site.path("registered.json")).expect("the state file");
    serde_json::from_str(&text).expect("JSON")
}

/// The names that are kept.
fn names_kept(node: &Node) -> Vec<String> {
    let state = kept(node);
    let rows = state["containers"].as_array().expect("a list");
    let mut names: Vec<String> = rows.iter().map(|row| row["name"].as_str().expect("a name").to_owned()).collect();
    names.sort_unstable();
    names
}

/// Registered, reached at once, taken back: what ran is reset, what is kept is gone.
#[test]
fn by_namespace() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let node = NodeConfig::new().start();
    let mut control = node.control();
    let mut watcher = node.control();
    watcher.subscribe(&["containers", "connections"]);
    assert_eq!(status(&node, "web", origin.port()), 421);
    watcher.event_that("that connection's end", |event| event["event"] == "connection_closed");

    let published = json!({ origin.port().to_string(): { "access": "public", "label": "Web" } });
    let params = json!({ "name": "web", "uuid": "zzzzz-dz642-registered00000", "netns": netns.path(), "ports": [1],
        "publish": published, "service": true, "request": "r" });
    let detail = control.call("container.register", params.clone());
    let container = &detail["container"];
    assert_eq!((&container["id"], &container["source"]), (&json!("control/web"), &json!("control")));
    assert_eq!((&container["uuid"], &container["service"]), (&json!("zzzzz-dz642-registered00000"), &json!(true)));
    assert_eq!(watcher.next_event()["container"]["name"], json!("web"));
    for name in ["web", "zzzzz-dz642-registered00000"] {
        assert_eq!(status(&node, name, origin.port()), 200, "{name}");
        assert_eq!(status(&node, name, 2), 403, "{name}");
    }
    let routed = watcher.event_that("a connection leads to it", |event| event["event"] == "connection_routed");
    assert_eq!(
        routed["target"],
        json!({ "container": "web", "uuid": "zzzzz-dz642-registered00000", "port": origin.port() })
    );
    assert_eq!(names_kept(&node), ["web"]);

    let mut tunnel = node.connect("web", origin.port());
    tunnel.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
    assert_eq!(tunnel.final_head(Proof::Owed).1.status(), 101);
    assert_eq!(control.call("container.unregister", json!({ "container": "web" })), json!({}));
    let removed = watcher.event_that("it is gone", |event| event["event"] == "container_removed");
    assert_eq!(removed["id"], json!("control/web"));
    assert_eq!(tunnel.rest().1, End::Cut);
    assert_eq!(status(&node, "web", origin.port()), 421);
    assert!(names_kept(&node).is_empty());
    assert_eq!(control.refused("container.unregister", json!({ "container": "web" })), -32010);
    control.call("container.register", params);
    assert_eq!(status(&node, "web", origin.port()), 200, "once more");
    // The namespace's name goes, and nothing is reset; then all that was left of it, and with it the registration.
    drop(netns);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(status(&node, "web", origin.port()), 200, "something listens still");
    drop(origin);
    watcher.event_that("it is gone again", |event| event["event"] == "container_removed");
    wait::until_true("nothing is kept", || names_kept(&node).is_empty());
}

/// A process: the registration ends with it, at once for those who are connected.
#[test]
fn by_process() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let mut process = pause(&netns);
    let node = NodeConfig::new().start();
    let mut control = node.control();
    control.call("container.register", json!({ "name": "web", "pid": process.pid() }));
    assert_eq!(status(&node, "web", origin.port()), 200);
    assert!(kept(&node)["containers"][0]["start_time"].as_u64().is_some(), "the very process is kept");
    process.kill();
    wait::until_true("the container is gone", || status(&node, "web", origin.port()) == 421);
    wait::until_true("nothing is kept", || names_kept(&node).is_empty());
    assert_eq!(control.refused("container.register", json!({ "name": "web", "pid": process.pid() })), -32013);
}

/// Every mistake has its code, and registers nothing.
#[test]
fn mistakes() {
    if !privileged() {
        return;
    }
    let (netns, other) = (Netns::new(), Netns::new());
    let process = pause(&netns);
    let mut config = NodeConfig::new();
    let node = config.container("filed", &format!("netns = {:?}\n", other.path())).start();
    let mut control = node.control();
    let pid = process.pid();
    control.call("container.register", json!({ "name": "web", "uuid": "web-uuid", "pid": pid }));
    for (params, code) in [
        (json!({}), -32602),
        (json!({ "name": "x" }), -32602),
        (json!({ "name": "x y", "pid": pid }), -32602),
        (json!({ "name": "x", "pid": pid, "netns": netns.path() }), -32602),
        (json!({ "name": "x", "pid": pid, "key": "short" }), -32602),
        (json!({ "name": "x", "pid": pid, "prots": [80] }), -32602),
        (json!({ "name": "x", "pid": 4_194_303 }), -32013),
        (json!({ "name": "x", "pid": pid, "start_time": 1 }), -32013),
        (json!({ "name": "x", "netns": "/run/netns/there-is-none" }), -32014),
        (json!({ "name": "x", "netns": "/etc/passwd" }), -32014),
        (json!({ "name": "web", "netns": other.path() }), -32012),
        (json!({ "name": "web-uuid", "pid": pid }), -32012),
        (json!({ "name": "x", "uuid": "web", "pid": pid }), -32012),
        (json!({ "name": "filed", "pid": pid }), -32012),
    ] {
        assert_eq!(control.refused("container.register", params.clone()), code, "{params}");
    }
    assert_eq!(control.refused("container.unregister", json!({ "container": "filed" })), -32015);
    let list = control.call("container.list", json!({}))["containers"].take();
    let ids: Vec<&str> = list.as_array().expect("a list").iter().filter_map(|c| c["id"].as_str()).collect();
    assert_eq!(ids, ["control/web", "registered/filed.toml"]);
    // The same again with other rules is no mistake, and keeps what is connected.
    let detail = control.call("container.register", json!({ "name": "web", "pid": pid, "ports": [7] }));
    assert_eq!(detail["container"]["ports"], json!("7"));
}

/// Rules that change reach connections that stand, which stay.
#[test]
fn rules_change_under_connections() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let node = NodeConfig::new().start();
    let mut control = node.control();
    let register = |ports: Value| json!({ "name": "web", "netns": netns.path(), "ports": ports });
    control.call("container.register", register(json!([origin.port()])));
    let mut conn = node.connect("web", origin.port());
    assert_eq!(conn.get("/bytes/10").status(), 200);
    control.call("container.register", register(json!(["1-9"])));
    assert_eq!(conn.get("/bytes/10").status(), 403);
    control.call("container.register", register(json!([origin.port()])));
    assert_eq!(conn.get("/bytes/10").status(), 200);
}

/// A node without the root secret learns keys together with containers, and forgets them with these.
#[test]
fn keys() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let node = NodeConfig::new().keys_only().start();
    let mut control = node.control();
    let (key, other) = (sign::container_key("secret", "web"), sign::container_key("another", "web"));
    let ask = |key: &str, expected: u16| {
        let mut conn = signed(&node, "web", origin.port(), key);
        conn.send("GET", "/bytes/10", &[], b"");
        let proof = if expected == 401 { Proof::Absent } else { Proof::Owed };
        assert_eq!(conn.final_head(proof).1.status(), expected);
    };
    let register = |key: Value| json!({ "name": "web", "uuid": "u", "netns": netns.path(), "key": key });
    control.call("container.register", register(json!(key)));
    ask(&key, 200);
    ask(&other, 401);
    assert!(!node.log().contains(&key[..16]), "keys are not logged");
    assert!(!control.call("container.list", json!({})).to_string().contains(&key[..16]), "nor told");
    // A reload reads keys from files anew; those that were registered stay.
    node.signal(Signal::HUP);
    wait::until_true("the reload", || node.log().contains("configuration reloaded"));
    ask(&key, 200);
    control.call("container.register", register(json!(other)));
    ask(&key, 401);
    ask(&other, 200);
    control.call("container.unregister", json!({ "container": "u" }));
    ask(&other, 401);
}

/// A registration that nobody uses goes; one that is used stays, and so does one that asks for it.
#[test]
fn expiry() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let node = NodeConfig::new().start();
    let mut control = node.control();
    for (name, expires) in [("unused", 1), ("used", 2), ("stays", 0)] {
        control.call("container.register", json!({ "name": name, "netns": netns.path(), "expires": expires }));
        if name == "used" {
            assert_eq!(status(&node, name, origin.port()), 200);
        }
    }
    wait::until_true("the unused one has gone", || names_kept(&node) == ["stays", "used"]);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(names_kept(&node), ["stays", "used"]);
    assert_eq!(status(&node, "unused", origin.port()), 421);
    assert_eq!(status(&node, "used", origin.port()), 200);
}

/// Killed and started again: what is still there is registered again with its key and its rules, the rest is not.
#[test]
fn after_a_crash() {
    if !privileged() {
        return;
    }
    let (netns, gone) = (Netns::new(), Netns::new());
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let (alive, mut dead) = (pause(&netns), pause(&netns));
    let mut config = NodeConfig::new();
    config.keys_only();
    let mut node = config.start();
    let mut control = node.control();
    let key = sign::container_key("secret", "web");
    for params in [
        json!({ "name": "web", "pid": alive.pid(), "key": key, "ports": [origin.port()] }),
        json!({ "name": "path", "netns": netns.path(), "key": key }),
        json!({ "name": "dead", "pid": dead.pid() }),
        json!({ "name": "gone", "netns": gone.path() }),
        json!({ "name": "other", "netns": netns.path() }),
    ] {
        control.call("container.register", params);
    }
    let mode =
        std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(node.site.path("registered.json")).expect("there"));
    assert_eq!(mode & 0o777, 0o600);
    node.process().kill();
    dead.kill();
    drop(gone);
    // As if the path had come to lead to another namespace while nobody looked.
    let mut state = kept(&node);
    for row in state["containers"].as_array_mut().expect("a list") {
        if row["name"] == "other" {
            row["namespace"][1] = json!(1);
        }
    }
    std::fs::write(node.site.path("registered.json"), state.to_string()).expect("written");

    let again = Process::spawn("portsplice node", &mut node.site.command(&config), None);
    let address = again.line_with("listening tcp ").parse().expect("an address");
    again.line_with("ready");
    let mut control = node.control();
    let list = control.call("container.list", json!({}))["containers"].take();
    let names: Vec<&str> = list.as_array().expect("a list").iter().filter_map(|c| c["name"].as_str()).collect();
    assert_eq!(names, ["path", "web"]);
    assert_eq!(names_kept(&node), ["path", "web"]);
    node.plain[0] = address;
    for name in names {
        let mut conn = signed(&node, name, origin.port(), &key);
        assert_eq!(conn.get("/bytes/10").status(), 200, "{name}");
    }
    let mut conn = signed(&node, "web", 1, &key);
    conn.send("GET", "/", &[], b"");
    assert_eq!(conn.response().status(), 403, "its rules are as they were");
}

/// A registration that cannot be kept is refused, and changes nothing.
#[test]
fn nowhere_to_keep_it() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let mut config = NodeConfig::new();
    config.set("control", "state", "\"/proc/nowhere/registered.json\"");
    let node = config.start();
    let mut control = node.control();
    assert_eq!(control.refused("container.register", json!({ "name": "web", "netns": netns.path() })), -32016);
    assert_eq!(control.call("container.list", json!({})), json!({ "containers": [] }));
    let sources = control.call("stats", json!({}))["sources"].take();
    assert!(
        sources.as_array().is_some_and(|s| s.iter().any(|s| s["name"] == "control" && s["error"].is_string())),
        "{sources}"
    );
}

/// Sends one request from a process in a pid namespace of its own, after `script` has run there; `$pid` in the parameters is
/// the shell's variable of that name.
fn from_another_pid_namespace(node: &Node, script: &str) -> String {
    let send = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n\
        s.sendall(sys.argv[2].encode() + b'\\n')\nprint(s.makefile().readline())";
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "bash", "-c", script]);
    command.env("SEND", send).env("SOCKET", node.site.control());
    portsplice_tests::process::run(&mut command, None)
}

/// A caller in another pid namespace means its own processes, whatever has the same pid here.
#[test]
fn pids_are_the_callers() {
    if !privileged() {
        return;
    }
    let (own, other) = (Netns::new(), Netns::new());
    let origin = Origin::start(&own, "127.0.0.1:0", contract::serve);
    let victim = pause(&other);
    let mut node = NodeConfig::new().start();
    // The caller's process gets the very pid that a process of another container has here.
    let params = r#"'{"jsonrpc":"2.0","id":1,"method":"container.register","params":{"name":"mine","pid":'$pid'}}'"#;
    let script = format!(
        "echo {before} > /proc/sys/kernel/ns_last_pid; ip netns exec {netns} sleep 60 > /dev/null & pid=$!\n\
         [ $pid = {victim} ] || echo wrong pid $pid; sleep 0.5; python3 -c \"$SEND\" \"$SOCKET\" {params}\n\
         nsenter -t $pid --net readlink /proc/self/ns/net; sleep 0.1; kill $pid; wait",
        before = victim.pid() - 1,
        victim = victim.pid(),
        netns = own.path().file_name().expect("a name").to_string_lossy(),
    );
    let out = from_another_pid_namespace(&node, &script);
    let answer: Value = serde_json::from_str(out.lines().next().expect("an answer")).expect("JSON");
    assert_eq!(answer["result"]["container"]["netns"].as_str(), out.lines().rfind(|line| !line.is_empty()), "{out}");
    wait::until_true("the registration ends with its process", || status(&node, "mine", origin.port()) == 421);

    // Pids that there are here only mean nobody.
    let params = format!(
        r#"'{{"jsonrpc":"2.0","id":1,"method":"container.register","params":{{"name":"x","pid":{}}}}}'"#,
        victim.pid()
    );
    let out = from_another_pid_namespace(&node, &format!("python3 -c \"$SEND\" \"$SOCKET\" {params}"));
    assert!(out.contains("-32013") && out.contains("in your pid namespace"), "{out}");
    assert!(node.process().running());
}
