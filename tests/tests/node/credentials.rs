//! Who may pass: the three credentials, each request anew, and the gateway's own proof.

use portsplice_tests::client::{Caller, Conn, End, Proof, Version};
use portsplice_tests::node::{ListenOn, Node, NodeConfig};
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::sign::{self, Call, Channel, Scheme};
use portsplice_tests::{net::Netns, pattern, privileged, wait};

const HOST: &str = "Host: container.test\r\n";

fn listeners(tls: &[&'static str], plain: &[&'static str]) -> Vec<ListenOn> {
    let listen = |tls, credentials: &[&'static str]| ListenOn {
        address: "127.0.0.1:0".to_owned(),
        tls,
        credentials: credentials.to_vec(),
    };
    vec![listen(false, plain), listen(true, tls)]
}

/// A daemon that accepts every scheme, with a server behind it.
fn all_schemes() -> (Rig, Origin) {
    let rig = Rig::with(Path::Tls, |config| {
        config.listen(listeners(&["bound", "certificate", "timestamp"], &["bound", "timestamp"]));
    });
    let origin = rig.serve(contract::serve);
    (rig, origin)
}

/// Sends a GET with these credential lines and expects the status; 401 without proof, and the connection ends.
#[track_caller]
fn expect(conn: &mut Conn, what: &str, lines: &str, status: u16, answer: Option<String>) {
    conn.owe("GET", answer);
    conn.write(format!("GET /bytes/5 HTTP/1.1\r\n{HOST}{lines}\r\n").as_bytes());
    let response = conn.response_with(if status == 200 { Proof::Owed } else { Proof::Absent });
    assert_eq!(response.status(), status, "{what}: {}", response.text());
    if status == 200 {
        assert_eq!(response.body, pattern::bytes(5), "{what}");
    } else {
        assert!(response.head.lists("connection", "close"), "{what}");
        let _: End = conn.end();
    }
}

fn connect(rig: &Rig, tls: Option<Version>, scheme: Scheme, port: u16) -> Conn {
    let node = rig.node();
    let caller = node.caller(scheme, &rig.name, port);
    match tls {
        Some(version) => Conn::tls(node.tcp(node.tls[0]), version, Some(caller)),
        None => Conn::plain(node.tcp(node.plain[0]), Some(caller)),
    }
}

fn caller(conn: &Conn) -> Caller {
    conn.caller.clone().expect("signed")
}

/// Every scheme over every channel that can carry it, several requests on one connection each.
#[test]
fn every_scheme_is_accepted() {
    if !privileged() {
        return;
    }
    let (rig, origin) = all_schemes();
    for (tls, scheme) in [
        (None, Scheme::Bound),
        (None, Scheme::Timestamp),
        (Some(Version::Tls13), Scheme::Bound),
        (Some(Version::Tls13), Scheme::Certificate),
        (Some(Version::Tls13), Scheme::Timestamp),
        (Some(Version::Tls12), Scheme::Bound),
        (Some(Version::Tls12), Scheme::Certificate),
        (Some(Version::Tls12), Scheme::Timestamp),
    ] {
        let mut conn = connect(&rig, tls, scheme, origin.port());
        for _ in 0..3 {
            conn.send("GET", "/bytes/5", &[], b"");
            // The published `timestamp` form has no answer of the gateway's.
            let proof = if scheme == Scheme::Timestamp { Proof::Absent } else { Proof::Owed };
            let response = conn.response_with(proof);
            assert_eq!(response.status(), 200, "{tls:?} {scheme:?}: {}", response.text());
            assert_eq!(response.body, pattern::bytes(5));
        }
    }
}

