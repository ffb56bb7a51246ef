//! The record API, byte by byte: what is written needs the right key, and once.

use portsplice_tests::client::{Conn, Proof, Response};
use portsplice_tests::privileged;
use portsplice_tests::records::records;
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cluster::{Cluster, until_uuids};

fn record(uuid: &str, node: &str) -> String {
    json!({ "uuid": uuid, "node": node, "address": "192.0.2.1:7450", "state": "running" }).to_string()
}

fn digest(body: &str) -> String {
    hex::encode(Sha256::digest(body))
}

fn put_target(uuid: &str, node: &str, body: &str) -> String {
    format!("/v1/records/{uuid}?node={node}&ttl=60&sha256={}", digest(body))
}

fn send(conn: &mut Conn, method: &str, target: &str, body: &str) {
    conn.send(method, target, &[&format!("Content-Length: {}", body.len())], body.as_bytes());
}

fn put(conn: &mut Conn, uuid: &str, node: &str, body: &str) -> Response {
    send(conn, "PUT", &put_target(uuid, node, body), body);
    conn.response()
}

fn alive(conn: &mut Conn, node: &str, running: &[&str]) -> Value {
    let body = json!({ "running": running }).to_string();
    send(conn, "POST", &format!("/v1/nodes/{node}/alive?ttl=60&sha256={}", digest(&body)), &body);
    let response = conn.response();
    assert_eq!(response.status(), 200, "{}", response.text());
    serde_json::from_str(&response.text()).expect("JSON")
}

/// Reports are written, read, kept by heartbeats, and removed by their own node only.
#[test]
fn reports_are_kept_for_their_node() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let mut edge = cluster.edge();
    for mut conn in [cluster.connect("a"), cluster.connect_tls("a")] {
        let response = put(&mut conn, "a", "n1", &record("a", "n1"));
        assert_eq!((response.status(), response.text().as_str()), (200, "{\"ttl\":60}"));
        send(&mut conn, "GET", "/v1/records/a", "");
        let read: Value = serde_json::from_str(&conn.response().text()).expect("JSON");
        assert_eq!(read["node"], "n1");
        send(&mut conn, "DELETE", "/v1/records/a?node=n2", "");
        assert_eq!(conn.response().status(), 204);
        assert_eq!(records(&cluster.store()).len(), 1, "it is not n2's");
        send(&mut conn, "DELETE", "/v1/records/a?node=n1", "");
        assert_eq!(conn.response().status(), 204);
        send(&mut conn, "GET", "/v1/records/a", "");
        assert_eq!(conn.response().status(), 404);
    }
    for (uuid, node) in [("a", "n1"), ("b", "n1"), ("c", "n2")] {
        put(&mut cluster.connect(uuid), uuid, node, &record(uuid, node));
    }
    let answer = alive(&mut cluster.connect_tls("@n1"), "n1", &["a", "c", "lost"]);
    assert_eq!(answer, json!({ "ttl": 60, "missing": ["lost"], "elsewhere": ["c"] }));
    until_uuids(&cluster.store(), &["a", "c"]);

    // What runs is finished, and the end is clean.
    let mut conn = cluster.connect("d");
    let body = record("d", "n1");
    let head = conn.head_for("PUT", &put_target("d", "n1", &body), &[&format!("Content-Length: {}", body.len())]);
    conn.write(&head);
    edge.process.signal(Signal::HUP);
    edge.process.signal(Signal::TERM);
    conn.write(body.as_bytes());
    assert_eq!(conn.response().status(), 200);
    assert!(edge.process.wait().success());
    until_uuids(&cluster.store(), &["a", "c", "d"]);
}

