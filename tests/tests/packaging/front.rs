//! The nginx front.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use portsplice_tests::client::{Conn, Proof, Version};
use portsplice_tests::net::Netns;
use portsplice_tests::origin::{Origin, Peer, contract};
use portsplice_tests::process::{Process, run};
use portsplice_tests::{certificate, pattern, privileged, wait, websocket};

use crate::{temporary, text};

/// nginx with the packaged file, before a server of the test's own on the edge's port.
struct Front {
    nginx: Process,
    host: Arc<Netns>,
    _edge: Origin,
    _dir: tempfile::TempDir,
}

impl Front {
    #[track_caller]
    fn start(edge: impl Fn(&mut Peer) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let dir = temporary();
        let host = Arc::new(Netns::new());
        let edge = Origin::start(&host, "127.0.0.1:7460", edge);
        let mut command = nginx(dir.path());
        let mut nginx = Process::spawn("nginx", &mut command, Some(&host));
        wait::until_true("nginx listens", || {
            assert!(nginx.running(), "{}", nginx.log());
            host.connect("127.0.0.1:443".parse().expect("an address")).is_ok()
        });
        Self { nginx, host, _edge: edge, _dir: dir }
    }

    #[track_caller]
    fn connect(&self) -> Conn {
        let stream = self.host.connect("127.0.0.1:443".parse().expect("an address")).expect("nginx listens");
        Conn::tls(stream, Version::Tls13, None)
    }
}

/// The command that runs nginx on the packaged file; only where the certificate lies is another.
#[track_caller]
fn nginx(dir: &Path) -> Command {
    let at = |name: &str| dir.join(name).display().to_string();
    certificate::make("portsplice.example.org", &dir.join("fullchain.pem"), &dir.join("privkey.pem"));
    let front = text("packaging/nginx/portsplice.conf").replace("/etc/portsplice/tls", &dir.display().to_string());
    fs::write(at("portsplice.conf"), front).expect("written");
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {};\n", at(what)))
        .collect();
    let config = format!(
        "daemon off;\nmaster_process off;\npid {};\nerror_log stderr warn;\nevents {{}}\n\
         http {{\naccess_log off;\n{temporary}include {};\n}}\n",
        at("pid"),
        at("portsplice.conf")
    );
    fs::write(at("nginx.conf"), config).expect("written");
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).args(["-e", "stderr", "-c", &at("nginx.conf")]);
    command
}

#[test]
fn nginx_accepts_the_front() {
    let dir = temporary();
    run(nginx(dir.path()).arg("-t"), None);
}

/// What the edge is told of a request is true, whatever the user sends.
#[test]
fn forwarded_fields_are_set_and_private_ones_removed() {
    if !privileged() {
        return;
    }
    let mut front = Front::start(contract::serve);
    let mut conn = front.connect();
    let lies = [
        "X-Forwarded-For: 8.8.8.8",
        "X-Forwarded-Proto: gopher",
        "X-Forwarded-Host: evil.example",
        "X-Arvados-Authorization: v1 t=1,n=1,s=1",
        "X-Arvados-Container-Gateway-Uuid: other",
    ];
    conn.send("GET", "/head", &lies, b"");
    let seen = conn.response().text().to_ascii_lowercase();
    for line in [
        "host: container.test",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: https",
        "x-forwarded-host: container.test",
    ] {
        assert!(seen.lines().any(|seen| seen == line), "no {line} in\n{seen}");
    }
    assert!(!seen.contains("x-arvados") && !seen.contains("8.8.8.8") && !seen.contains("evil"), "{seen}");
    assert!(front.nginx.running());
}

/// A chunk goes through before the next one is made, both ways; a large upload is taken; heads may be large.
#[test]
fn bytes_go_on_as_they_come() {
    if !privileged() {
        return;
    }
    let front = Front::start(contract::serve);
    let mut conn = front.connect();
    let mut writer = conn.writer();
    let mut request = conn.head_for("POST", "/echo", &["Transfer-Encoding: chunked"]);
    request.extend_from_slice(b"1\r\na\r\n");
    conn.write(&request);
    let (_, head, framing) = conn.final_head(Proof::Owed);
    assert_eq!(head.status(), 200);
    let mut echoed = Vec::new();
    // The rest is sent only when the beginning has come back.
    let mut each = |part: &[u8]| {
        if echoed.is_empty() && !part.is_empty() {
            writer.write_all(b"1\r\nb\r\n0\r\n\r\n").expect("written");
        }
        echoed.extend_from_slice(part);
    };
    conn.body_into(framing, &mut each).expect("the end");
    assert_eq!(echoed, b"ab");

    let sent = pattern::bytes(3 << 20);
    let mut conn = front.connect();
    assert!(conn.post("/sink", &sent).text().starts_with(&format!("{} ", sent.len())));
    let cookie = format!("Cookie: a={}", "x".repeat(8000));
    conn.send("GET", "/bytes/5", &[&cookie], b"");
    assert_eq!(conn.response().body, pattern::bytes(5));
}

#[test]
fn websockets_pass() {
    if !privileged() {
        return;
    }
    let front = Front::start(websocket::echo);
    let mut conn = front.connect();
    websocket::open(&mut conn, "/");
    conn.write(&websocket::frame(websocket::BINARY, b"hello", Some([1, 2, 3, 4])));
    let (_, payload) = websocket::read_frame(conn.input()).expect("a frame").expect("not the end");
    assert_eq!(payload, b"hello");
}