/// The certificate's MAC: under the right key, over the certificate that this very connection presented.
#[test]
fn certificate_is_checked() {
    if !privileged() {
        return;
    }
    let (rig, origin) = all_schemes();
    let open = || connect(&rig, Some(Version::Tls13), Scheme::Certificate, origin.port());
    let conn = open();
    let caller = caller(&conn);
    let certificate = conn.channel().certificate.clone().expect("TLS has one");
    let mut altered = certificate.clone();
    *altered.last_mut().expect("not empty") ^= 1;
    let other_key = sign::container_key(&caller.root, "zzzzz-dz642-someoneelse0000");
    let good = sign::certificate(&caller.key(), &certificate).value;
    for (what, value) in [
        ("another certificate", sign::certificate(&caller.key(), &altered).value),
        ("another container's key", sign::certificate(&other_key, &certificate).value),
        ("the root secret as key", sign::certificate(&caller.root, &certificate).value),
        ("cut short", good[..63].to_owned()),
        ("too long", format!("{good}0")),
        ("not hex", "x".repeat(64)),
        ("a word", "Bearer".to_owned()),
    ] {
        expect(&mut open(), what, &caller.lines(&value), 401, None);
    }
    // The credential of this scheme does not name the port: it may be used again, as controllers do.
    let answer = sign::certificate(&caller.key(), &certificate).answer;
    expect(&mut open(), "good", &caller.lines(&good), 200, answer);
}

/// `timestamp`: fresh, once, under the root secret.
#[test]
fn timestamp_is_checked() {
    if !privileged() {
        return;
    }
    let (rig, origin) = all_schemes();
    let open = || connect(&rig, None, Scheme::Timestamp, origin.port());
    let caller = caller(&open());
    let now = sign::now();
    let value = |nonce: &str, unix| sign::timestamp(&caller.root, nonce, unix).value;
    let good = value(&sign::nonce(), now);
    expect(&mut open(), "good", &caller.lines(&good), 200, None);
    for (what, value) in [
        ("replayed", good.clone()),
        ("stale", value(&sign::nonce(), now - 70)),
        ("from the future", value(&sign::nonce(), now + 70)),
        ("under the container's key", sign::timestamp(&caller.key(), &sign::nonce(), now).value),
        ("a short nonce", value("abc", now)),
        ("no MAC", good.split(' ').next().expect("a message").to_owned()),
        ("a MAC cut short", value(&sign::nonce(), now).trim_end_matches(|c: char| c.is_ascii_hexdigit()).to_owned()),
        ("time that is no number", value(&sign::nonce(), now).replacen('+', "+x", 1)),
    ] {
        expect(&mut open(), what, &caller.lines(&value), 401, None);
    }
}

/// `bound`: all that the MAC covers is covered.
#[test]
fn bound_is_checked() {
    if !privileged() {
        return;
    }
    let (rig, origin) = all_schemes();
    for tls in [None, Some(Version::Tls13), Some(Version::Tls12)] {
        let open = || connect(&rig, tls, Scheme::Bound, origin.port());
        let first = open();
        let who = caller(&first);
        let key = who.key();
        let port = who.port.to_string();
        let now = sign::now();
        let call = Call { uuid: &who.uuid, port: &port, method: "GET", target: "/bytes/5" };
        let make = |channel: &Channel, call: &Call, unix| sign::bound(&key, call, channel, &sign::nonce(), unix).value;
        let other_channel = match tls {
            Some(_) => Channel::default(),
            None => Channel { certificate: None, exporter: Some([7; 32]) },
        };
        let another_connection = first.channel().clone();
        type Made<'a> = Box<dyn Fn(&Channel) -> String + 'a>;
        let wrong: Vec<(&str, Made)> = vec![
            ("another method", Box::new(|c| make(c, &Call { method: "POST", ..call.clone() }, now))),
            ("another target", Box::new(|c| make(c, &Call { target: "/bytes/6", ..call.clone() }, now))),
            ("another port", Box::new(|c| make(c, &Call { port: "1", ..call.clone() }, now))),
            (
                "another container",
                Box::new(|c| make(c, &Call { uuid: "zzzzz-dz642-someoneelse0000", ..call.clone() }, now)),
            ),
            ("another channel", Box::new(|_| make(&other_channel, &call, now))),
            ("stale", Box::new(|c| make(c, &call, now - 70))),
            ("from the future", Box::new(|c| make(c, &call, now + 70))),
            ("another key", Box::new(|c| sign::bound("00", &call, c, &sign::nonce(), now).value)),
            ("a short nonce", Box::new(|c| sign::bound(&key, &call, c, "abc", now).value)),
            ("another version", Box::new(|c| make(c, &call, now).replacen("v1", "v2", 1))),
            (
                "an altered time",
                Box::new(|c| make(c, &call, now).replacen(&format!("t={now}"), &format!("t={}", now - 1), 1)),
            ),
            (
                "an altered MAC",
                Box::new(|c| {
                    let good = make(c, &call, now);
                    let last = if good.ends_with('0') { "1" } else { "0" };
                    format!("{}{last}", &good[..good.len() - 1])
                }),
            ),
            ("no MAC", Box::new(|c| make(c, &call, now).split(",s=").next().expect("a part").to_owned())),
            ("nothing but its name", Box::new(|_| "v1".to_owned())),
        ];
        for (what, value) in wrong {
            let mut conn = open();
            let value = value(conn.channel());
            expect(&mut conn, &format!("{tls:?}: {what}"), &who.lines(&value), 401, None);
        }
        // Replayed on the same connection and, over TLS, on another (where the channel alone forbids it).
        let mut conn = open();
        let good = sign::bound(&key, &call, conn.channel(), &sign::nonce(), now);
        expect(&mut conn, "good", &who.lines(&good.value), 200, good.answer);
        expect(&mut conn, "replayed", &who.lines(&good.value), 401, None);
        expect(&mut open(), "replayed elsewhere", &who.lines(&good.value), 401, None);
        if tls.is_some() {
            let stolen = make(&another_connection, &call, now);
            expect(&mut open(), "made for another connection", &who.lines(&stolen), 401, None);
        }
    }
}