/// Who does not have the right key, or says something else than was signed, or says it twice, changes nothing.
#[test]
fn what_is_not_signed_for_changes_nothing() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let edge = cluster.edge();
    let body = record("a", "n1");
    let target = put_target("a", "n1", &body);
    let length = format!("Content-Length: {}", body.len());

    let mut stranger = cluster.connect("a");
    stranger.caller.as_mut().expect("a caller").root = "guessed".into();
    send(&mut stranger, "PUT", &target, &body);
    let response = stranger.response_with(Proof::Absent);
    assert_eq!(response.status(), 401, "{}", response.text());
    assert_eq!(response.head.get("connection"), Some("close"));

    // Signed by another container, for this one.
    let mut other = cluster.connect("b");
    send(&mut other, "PUT", &target, &body);
    assert_eq!(other.response_with(Proof::Absent).status(), 400);
    let mut head = String::from_utf8(other.head_for("PUT", &target, &[&length])).expect("text");
    head = head.replace("Gateway-Uuid: b", "Gateway-Uuid: a");
    other.write(format!("{head}{body}").as_bytes());
    assert_eq!(other.response_with(Proof::Absent).status(), 401);

    // A container's key is not the node's.
    let mut conn = cluster.connect("n1");
    let list = json!({ "running": [] }).to_string();
    send(&mut conn, "POST", &format!("/v1/nodes/n1/alive?ttl=60&sha256={}", digest(&list)), &list);
    assert_eq!(conn.response_with(Proof::Absent).status(), 400);

    // For a port of the container, and not for its record.
    let mut conn = cluster.connect("a");
    conn.caller.as_mut().expect("a caller").port = 1;
    send(&mut conn, "PUT", &target, &body);
    assert_eq!(conn.response_with(Proof::Absent).status(), 400);

    // Another body than the one that was signed for.
    let mut conn = cluster.connect("a");
    send(&mut conn, "PUT", &target, &body.replace("192", "198"));
    let response = conn.response();
    assert!(response.status() == 400 && response.text().contains("sha256"), "{}", response.text());

    // A credential for plain TCP is none for TLS, and the other way round.
    let (mut plain, mut tls) = (cluster.connect("a"), cluster.connect_tls("a"));
    let (for_plain, for_tls) = (plain.head_for("PUT", &target, &[&length]), tls.head_for("PUT", &target, &[&length]));
    plain.write(&[&for_tls, body.as_bytes()].concat());
    assert_eq!(plain.response_with(Proof::Absent).status(), 401);
    tls.write(&[&for_plain, body.as_bytes()].concat());
    assert_eq!(tls.response_with(Proof::Absent).status(), 401);
    assert!(records(&cluster.store()).is_empty());

    // The same request a second time.
    let mut conn = cluster.connect("a");
    let head = conn.head_for("PUT", &target, &[&length]);
    conn.write(&[&head, body.as_bytes()].concat());
    assert_eq!(conn.response().status(), 200);
    let mut again = cluster.connect("a");
    again.owe("PUT", None);
    again.write(&[&head, body.as_bytes()].concat());
    let response = again.response_with(Proof::Absent);
    assert!(response.status() == 401 && response.text().contains("used before"), "{}", response.text());
    drop(edge);
}

/// What makes no sense is refused with a line that says what to write.
#[test]
fn what_makes_no_sense_is_refused_with_advice() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let edge = cluster.edge();
    let good = record("a", "n1");
    for (body, expected) in [
        (record("b", "n1"), "The record is of \"b\""),
        (record("a", "n2"), "The record's node is \"n2\""),
        (good.replace("192.0.2.1:7450", "somewhere"), "write HOST:PORT"),
        (good.replace("running", "dancing"), "Invalid body"),
        (format!("{good}{good}"), "Invalid body"),
        (good.replacen('{', "{\"uuid\":\"a\",", 1), "duplicate field"),
        (good.replacen('{', "{\"published_ports\":{\"0\":{}},", 1), "port 0"),
        (good.replacen('{', "{\"published_ports\":{\"65536\":{}},", 1), "Invalid body"),
        (String::new(), "Invalid body"),
        ("\u{0}\u{1}".into(), "Invalid body"),
    ] {
        let response = put(&mut cluster.connect("a"), "a", "n1", &body);
        assert!(response.status() == 400 && response.text().contains(expected), "{body}: {}", response.text());
    }
    for (method, target, status) in [
        ("GET", "/", 404),
        ("GET", "/v1/records", 404),
        ("PATCH", "/v1/records/a", 405),
        ("PUT", "/v1/records/a", 400),
        ("GET", "/v1/records/a?all=1", 400),
        ("GET", "http://edge/v1/records/a", 400),
    ] {
        let mut conn = cluster.connect("a");
        send(&mut conn, method, target, "");
        assert_eq!(conn.response_with(Proof::Absent).status(), status, "{method} {target}");
    }
    let mut nobody = cluster.connect("a");
    nobody.caller = None;
    send(&mut nobody, "GET", "/v1/records/a", "");
    assert_eq!(nobody.response().status(), 401);

    let long = format!("{good}{}", " ".repeat(1024 * 1024));
    let mut conn = cluster.connect("a");
    let head = conn.head_for("PUT", &put_target("a", "n1", &long), &[&format!("Content-Length: {}", long.len())]);
    conn.write(&head);
    // It may answer before it has read all, and close then.
    let _ = std::io::Write::write_all(&mut conn, long.as_bytes());
    assert_eq!(conn.response().status(), 413);
    assert!(records(&cluster.store()).is_empty());
    drop(edge);
}

