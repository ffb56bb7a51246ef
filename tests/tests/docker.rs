//! Containers of a real Docker engine: found by name, id and label, reached in every network mode, gone when they are gone.

use portsplice_tests::client::{Conn, Proof};
use portsplice_tests::control::Control;
use portsplice_tests::docker::Engine;
use portsplice_tests::node::{Node, NodeConfig};
use portsplice_tests::records::until;
use portsplice_tests::{pattern, privileged, wait};
use serde_json::json;

/// A daemon beside an engine, on the engine's "host".
fn node(engine: &Engine, adjust: impl FnOnce(&mut NodeConfig)) -> Node {
    let mut config = NodeConfig::new();
    config.inside(&engine.host).set("containers", "docker", &format!("{:?}", engine.socket()));
    adjust(&mut config);
    config.start()
}

/// A busybox server on an address that answers GET /hello with a text.
fn server(listen: &str, text: &str) -> String {
    format!("mkdir -p /www && echo {text} > /www/hello && exec httpd -f -p {listen} -h /www")
}

#[track_caller]
fn status(node: &Node, name: &str, port: u16) -> u16 {
    let mut conn = node.connect(name, port);
    conn.send("GET", "/hello", &[], b"");
    conn.response().status()
}

/// Waits until a container's server answers, and gives its text.
#[track_caller]
fn hello(node: &Node, name: &str, port: u16) -> String {
    wait::until(&format!("{name} answers"), || {
        let mut conn = node.connect(name, port);
        conn.send("GET", "/hello", &[], b"");
        let response = conn.response();
        (response.status() == 200).then(|| response.text().trim().to_owned())
    })
}

/// By name, id, id's beginning and labels; on a bridge, without any network, listening on 127.0.0.1 only.
#[test]
fn names_and_networks() {
    if !privileged() {
        return;
    }
    let engine = Engine::start();
    let node = node(&engine, |_| ());
    let bridged = engine.container(&["--label", "portsplice.uuid=given-by-label"], &server("8000", "bridged"));
    assert_eq!(hello(&node, &bridged, 8000), "bridged");
    assert_eq!(hello(&node, "given-by-label", 8000), "bridged");
    let id = engine.inspect(&bridged, "{{.Id}}");
    assert_eq!(hello(&node, &id, 8000), "bridged");
    assert_eq!(hello(&node, &id[..12], 8000), "bridged");
    assert_eq!(status(&node, &id[..11], 8000), 421, "too short to be an id");

    let uuid = "zzzzz-dz642-fromdocker00000";
    let label = format!("org.arvados.container-uuid={uuid}");
    let lonely = engine.container(&["--network", "none", "--label", &label], &server("127.0.0.1:8000", "lonely"));
    assert_eq!(hello(&node, &lonely, 8000), "lonely");
    assert_eq!(hello(&node, uuid, 8000), "lonely");

    // The address on the bridge only.
    let addressed = engine.container(
        &[],
        "mkdir -p /www && echo addressed > /www/hello && exec httpd -f -p $(cat /etc/hosts | tail -n 1 | { read ip _; echo $ip; }):8000 -h /www",
    );
    assert_eq!(hello(&node, &addressed, 8000), "addressed");

    // Another's network namespace, as side-cars have it.
    let beside = engine.container(&["--network", &format!("container:{lonely}")], &server("127.0.0.1:8001", "beside"));
    assert_eq!(hello(&node, &beside, 8001), "beside");
    assert_eq!(status(&node, "nobody", 8000), 421);
    assert_eq!(status(&node, &bridged, 8009), 502);
}

/// What labels forbid is forbidden.
#[test]
fn labels_that_forbid() {
    if !privileged() {
        return;
    }
    let engine = Engine::start();
    let node = node(&engine, |_| ());
    let script = server("8000", "policy");
    let denied = engine.container(&["--label", "portsplice.deny=true"], &script);
    assert_eq!(node.until_status(&denied, 8000, |s| s != 502), 403);
    let ports = engine.container(&["--label", "portsplice.ports=7999,8000"], &script);
    assert_eq!(hello(&node, &ports, 8000), "policy");
    assert_eq!(status(&node, &ports, 8001), 403);
    let capped = engine.container(&["--label", "portsplice.max-connections=1"], &script);
    assert_eq!(hello(&node, &capped, 8000), "policy");
    let mut held = wait::until("the only connection is free", || {
        let mut conn = node.connect(&capped, 8000);
        conn.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
        (conn.response().status() == 101).then_some(conn)
    });
    let mut other = node.connect(&capped, 8000);
    other.send("GET", "/hello", &[], b"");
    let response = other.response();
    assert_eq!(response.status(), 503);
    assert!(response.head.get("retry-after").is_some());
    held.half_close();
    // A label that cannot be understood must not be taken for leave to do as one likes.
    let broken = engine.container(&["--label", "portsplice.ports=eighty"], &script);
    assert!(matches!(node.until_status(&broken, 8000, |s| s != 502), 403 | 421));
}