/// A credential that was used is used up for the next daemon as well, however the one before it ended; those that were not
/// hold, also if they were signed before it started.
#[test]
fn used_credentials_outlive_the_daemon() {
    if !privileged() {
        return;
    }
    let kept = tempfile::tempdir().expect("a directory");
    let file = kept.path().join("used");
    let mut rig = Rig::with(Path::Splice, |config| {
        config.listen(listeners(&["bound", "timestamp"], &["bound", "timestamp"]));
        config.set("auth", "used-file", &format!("{file:?}"));
    });
    let origin = rig.serve(contract::serve);
    let mut used = Vec::new();
    for _ in 0..3 {
        for (tls, scheme) in
            [(None, Scheme::Bound), (None, Scheme::Timestamp), (Some(Version::Tls13), Scheme::Timestamp)]
        {
            let mut conn = connect(&rig, tls, scheme, origin.port());
            let who = caller(&conn);
            let good = who.credential("GET", "/bytes/5", conn.channel());
            let lines = who.lines(&good.value);
            expect(&mut conn, "good", &lines, 200, good.answer);
            used.push((tls, scheme, lines));
            for (tls, scheme, lines) in &used {
                expect(&mut connect(&rig, *tls, *scheme, origin.port()), "replayed", lines, 401, None);
            }
        }
        // Signed by somebody whose clock is behind, or whose connection has waited for the next daemon.
        let conn = connect(&rig, None, Scheme::Bound, origin.port());
        let who = caller(&conn);
        let port = who.port.to_string();
        let call = Call { uuid: &who.uuid, port: &port, method: "GET", target: "/bytes/5" };
        let early = sign::bound(&who.key(), &call, conn.channel(), &sign::nonce(), sign::now() - 1);
        rig.restart();
        let mut conn = connect(&rig, None, Scheme::Bound, origin.port());
        expect(&mut conn, "not used yet", &who.lines(&early.value), 200, early.answer);
    }
}

