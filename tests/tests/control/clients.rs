//! Clients of every kind: broken, slow, many, and those who may not.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use portsplice_tests::control::Control;
use portsplice_tests::node::{Node, NodeConfig};
use portsplice_tests::process::try_run;
use portsplice_tests::{privileged, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The error's code in an answer to nobody knows what.
#[track_caller]
fn code(control: &mut Control) -> i64 {
    let answer = control.answer();
    assert_eq!(answer["id"], Value::Null, "{answer}");
    answer["error"]["code"].as_i64().expect("an error")
}

#[track_caller]
fn alive(control: &mut Control) {
    control.call("hello", json!({}));
}

/// What is no request is told so, and the connection goes on.
#[test]
fn garbage() {
    if !privileged() {
        return;
    }
    let node = NodeConfig::new().start();
    let mut control = node.control();
    for (line, expected) in [
        (&b"hello\n"[..], -32700),
        (b"\xff\xfe\n", -32700),
        (b"{\"jsonrpc\":\"2.0\",\"id\":1,\n", -32700),
        (b"[]\n", -32600),
        (b"[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\"}]\n", -32600),
        (b"{}\n", -32600),
        (b"42\n", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":\"hello\"}\n", -32600),
    ] {
        control.send(line);
        assert_eq!(code(&mut control), expected, "{line:?}");
    }
    // Blank lines say nothing, and neither does a notification.
    control.send(b"\n\r\n{\"jsonrpc\":\"2.0\",\"method\":\"hello\"}\n");
    alive(&mut control);
    // Half a line, and then the end.
    control.send(b"{\"jsonrpc\"");
    drop(control);
    // Byte by byte, with the other end of lines, and two on a packet.
    let mut control = node.control();
    for byte in b"{\"jsonrpc\":\"2.0\",\"id\":\"x\",\"method\":\"hello\"}\r\n" {
        control.send(&[*byte]);
    }
    assert_eq!(control.answer()["id"], json!("x"));
    let two =
        b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"stats\"}\n{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"hello\"}\n";
    control.send(two);
    assert_eq!([control.answer(), control.answer()].map(|answer| answer["id"].as_i64()), [Some(1), Some(2)]);
}

/// A line that is too long is answered while it still comes, costs no memory, and the next one is taken.
#[test]
fn lines_that_are_too_long() {
    if !privileged() {
        return;
    }
    let node = NodeConfig::new().start();
    let mut control = node.control();
    alive(&mut control);
    let before = node.status_kib("RssAnon");
    let part = vec![b'x'; 1 << 20];
    control.send(&part);
    control.send(b"yy");
    assert_eq!(code(&mut control), -32003);
    for _ in 0..64 {
        control.send(&part);
    }
    let grown = node.status_kib("RssAnon").saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB for a line that is dropped");
    control.send(b"\n");
    alive(&mut control);
    // As long as may be.
    let head = b"{\"jsonrpc\":\"2.0\",\"id\":5,\"method\":\"hello\",\"params\":{\"x\":\"";
    let mut line = head.to_vec();
    line.resize((1 << 20) - 3, b'x');
    line.extend(b"\"}}\n");
    control.send(&line);
    assert_eq!(control.answer()["error"]["code"], json!(-32602), "read, and found to have a parameter too many");
}

/// Hundreds of clients: as many as there may be are served, the others are told, and places are given back.
#[test]
fn hundreds_of_clients() {
    if !privileged() {
        return;
    }
    let node = NodeConfig::new().start();
    let mut served = Vec::new();
    let mut refused = 0;
    for _ in 0..300 {
        let mut control = node.control();
        let _ = control.try_send(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\"}\n");
        let answer = control.answer();
        if answer.get("error").is_some() {
            assert_eq!(answer["error"]["code"], json!(-32002));
            assert!(control.message().is_none(), "and nothing more");
            refused += 1;
        } else {
            served.push(control);
        }
    }
    assert_eq!((served.len(), refused), (128, 172));
    drop(served);
    wait::until_true("places are given back", || {
        let mut control = node.control();
        let _ = control.try_send(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\"}\n");
        control.answer().get("error").is_none()
    });
}

/// A client that subscribes and does not read loses events and is told how many; nobody waits for it.
#[test]
fn a_slow_subscriber() {
    if !privileged() {
        return;
    }
    let node = NodeConfig::new().start();
    let mut slow = node.control();
    slow.subscribe(&["connections"]);
    // Far more than the socket's buffers and the node's backlog of events hold together.
    for _ in 0..12_000 {
        drop(node.tcp(node.plain[0]));
    }
    let (mut told, mut lost) = (0_u64, 0);
    while told + lost < 24_000 {
        let notification = slow.notification();
        if notification["method"] == json!("lagged") {
            assert_eq!(notification["params"]["topics"], json!(["connections"]));
            lost += notification["params"]["lost"].as_u64().expect("a number");
        } else {
            told += 1;
        }
    }
    assert!(lost > 0 && told > 0, "{told} told, {lost} lost");
    assert_eq!(told + lost, 24_000, "an opening and an end each");
    alive(&mut slow);
}

/// One that asks and asks and never reads is cut off; others do not notice it.
#[test]
fn a_client_that_does_not_read() {
    if !privileged() {
        return;
    }
    let node = NodeConfig::new().start();
    let baseline = wait::until_steady("sockets", Duration::from_millis(100), || node.open_sockets());
    let deaf = UnixStream::connect(node.site.control()).expect("connected");
    deaf.set_nonblocking(true).expect("set");
    let mut asks = 0;
    // Until neither its answers nor its requests go anywhere.
    wait::until_steady("requests", Duration::from_millis(500), || {
        let request = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\"}\n";
        while std::io::Write::write(&mut &deaf, request).is_ok() {
            asks += 1;
        }
        asks
    });
    assert!(asks > 100, "{asks}");
    let mut control = node.control();
    alive(&mut control);
    drop(control);
    wait::until_true("the deaf one is cut off", || node.open_sockets() <= baseline);
}

/// The mode of the file, and who may connect whatever it says.
#[test]
fn who_may() {
    if !privileged() {
        return;
    }
    let node = NodeConfig::new().start();
    let path = node.site.control();
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);
    open_site(&node);
    let as_user = |groups: &[&str]| hello_as(&node, groups);
    let (code, text) = as_user(&["--clear-groups"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("become root"), "{text}");
    // The file lets everyone through; the credentials do not.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("set");
    let (code, text) = as_user(&["--clear-groups"]);
    assert!(code == 4 && text.contains("only root"), "{code} {text}");
}

/// A group: its members by their first group and by another, and nobody else.
#[test]
fn a_group_may() {
    if !privileged() {
        return;
    }
    let mut config = NodeConfig::new();
    // A group that every system has, and that this test's users are in only when it says so.
    config.set("control", "group", "\"games\"");
    let node = config.start();
    open_site(&node);
    let games = std::fs::metadata(node.site.control()).expect("there");
    assert_eq!(games.permissions().mode() & 0o777, 0o660);
    let gid = std::os::unix::fs::MetadataExt::gid(&games).to_string();
    assert_ne!(gid, "0");
    let (code, text) = hello_as(&node, &["--groups", &gid]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = hello_as(&node, &["--clear-groups", "--regid", &gid]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = hello_as(&node, &["--clear-groups"]);
    assert_eq!(code, 4, "{text}");
    std::fs::set_permissions(node.site.control(), std::fs::Permissions::from_mode(0o666)).expect("set");
    let (code, text) = hello_as(&node, &["--groups", "65534"]);
    assert!(code == 4 && text.contains(&format!("number {gid}")), "{code} {text}");
}

/// Lets other users get as far as the socket.
fn open_site(node: &Node) {
    let directory = node.site.path("");
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).expect("set");
}

/// `portsplice ps` as a user without privileges: its exit code, and what it said.
fn hello_as(node: &Node, groups: &[&str]) -> (i32, String) {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534"]);
    if !groups.contains(&"--regid") {
        command.args(["--regid", "65534"]);
    }
    command.args(groups).arg("--").arg("sh").args(["-c", "\"$@\"; echo code=$?", "sh"]);
    command.arg(portsplice_tests::node::binary()).args(["ps", "--socket"]).arg(node.site.control());
    let (_, out, err) = try_run(&mut command, None);
    let code = out.lines().find_map(|line| line.strip_prefix("code=")).and_then(|code| code.parse().ok());
    (code.unwrap_or(-1), format!("{out}{err}"))
}

/// Two daemons, one socket; a crash; an orderly end.
#[test]
fn one_daemon_a_socket() {
    if !privileged() {
        return;
    }
    let mut config = NodeConfig::new();
    let mut node = config.start();
    let (_, out, err) = try_run(&mut node.site.command(&config), None);
    assert!(err.contains("another daemon is using it") && err.contains("control.socket"), "{out}{err}");
    alive(&mut node.control());

    node.process().kill();
    assert!(node.site.control().exists(), "a crash leaves it");
    let mut again = portsplice_tests::process::Process::spawn("portsplice node", &mut node.site.command(&config), None);
    assert_eq!(again.line_with("control "), node.site.control().display().to_string());
    again.line_with("ready");
    alive(&mut node.control());
    again.signal(Signal::TERM);
    assert!(again.wait().success());
    assert!(!node.site.control().exists());
}

/// The daemon drains as on SIGTERM, after it has answered.
#[test]
fn drain() {
    if !privileged() {
        return;
    }
    let mut config = NodeConfig::new();
    config.set("", "drain-timeout", "\"20s\"");
    let mut node = config.start();
    let _idle = node.tcp(node.plain[0]);
    let mut control = node.control();
    wait::until_true("the connection is listed", || control.call("stats", json!({}))["connections"] == json!(1));
    assert_eq!(control.call("drain", json!({})), json!({ "connections": 1, "drain_timeout": 20 }));
    assert!(node.wait().success());
    assert!(control.message().is_none());
}