/// Host network: closed, unless the configuration opens it.
#[test]
fn host_network() {
    if !privileged() {
        return;
    }
    let engine = Engine::start();
    let hosted = engine.container(&["--network", "host"], &server("127.0.0.1:8000", "hosted"));
    let closed = node(&engine, |_| ());
    assert_eq!(closed.until_status(&hosted, 8000, |s| s != 502), 403);
    drop(closed);
    let open = node(&engine, |config| {
        config.set("containers", "allow-host-network", "true");
    });
    assert_eq!(hello(&open, &hosted, 8000), "hosted");
}

/// Stop, start, restart, kill, remove: seen at once, on kept-alive connections too.
#[test]
fn comings_and_goings() {
    if !privileged() {
        return;
    }
    let engine = Engine::start();
    let node = node(&engine, |_| ());
    let name = engine.container(&[], &server("8000", "here"));
    assert_eq!(hello(&node, &name, 8000), "here");
    for (down, up) in
        [(&["stop", "--time", "0"][..], "start"), (&["kill"][..], "start"), (&["restart", "--time", "0"][..], "")]
    {
        let mut kept = node.connect(&name, 8000);
        assert_eq!(kept.get("/hello").text().trim(), "here");
        let pid = engine.inspect(&name, "{{.State.Pid}}");
        engine.docker(&[down, &[&name]].concat());
        if !up.is_empty() {
            assert_eq!(kept.get("/hello").status(), 421, "{down:?}: the engine has said so already");
            engine.docker(&[up, &name]);
        }
        assert_ne!(engine.inspect(&name, "{{.State.Pid}}"), pid);
        // The same connection serves the new one.
        wait::until_true("the restarted container answers", || {
            let response = kept.get("/hello");
            match response.status() {
                200 => true,
                // Its server may not listen yet.
                status => {
                    assert!(matches!(status, 421 | 502), "{response:?}");
                    false
                }
            }
        });
    }
    // A transfer that runs is reset when its container is killed.
    let mut running = node.connect(&name, 8000);
    running.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
    let (_, head, _) = running.final_head(Proof::Owed);
    assert_eq!(head.status(), 101);
    engine.docker(&["rm", "--force", &name]);
    running.end();
    assert_eq!(status(&node, &name, 8000), 421);
    // Its name may be given to another.
    engine.docker(&[
        "run",
        "--detach",
        "--name",
        &name,
        portsplice_tests::docker::IMAGE,
        "/bin/sh",
        "-c",
        &server("8000", "heir"),
    ]);
    assert_eq!(hello(&node, &name, 8000), "heir");
}

/// The engine goes and comes back: what runs goes on, what it knew still works, what changed meanwhile is learnt.
#[test]
fn the_engine_goes_and_comes_back() {
    if !privileged() {
        return;
    }
    let mut engine = Engine::start();
    let node = node(&engine, |_| ());
    // A server of raw TCP that echoes, so that a tunnel can be kept busy.
    let name = engine.container(&[], "while true; do nc -l -p 9000 -e cat; done");
    let web = engine.container(&[], &server("8000", "web"));
    assert_eq!(hello(&node, &web, 8000), "web");
    let mut tunnel = wait::until("a tunnel", || {
        let mut conn = node.connect(&name, 9000);
        conn.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
        (conn.response().status() == 101).then_some(conn)
    });
    let mut at = 0;
    let mut echo = |conn: &mut Conn| {
        let bytes = pattern::slice(at, 50_000);
        conn.write(bytes);
        let mut back = vec![0; bytes.len()];
        std::io::Read::read_exact(conn, &mut back).expect("the echo");
        assert!(back == bytes);
        at += bytes.len() as u64;
    };
    for kill in [false, true] {
        echo(&mut tunnel);
        if kill {
            engine.kill();
        } else {
            engine.stop();
        }
        echo(&mut tunnel);
        assert_eq!(node.connect(&web, 8000).get("/hello").text().trim(), "web", "what is known still works");
        let unknown = status(&node, "never-heard-of", 8000);
        assert!(matches!(unknown, 421 | 503), "{unknown}");
        engine.run_again();
        echo(&mut tunnel);
        // It is listened to again.
        let newcomer = engine.container(&[], &server("8000", "newcomer"));
        assert_eq!(hello(&node, &newcomer, 8000), "newcomer");
        engine.docker(&["rm", "--force", &newcomer]);
        wait::until_true("the newcomer's end is learnt", || status(&node, &newcomer, 8000) == 421);
    }
    assert_eq!(node.admin_get("/healthz").0.status(), 200);
}