/// What one key holder has under way, others do not wait for, and who has too much under way is told to come again.
#[test]
fn slow_bodies_delay_nobody_else() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    // Longer than any wait here.
    let edge = cluster.edge_with(&["env", "PORTSPLICE_EDGE_LIMITS_BODY_TIMEOUT=10m"]);
    let slow = |identity: &str, from: [u8; 4]| {
        let mut conn = cluster.connect_from(from, identity);
        let body = " ".repeat(900 * 1024);
        let target = format!("/v1/nodes/{}/alive?ttl=60&sha256={}", &identity[1..], digest(&body));
        // The edge says when it begins to read, and so has a place for it.
        let fields = [&format!("Content-Length: {}", body.len()), "Expect: 100-continue"];
        let head = conn.head_for("POST", &target, &fields);
        conn.write(&head);
        conn
    };
    let held = |identity: &str| {
        let mut conn = slow(identity, [127, 0, 0, 1]);
        assert_eq!(conn.any_head().status(), 100);
        conn.write(&[b' '; 100_000]);
        conn
    };
    let refused = |mut conn: Conn| {
        let response = conn.response();
        assert_eq!(response.status(), 429, "{}", response.text());
        assert_eq!(response.head.get("retry-after"), Some("1"));
    };
    let mut waiting: Vec<Conn> = (0..4).map(|_| held("@n1")).collect();
    (0..80).for_each(|_| refused(slow("@n1", [127, 0, 0, 1])));
    let long: Vec<String> = (0..2000).map(|n| format!("container-{n}")).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    // Of the same address, with many keys.
    for key in 0..3 {
        waiting.extend((0..4).map(|_| held(&format!("@many{key}"))));
    }
    refused(slow("@more", [127, 0, 0, 1]));
    let mut other = cluster.connect_from([127, 0, 0, 2], "@n2");
    assert_eq!(alive(&mut other, "n2", &long)["missing"].as_array().map(Vec::len), Some(2000));
    let mut conn = cluster.connect_from([127, 0, 0, 2], "a");
    assert_eq!(put(&mut conn, "a", "n2", &record("a", "n2")).status(), 200);
    // Places come back.
    drop(waiting);
    portsplice_tests::wait::until_true("there is room again", || {
        let mut conn = cluster.connect("@n1");
        let body = json!({ "running": [] }).to_string();
        send(&mut conn, "POST", &format!("/v1/nodes/n1/alive?ttl=60&sha256={}", digest(&body)), &body);
        conn.response().status() == 200
    });
    drop(edge);
}

/// A report that was used on plain TCP is used up for the next edge as well.
#[test]
fn used_reports_outlive_the_edge() {
    if !privileged() {
        return;
    }
    let cluster = Cluster::new();
    let mut edge = cluster.edge();
    let body = record("a", "n1");
    let mut conn = cluster.connect("a");
    let head = conn.head_for("PUT", &put_target("a", "n1", &body), &[&format!("Content-Length: {}", body.len())]);
    conn.write(&[&head, body.as_bytes()].concat());
    assert_eq!(conn.response().status(), 200);
    edge.process.kill();
    drop(edge);
    let edge = cluster.edge();
    let mut again = cluster.connect("a");
    again.owe("PUT", None);
    again.write(&[&head, body.as_bytes()].concat());
    let response = again.response_with(Proof::Absent);
    assert!(response.status() == 401 && response.text().contains("used before"), "{}", response.text());
    assert_eq!(put(&mut cluster.connect("a"), "a", "n1", &body).status(), 200);
    drop(edge);
}
