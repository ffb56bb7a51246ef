//! Real servers, each with its own way of waiting and writing, behind the gateway.

use std::io::Write;

use portsplice_tests::client::{End, Proof};
use portsplice_tests::http::Framing;
use portsplice_tests::rig::Rig;
use portsplice_tests::servers::{ALL, Kind, Server};
use portsplice_tests::{over_paths, pattern};

const LEN: u64 = 24 << 20;

over_paths! {
    /// Large downloads and uploads, small requests between them, on one connection to each server.
    fn up_and_down(path) {
        let rig = Rig::new(path);
        for kind in ALL {
            let server = Server::start(kind, &rig.netns);
            server.offer(LEN);
            server.offer(1000);
            let mut conn = rig.connect_to(server.port);
            for _ in 0..2 {
                conn.send("GET", &format!("/bytes/{LEN}"), &[], b"");
                let (_, head, framing) = conn.final_head(Proof::Owed);
                assert_eq!((head.status(), framing), (200, Framing::Length(LEN)), "{kind:?}");
                let mut check = pattern::Check::default();
                conn.body_into(framing, &mut |part| check.update(part)).expect("the whole body");
                assert_eq!(check.sha256(), pattern::sha256(LEN), "{kind:?}");
                for _ in 0..20 {
                    assert_eq!(conn.get("/bytes/1000").body, pattern::bytes(1000), "{kind:?}");
                }
                let target = if kind.is_scripted() { "/sink" } else { "/up/file" };
                let head = conn.head_for("PUT", target, &[&format!("Content-Length: {LEN}")]);
                conn.write(&head);
                pattern::write_to(&mut conn, LEN, 100_000).expect("taken");
                conn.flush().expect("taken");
                let response = conn.response();
                if kind.is_scripted() {
                    assert_eq!(response.text(), format!("{LEN} {}\n", pattern::sha256(LEN)), "{kind:?}");
                } else {
                    assert!(matches!(response.status(), 201 | 204), "{kind:?}: {response:?}");
                    let mut file = std::fs::File::open(server.stored("file")).expect("it was stored");
                    assert_eq!(pattern::read_from(&mut file, LEN, 65536).expect("whole"), pattern::sha256(LEN));
                    assert_eq!(file.metadata().expect("a file").len(), LEN);
                }
            }
            conn.send("HEAD", "/bytes/1000", &[], b"");
            assert_eq!(conn.response().head.get("content-length"), Some("1000"), "{kind:?}");
            assert_eq!(conn.get("/nothing").status(), 404, "{kind:?}");
        }
    }

    /// Chunks both ways, events, statuses without content, close-delimited answers: what the scripted servers offer.
    fn every_framing(path) {
        const LEN: usize = 3_000_000;
        let rig = Rig::new(path);
        for kind in ALL.into_iter().filter(|kind| kind.is_scripted()) {
            let server = Server::start(kind, &rig.netns);
            let mut conn = rig.connect_to(server.port);
            for round in 0..2 {
                assert!(conn.get(&format!("/chunked/{LEN}")).body == pattern::bytes(LEN), "{kind:?}");
                let mut body = Vec::new();
                for part in pattern::bytes(LEN).chunks(70_000) {
                    body.extend(format!("{:x}\r\n", part.len()).into_bytes());
                    body.extend(part);
                    body.extend(b"\r\n");
                }
                body.extend(b"0\r\n\r\n");
                let head = conn.head_for("POST", "/echo", &["Transfer-Encoding: chunked"]);
                conn.write(&head);
                let mut writer = conn.writer();
                std::thread::scope(|scope| {
                    scope.spawn(move || writer.write_all(&body).expect("taken"));
                    assert!(conn.response().body == pattern::bytes(LEN), "{kind:?}");
                });
                assert_eq!(conn.get("/status/204").status(), 204, "{kind:?}");
                assert_eq!(conn.get("/status/304").status(), 304, "{kind:?}");
                assert_eq!(conn.get("/status/500").status(), 500, "{kind:?} {round}");
                let events: String = (0..20).map(|i| format!("data: {i}\n\n")).collect();
                assert_eq!(conn.get("/events/20").text(), events, "{kind:?}");
            }
            // Expect: 100-continue as curl uses it.
            let head = conn.head_for("POST", "/sink", &["Expect: 100-continue", "Content-Length: 10"]);
            conn.write(&head);
            assert_eq!(conn.any_head().status(), 100, "{kind:?}");
            conn.write(&pattern::bytes(10));
            assert_eq!(conn.response().text(), format!("10 {}\n", pattern::sha256(10)), "{kind:?}");
            if !kind.ends_by_closing() {
                continue;
            }
            // Delimited by the end.
            conn.send("GET", &format!("/close/{LEN}"), &[], b"");
            let (_, _, framing) = conn.final_head(Proof::Owed);
            pattern::read_from(&mut BodyOf(&mut conn, framing), LEN as u64, 65536).expect("whole");
            assert_eq!(conn.end(), End::Clean, "{kind:?}");
        }
    }

    /// Many connections at once to one server, each with its own bytes.
    fn side_by_side(path) {
        let rig = Rig::new(path);
        for kind in [Kind::Nginx, Kind::Asyncio, Kind::Blocking, Kind::Go] {
            let server = Server::start(kind, &rig.netns);
            let lens: Vec<usize> = (0..24_usize).map(|i| 100_003 * (i % 7 + 1) + i).collect();
            lens.iter().for_each(|len| server.offer(*len as u64));
            let conns: Vec<_> = lens.iter().map(|_| rig.connect_to(server.port)).collect();
            std::thread::scope(|scope| {
                for (mut conn, len) in conns.into_iter().zip(&lens) {
                    scope.spawn(move || {
                        for _ in 0..5 {
                            assert!(conn.get(&format!("/bytes/{len}")).body == pattern::bytes(*len), "{kind:?}");
                        }
                    });
                }
            });
        }
    }
}

/// Reads a close-delimited body as it is; another framing would mean that a server did not do as asked.
struct BodyOf<'a>(&'a mut portsplice_tests::client::Conn, Framing);

impl std::io::Read for BodyOf<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        assert_eq!(self.1, Framing::UntilClose);
        self.0.read(buf)
    }
}