/// Where it cannot be known which were used, those that were signed before the start are refused, and told why. Over TLS
/// `bound` credentials hold on their own connection only.
#[test]
fn credentials_from_before_the_start() {
    if !privileged() {
        return;
    }
    for (what, file, always) in
        [("no file", "", "false"), ("a file that cannot be", "/proc/used", "false"), ("always", "used", "true")]
    {
        let kept = tempfile::tempdir().expect("a directory");
        let file = if file == "used" { kept.path().join(file) } else { file.into() };
        let mut rig = Rig::with(Path::Splice, |config| {
            config.set("auth", "used-file", &format!("{file:?}")).set("auth", "only-since-start", always);
        });
        let origin = rig.serve(contract::serve);
        let until_accepted = |rig: &Rig| {
            wait::until("a credential of after the start", || {
                let mut conn = connect(rig, None, Scheme::Bound, origin.port());
                let who = caller(&conn);
                let lines = who.lines(&who.credential("GET", "/bytes/5", conn.channel()).value);
                conn.owe("GET", None);
                conn.write(format!("GET /bytes/5 HTTP/1.1\r\n{HOST}{lines}\r\n").as_bytes());
                (conn.any_head().status() == 200).then_some(lines)
            })
        };
        let used = until_accepted(&rig);
        rig.restart();
        let mut conn = connect(&rig, None, Scheme::Bound, origin.port());
        conn.owe("GET", None);
        conn.write(format!("GET /bytes/5 HTTP/1.1\r\n{HOST}{used}\r\n").as_bytes());
        let response = conn.response_with(Proof::Absent);
        assert_eq!(response.status(), 401, "{what}");
        assert!(response.text().contains("signed before the gateway started"), "{what}: {}", response.text());
        let reason = "reason=\"credential_before_start\"";
        assert!(rig.node().metric("portsplice_refusals_total", &[reason]) >= 1.0, "{what}");
        let mut tls = connect(&rig, Some(Version::Tls13), Scheme::Bound, origin.port());
        let who = caller(&tls);
        let port = who.port.to_string();
        let call = Call { uuid: &who.uuid, port: &port, method: "GET", target: "/bytes/5" };
        let early = sign::bound(&who.key(), &call, tls.channel(), &sign::nonce(), sign::now() - 30);
        expect(&mut tls, what, &who.lines(&early.value), 200, early.answer);
        until_accepted(&rig);
    }
}

/// A refused credential's nonce is not remembered: someone who cannot sign cannot burn the nonces of those who can.
#[test]
fn bad_credentials_do_not_burn_nonces() {
    if !privileged() {
        return;
    }
    let (rig, origin) = all_schemes();
    let mut conn = connect(&rig, None, Scheme::Bound, origin.port());
    let who = caller(&conn);
    let port = who.port.to_string();
    let call = Call { uuid: &who.uuid, port: &port, method: "GET", target: "/bytes/5" };
    let nonce = sign::nonce();
    let bad = sign::bound("00", &call, conn.channel(), &nonce, sign::now());
    expect(&mut conn, "bad", &who.lines(&bad.value), 401, None);
    let mut conn = connect(&rig, None, Scheme::Bound, origin.port());
    let good = sign::bound(&who.key(), &call, conn.channel(), &nonce, sign::now());
    expect(&mut conn, "good", &who.lines(&good.value), 200, good.answer);
}

/// Exactly one of each header, none empty; never a guess.
#[test]
fn one_of_each_header() {
    if !privileged() {
        return;
    }
    let (rig, origin) = all_schemes();
    let open = || connect(&rig, Some(Version::Tls13), Scheme::Certificate, origin.port());
    let first = open();
    let who = caller(&first);
    let good = who.lines(&who.credential("GET", "/bytes/5", first.channel()).value);
    let lines: Vec<&str> = good.split_inclusive("\r\n").collect();
    let port = format!("X-Arvados-Container-Target-Port: {}\r\n", who.port);
    let ill_formed = [
        ("no uuid", good.replacen(lines[0], "", 1)),
        ("no port", good.replacen(lines[1], "", 1)),
        ("no credential", good.replacen(lines[2], "", 1)),
        ("nothing", String::new()),
        ("two uuids", format!("{}{good}", lines[0])),
        ("two ports", format!("{}{good}", lines[1])),
        ("two credentials", format!("{}{good}", lines[2])),
        ("an empty uuid", good.replacen(lines[0], "X-Arvados-Container-Gateway-Uuid:\r\n", 1)),
        ("an empty credential", good.replacen(lines[2], "X-Arvados-Authorization:\r\n", 1)),
        ("port 0", good.replacen(&port, "X-Arvados-Container-Target-Port: 0\r\n", 1)),
        ("port 65536", good.replacen(&port, "X-Arvados-Container-Target-Port: 65536\r\n", 1)),
        ("a port with a sign", good.replacen(&port, &port.replace(": ", ": +"), 1)),
        ("a port that is a word", good.replacen(&port, "X-Arvados-Container-Target-Port: http\r\n", 1)),
        (
            "a list of ports",
            good.replacen(&port, &format!("X-Arvados-Container-Target-Port: {0}, {0}\r\n", who.port), 1),
        ),
        ("a path as uuid", good.replacen(&who.uuid, "../../etc/passwd", 1)),
        ("in underscores", good.replace("X-Arvados-", "X_Arvados_")),
    ];
    for (what, lines) in ill_formed {
        let mut conn = open();
        conn.owe("GET", None);
        conn.write(format!("GET /bytes/5 HTTP/1.1\r\n{HOST}{lines}\r\n").as_bytes());
        let response = conn.response_with(Proof::Absent);
        assert!(matches!(response.status(), 400 | 401), "{what}: {response:?}");
        assert!(response.head.lists("connection", "close"), "{what}");
    }
    assert_eq!(origin.accepted(), 0);
}

