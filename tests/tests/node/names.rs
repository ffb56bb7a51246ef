//! Servers that speak TLS inside a container are asked for by name, as a browser would ask them.

use std::process::Command;

use portsplice_tests::client::{Conn, Response};
use portsplice_tests::net::Netns;
use portsplice_tests::over_gateway;
use portsplice_tests::process::Process;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::servers::{certificate, scripts};

const NAME: &str = "zzzzz-dz642-named0000000000";

/// Three servers, and a daemon that knows that they speak TLS.
struct Named {
    rig: Rig,
    usual: u16,
    strict: [u16; 2],
    _server: (Process, Netns),
}

impl Named {
    #[track_caller]
    fn start(path: Path) -> Self {
        let netns = Netns::new();
        let dir = tempfile::tempdir().expect("a directory");
        let (certificate, key) = certificate(dir.path());
        let mut command = Command::new("python3");
        command.arg(scripts().join("named.py")).arg(certificate).arg(key);
        let server = Process::spawn("named", &mut command, Some(&netns));
        let [usual, strict @ ..] =
            ["usual ", "strict13 ", "strict12 "].map(|what| server.line_with(what).parse().expect("a port"));
        let place = format!("netns = {:?}\nhttps-ports = [{usual}, {}, {}]\n", netns.path(), strict[0], strict[1]);
        let rig = Rig::with(path, |config| {
            config.container(NAME, &place).set("log", "level", "\"info,portsplice=debug\"");
            config.set("limits", "upstream-idle-timeout", "\"1h\"");
        });
        Self { rig, usual, strict, _server: (server, netns) }
    }

    fn connect(&self, port: u16) -> Conn {
        self.rig.dialer_for(NAME, port).connect()
    }
}

/// Asks for a page of `host`.
#[track_caller]
fn ask(conn: &mut Conn, method: &str, host: &str) -> Response {
    let head = String::from_utf8(conn.head_for(method, "/", &[])).expect("ASCII");
    conn.write(head.replace("Host: container.test", &format!("Host: {host}")).as_bytes());
    conn.response()
}

over_gateway! {
    /// The name is the request's `Host` without its port; an address is none. A connection is used again for the same name alone.
    fn are_hosts_without_ports(path) {
        let named = Named::start(path);
        let mut conn = named.connect(named.usual);
        for (host, sni, number) in [
            ("app.test", "app.test", 0),
            ("APP.test:8443", "app.test", 0),
            ("other.test", "other.test", 1),
            ("app.test", "app.test", 2),
            ("127.0.0.1", "None", 3),
            ("127.0.0.1:8443", "None", 3),
            ("[::1]:8443", "None", 4),
        ] {
            assert_eq!(ask(&mut conn, "GET", host).text(), format!("{sni} {host} {number}"));
        }
    }

    /// A server that refuses the handshake is said to have done that, and why, as far as it tells.
    fn refused(path) {
        let named = Named::start(path);
        let [tls13, tls12] = named.strict;
        for (port, host, why) in [
            (named.usual, "wrong.test", "unrecognized_name"),
            (tls13, "app.test", "certificate_required"),
            (tls12, "app.test", "handshake_failure"),
        ] {
            for method in ["GET", "DELETE"] {
                let response = ask(&mut named.connect(port), method, host);
                assert_eq!(response.status(), 502, "{why}");
                let told = format!("The server in the container refused the TLS handshake ({why}");
                assert!(response.text().starts_with(&told), "{why}: {}", response.text());
            }
        }
        let log = named.rig.node().log();
        for told in ["wrong.test", "UnrecognisedName", "\"note\":\"tls_refused\""] {
            assert!(log.contains(told), "{told}\n{log}");
        }
        assert_eq!(ask(&mut named.connect(named.usual), "GET", "right.test").status(), 200);
    }

    /// A port that does not speak TLS is another matter.
    fn no_tls_at_all(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(|peer| {
            let _ = peer.input().some(1000, &mut |_| Ok(()));
            peer.write("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        });
        let place = format!("netns = {:?}\nhttps-ports = [{}]\n", rig.netns.path(), origin.port());
        rig.node().register(NAME, &place);
        rig.node().until_status(NAME, origin.port(), |status| status == 502);
        let response = ask(&mut rig.dialer_for(NAME, origin.port()).connect(), "GET", "app.test");
        assert_eq!(response.status(), 502);
        assert!(response.text().contains("does not speak TLS as its label says"), "{}", response.text());
    }
}