/// The whole for one container: its port is found when its server comes up, a request waits for it, the record says so; and
/// when engine and daemon are killed in the middle, all of it is right again.
#[test]
fn ports_and_records_follow_the_container() {
    if !privileged() {
        return;
    }
    let mut engine = Engine::start();
    let store = tempfile::tempdir().unwrap();
    let store = store.path().join("registry.db");
    let mut config = NodeConfig::new();
    config.inside(&engine.host).set("containers", "docker", &format!("{:?}", engine.socket()));
    config
        .set("containers", "wait-for-port", "\"20s\"")
        .set("bpf", "mode", "\"required\"")
        .set("ports", "rescan", "\"24h\"");
    config.set("registry", "store", "\"embedded\"").set("registry", "path", &format!("{store:?}"));
    let mut node = config.start();
    let mut control = Control::connect(&node.site.control());
    control.subscribe(&["containers", "ports"]);

    let labels = ["uuid=job-1", "request=request-1", "service=true", "ports=8000", "publish.8888=public"];
    let labels: Vec<String> = labels.iter().map(|label| format!("--label=portsplice.{label}")).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    // The server comes when a file does.
    let script = format!("while ! [ -e /go ]; do sleep 0.05; done; {}", server("127.0.0.1:8000", "late"));
    let name = engine.container(&labels, &script);
    let record = until(&store, "the record", |records| records.contains_key("job-1")).remove("job-1").unwrap();
    assert_eq!((&record["listening"], &record["service"]), (&json!([]), &json!(true)));
    assert_eq!(record["container_request_uuid"], "request-1");
    assert_eq!(record["published_ports"]["8888"]["access"], "public");

    let mut held = node.connect("job-1", 8000);
    held.send("GET", "/hello", &[], b"");
    engine.docker(&["exec", &name, "/bin/sh", "-c", ": > /go"]);
    assert_eq!(held.response().text().trim(), "late", "the request waited for its server");
    let opened = control.event_that("news of the port", |event| event["port"]["port"] == 8000);
    let listing = |node: &Node| Control::connect(&node.site.control()).call("ports.list", json!({}))["ports"].take();
    assert_eq!(listing(&node)[0]["process"], "httpd", "{opened}");
    let listens = |records: &std::collections::BTreeMap<_, serde_json::Value>| {
        records.get("job-1").is_some_and(|record: &serde_json::Value| {
            record["listening"][0]["port"] == 8000 && record["accepted_any_connection"] == true
        })
    };
    until(&store, "the port in the record", listens);
    assert_eq!(status(&node, "job-1", 8001), 403, "what is not allowed is not asked for");

    // Both are killed; the container goes on, and another one comes meanwhile.
    engine.kill();
    node.process().kill();
    engine.run_again();
    let newcomer = engine.container(&["--label=portsplice.uuid=job-2"], &server("8000", "newcomer"));
    let node = config.start();
    assert_eq!(hello(&node, "job-1", 8000), "late");
    assert_eq!(hello(&node, &newcomer, 8000), "newcomer");
    until(&store, "both records", |records| records.len() == 2 && records["job-2"]["listening"][0]["port"] == 8000);
    assert_eq!(listing(&node).as_array().map(Vec::len), Some(2));
    engine.docker(&["rm", "--force", &name]);
    until(&store, "the record gone", |records| records.keys().eq(["job-2"]));
}