/// What a listener is not configured to accept it does not accept, however good.
#[test]
fn only_configured_schemes() {
    if !privileged() {
        return;
    }
    let rig = Rig::with(Path::Tls, |config| {
        config.listen(listeners(&["certificate"], &["bound"]));
    });
    let origin = rig.serve(contract::serve);
    for (tls, scheme, status) in [
        (None, Scheme::Bound, 200),
        (None, Scheme::Timestamp, 401),
        (Some(Version::Tls13), Scheme::Certificate, 200),
        (Some(Version::Tls13), Scheme::Bound, 401),
        (Some(Version::Tls13), Scheme::Timestamp, 401),
    ] {
        let mut conn = connect(&rig, tls, scheme, origin.port());
        conn.send("GET", "/bytes/5", &[], b"");
        let response = conn.response_with(if status == 200 { Proof::Owed } else { Proof::Absent });
        assert_eq!(response.status(), status, "{tls:?} {scheme:?}");
    }
}

/// A node that holds only its containers' keys serves them and nobody else.
#[test]
fn keys_without_the_root_secret() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let mut config = NodeConfig::new();
    let at = format!("netns = {:?}\n", netns.path());
    config.keys_only().container("zzzzz-dz642-withkey00000000", &at);
    let node: Node = config.start();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let mut conn = node.connect("zzzzz-dz642-withkey00000000", origin.port());
    assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
    // Known as a container, but without a key: nobody can be authenticated for it.
    node.register("zzzzz-dz642-nokey0000000000", &at);
    let mut conn = node.connect("zzzzz-dz642-nokey0000000000", origin.port());
    conn.send("GET", "/bytes/5", &[], b"");
    assert_eq!(conn.response_with(Proof::Absent).status(), 401);
    // Signed with a key that the root secret gives to another container.
    let mut conn = node.connect("zzzzz-dz642-withkey00000000", origin.port());
    let key = sign::container_key(&node.site.root, "zzzzz-dz642-nokey0000000000");
    conn.caller.as_mut().expect("signed").key = Some(key);
    conn.send("GET", "/bytes/5", &[], b"");
    assert_eq!(conn.response_with(Proof::Absent).status(), 401);
}

/// The command that people use for a request by hand makes credentials that the daemon accepts.
#[test]
fn portsplice_sign_is_accepted() {
    if !privileged() {
        return;
    }
    let (rig, origin) = all_schemes();
    let node = rig.node();
    for (scheme, tls) in [("bound", false), ("timestamp", false), ("certificate", true)] {
        let mut command = std::process::Command::new(portsplice_tests::node::binary());
        command.args(["sign", "--uuid", &rig.name, "--port", &origin.port().to_string(), "--target", "/bytes/5"]);
        command.args(["--scheme", scheme, "--root-secret-file"]).arg(node.site.path("root"));
        if tls {
            command.args(["--certificate-of", &node.tls[0].to_string()]);
        }
        let lines = portsplice_tests::process::run(&mut command, None);
        assert_eq!(lines.lines().count(), 3, "{lines}");
        let lines: String = lines.lines().map(|line| format!("{line}\r\n")).collect();
        let mut conn = connect(&rig, tls.then_some(Version::Tls13), Scheme::Timestamp, origin.port());
        conn.write(format!("GET /bytes/5 HTTP/1.1\r\n{HOST}{lines}\r\n").as_bytes());
        let head = conn.any_head();
        assert_eq!(head.status(), 200, "{scheme}");
    }
}