/// `docker pause` in the middle of an answer, before a request, and before the daemon starts: bytes wait, and come when it is over;
/// where a request may not wait that long, the gateway error says why.
#[test]
fn paused_containers() {
    if !privileged() {
        return;
    }
    const LINES: usize = 1 << 20;
    let engine = Engine::start();
    let patient = node(&engine, |_| ());
    let grow = "echo 0123456789abcde > a; i=0; while [ $i -lt 20 ]; do cat a a > b; cat b > a; i=$((i+1)); done";
    let script = format!("mkdir -p /www && cd /www && {grow}; {}", server("127.0.0.1:8000", "here"));
    let name = engine.container(&["--network", "none"], &script);
    assert_eq!(hello(&patient, &name, 8000), "here");

    let mut conn = patient.connect(&name, 8000);
    conn.send("GET", "/a", &[], b"");
    let (_, _, framing) = conn.final_head(Proof::Owed);
    let (mut got, mut pauses) = (Vec::new(), 0);
    let whole = conn.body_into(framing, &mut |part| {
        got.extend_from_slice(part);
        if pauses == 0 || pauses == 1 && got.len() > LINES * 8 {
            pauses += 1;
            engine.docker(&["pause", &name]);
            std::thread::sleep(std::time::Duration::from_millis(500));
            engine.docker(&["unpause", &name]);
        }
    });
    assert!(whole.is_ok() && got == b"0123456789abcde\n".repeat(LINES), "{whole:?}: {} bytes", got.len());

    engine.docker(&["pause", &name]);
    // One that starts now finds it, and its port.
    let hasty = node(&engine, |config| {
        config.set("limits", "response-header-timeout", "\"1s\"");
    });
    let refused = |node: &Node| {
        let mut conn = node.connect(&name, 8000);
        conn.send("GET", "/hello", &[], b"");
        let response = conn.response();
        (response.status(), response.text().contains("is paused"))
    };
    assert_eq!(refused(&hasty), (504, true));
    let ports = Control::connect(&hasty.site.control()).call("ports.list", json!({}))["ports"].take();
    assert_eq!(ports[0]["port"], 8000, "{ports}");
    let mut waiting = patient.connect(&name, 8000);
    waiting.send("GET", "/hello", &[], b"");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(waiting.is_quiet());
    engine.docker(&["unpause", &name]);
    assert_eq!(waiting.response().text().trim(), "here");
    assert_eq!(hello(&hasty, &name, 8000), "here");
    assert_eq!(hello(&patient, &name, 8000), "here");
}

/// The daemon starts before the engine does, and finds it when it comes.
#[test]
fn the_engine_comes_later() {
    if !privileged() {
        return;
    }
    let mut engine = Engine::start();
    let name = engine.container(&[], &server("8000", "early"));
    engine.stop();
    let node = node(&engine, |_| ());
    let unknown = status(&node, &name, 8000);
    assert!(matches!(unknown, 421 | 503), "{unknown}");
    engine.run_again();
    assert_eq!(hello(&node, &name, 8000), "early");
}

/// HTTPS inside the container, where a label says so.
#[test]
fn https_in_the_container() {
    if !privileged() {
        return;
    }
    let engine = Engine::start();
    let node = node(&engine, |_| ());
    let dir = tempfile::tempdir().expect("a directory");
    let (key, certificate) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
    portsplice_tests::certificate::make("localhost", &certificate, &key);
    let name = engine.container(&["--network", "none", "--label", "portsplice.scheme.8443=https"], "sleep 10000");
    let pid: u32 = engine.inspect(&name, "{{.State.Pid}}").parse().expect("a pid");
    // The server itself is Debian's, since busybox has none: started inside the container's namespace.
    let mut server = std::process::Command::new("nsenter");
    server.arg(format!("--net=/proc/{pid}/ns/net")).args([
        "openssl",
        "s_server",
        "-accept",
        "127.0.0.1:8443",
        "-www",
        "-quiet",
    ]);
    let _server = portsplice_tests::process::Process::spawn(
        "openssl",
        server.arg("-key").arg(&key).arg("-cert").arg(&certificate),
        None,
    );
    assert_eq!(node.until_status(&name, 8443, |s| s != 502), 200);
    let mut conn = node.connect(&name, 8443);
    let page = conn.get("/").text();
    assert!(page.contains("s_server"), "{page}");
}
