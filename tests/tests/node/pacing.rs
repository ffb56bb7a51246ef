//! Bytes leave when they arrive, at the pace of whoever is slower, and nobody else waits for it.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portsplice_tests::client::Proof;
use portsplice_tests::http::Framing;
use portsplice_tests::origin::contract;
use portsplice_tests::rig::Rig;
use portsplice_tests::{HANG, over_paths, pattern, wait};

use crate::tunnels::open_tunnel;

/// Far more than all buffers on the way hold together.
const FLOOD: u64 = 96 << 20;

fn ack() -> (Sender<()>, Arc<Mutex<Receiver<()>>>) {
    let (send, receive) = channel();
    (send, Arc::new(Mutex::new(receive)))
}

fn await_ack(acks: &Mutex<Receiver<()>>) {
    acks.lock().expect("acks").recv_timeout(HANG).expect("the other side has it");
}

over_paths! {
    /// Every write of either side carries one byte.
    fn one_byte_writes(path) {
        const LEN: usize = 1500;
        let rig = Rig::new(path);
        let origin = rig.serve(|peer| {
            let request = peer.must_request()?;
            assert_eq!(request.body, pattern::bytes(LEN));
            let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n").into_bytes();
            answer.extend(pattern::bytes(LEN));
            for byte in answer {
                peer.write([byte])?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        let mut request = conn.head_for("POST", "/", &[&format!("Content-Length: {LEN}")]);
        request.extend(pattern::bytes(LEN));
        for byte in request {
            conn.write(&[byte]);
        }
        assert_eq!(conn.response().body, pattern::bytes(LEN));
        origin.check();
    }

    /// The same with chunks of one byte, both ways.
    fn one_byte_chunks(path) {
        const LEN: usize = 600;
        let rig = Rig::new(path);
        let origin = rig.serve(|peer| {
            assert_eq!(peer.must_request()?.body, pattern::bytes(LEN));
            peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for byte in pattern::bytes(LEN) {
                contract::chunk(peer, &[byte])?;
            }
            peer.write("0\r\n\r\n")
        });
        let mut conn = rig.connect();
        let head = conn.head_for("POST", "/", &["Transfer-Encoding: chunked"]);
        conn.write(&head);
        for byte in pattern::bytes(LEN) {
            conn.write(b"1\r\n");
            conn.write(&[byte]);
            conn.write(b"\r\n");
        }
        conn.write(b"0\r\n\r\n");
        assert_eq!(conn.response().body, pattern::bytes(LEN));
        origin.check();
    }

    /// A server-sent event is with the client before the server sends the next one. By lock-step, not by the clock:
    /// the server waits for the test's word that the event has come.
    fn each_event_at_once(path) {
        const EVENTS: usize = 200;
        let rig = Rig::new(path);
        let (got, acks) = ack();
        let origin = rig.serve(move |peer| {
            peer.must_request()?;
            peer.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for i in 0..EVENTS {
                contract::chunk(peer, format!("data: {i}\n\n").as_bytes())?;
                await_ack(&acks);
            }
            peer.write("0\r\n\r\n")
        });
        let mut conn = rig.connect();
        conn.send("GET", "/events", &[], b"");
        let (_, _, framing) = conn.final_head(Proof::Owed);
        assert_eq!(framing, Framing::Chunked);
        for i in 0..EVENTS {
            let want = format!("data: {i}\n\n");
            let mut event = Vec::new();
            while event.len() < want.len() {
                assert!(conn.input().chunk(&mut |part| event.extend_from_slice(part)).expect("an event") > 0);
            }
            assert_eq!(event, want.as_bytes());
            got.send(()).expect("the server waits");
        }
        assert_eq!(conn.input().chunk(&mut |_| ()).expect("the end"), 0);
        origin.check();
    }

    /// The same where the connection's end delimits the stream.
    fn each_event_at_once_until_close(path) {
        const EVENTS: usize = 200;
        let rig = Rig::new(path);
        let (got, acks) = ack();
        let origin = rig.serve(move |peer| {
            peer.must_request()?;
            peer.write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")?;
            for i in 0..EVENTS {
                peer.write(format!("data: {i:06}\n\n"))?;
                await_ack(&acks);
            }
            Ok(())
        });
        let mut conn = rig.connect();
        conn.send("GET", "/events", &[], b"");
        let (_, _, framing) = conn.final_head(Proof::Owed);
        assert_eq!(framing, Framing::UntilClose);
        for i in 0..EVENTS {
            let mut event = [0; 14];
            conn.read_exact(&mut event).expect("an event");
            assert_eq!(event, format!("data: {i:06}\n\n").as_bytes());
            got.send(()).expect("the server waits");
        }
        assert_eq!(conn.end(), portsplice_tests::client::End::Clean);
        origin.check();
    }

    /// The head of a response is with the client before its first body byte exists.
    fn head_before_body(path) {
        let rig = Rig::new(path);
        let (got, acks) = ack();
        let _origin = rig.serve(move |peer| {
            peer.must_request()?;
            peer.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")?;
            await_ack(&acks);
            peer.write("ok")
        });
        let mut conn = rig.connect();
        conn.send("GET", "/", &[], b"");
        let (_, _, framing) = conn.final_head(Proof::Owed);
        got.send(()).expect("the server waits");
        assert_eq!(conn.input().body(framing).expect("the body").0, b"ok");
    }

    /// Each piece of an upload is with the server before the client sends the next one.
    fn each_upload_piece_at_once(path) {
        const PIECES: u64 = 100;
        const PIECE: u64 = 10;
        for chunked in [false, true] {
            let rig = Rig::new(path);
            let (got, acks) = ack();
            let origin = rig.serve(move |peer| {
                let head = peer.head()?.expect("a request");
                let mut piece = 0;
                peer.input().body_into(head.request_framing(), &mut |part| {
                    piece += part.len() as u64;
                    while piece >= PIECE {
                        piece -= PIECE;
                        got.send(()).expect("the client waits");
                    }
                })?;
                peer.respond("200 OK", "all")
            });
            let mut conn = rig.connect();
            let length = format!("Content-Length: {}", PIECES * PIECE);
            let framing = if chunked { "Transfer-Encoding: chunked" } else { &length };
            let head = conn.head_for("POST", "/", &[framing]);
            conn.write(&head);
            for i in 0..PIECES {
                let piece = pattern::slice(i * PIECE, PIECE as usize);
                match chunked {
                    true => conn.write(&[b"a\r\n", piece, b"\r\n"].concat()),
                    false => conn.write(piece),
                }
                await_ack(&acks);
            }
            if chunked {
                conn.write(b"0\r\n\r\n");
            }
            assert_eq!(conn.response().text(), "all");
            origin.check();
        }
    }

    /// A client that does not read holds the server back, and misses nothing.
    fn slow_reader(path) {
        let rig = Rig::new(path);
        let sent = Arc::new(AtomicU64::new(0));
        let counted = sent.clone();
        let _origin = rig.serve(move |peer| {
            let request = peer.must_request()?;
            if request.head.target() == "/quick" {
                return peer.respond("200 OK", "quick");
            }
            peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {FLOOD}\r\n\r\n"))?;
            let mut at = 0;
            while at < FLOOD {
                let part = pattern::slice(at, 65536.min(FLOOD - at) as usize);
                peer.write(part)?;
                at += part.len() as u64;
                counted.store(at, Ordering::SeqCst);
            }
            Ok(())
        });
        let mut conn = rig.connect();
        conn.set_receive_buffer(65536);
        conn.send("GET", "/", &[], b"");
        let (_, _, framing) = conn.final_head(Proof::Owed);
        let held = wait::until_steady("the server is held back", Duration::from_millis(300), || {
            sent.load(Ordering::SeqCst)
        });
        assert!(held < FLOOD, "the whole flood was buffered somewhere");
        // Nobody else waits for the slow one.
        assert_eq!(rig.connect().get("/quick").text(), "quick");
        let mut check = pattern::Check::default();
        let mut reads = 0_u32;
        conn.body_into(framing, &mut |part| {
            check.update(part);
            reads += 1;
            if reads < 200 {
                std::thread::sleep(Duration::from_millis(1));
            }
        })
        .expect("the whole body");
        assert_eq!(check.len(), FLOOD);
    }

    /// A server that does not read holds the client back, and misses nothing.
    fn slow_server(path) {
        let rig = Rig::new(path);
        let (go, gate) = ack();
        let origin = rig.serve(move |peer| {
            let head = peer.head()?.expect("a request");
            await_ack(&gate);
            let mut check = pattern::Check::default();
            let mut reads = 0_u32;
            peer.input().body_into(head.request_framing(), &mut |part| {
                check.update(part);
                reads += 1;
                if reads < 200 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            })?;
            peer.respond("200 OK", check.len().to_string())
        });
        let mut conn = rig.connect();
        let head = conn.head_for("POST", "/", &[&format!("Content-Length: {FLOOD}")]);
        conn.write(&head);
        let mut writer = conn.writer();
        let sent = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let sent = &sent;
            scope.spawn(move || {
                let mut at = 0;
                while at < FLOOD {
                    let part = pattern::slice(at, 65536.min(FLOOD - at) as usize);
                    writer.write_all(part).expect("taken");
                    at += part.len() as u64;
                    sent.store(at, Ordering::SeqCst);
                }
            });
            let held = wait::until_steady("the client is held back", Duration::from_millis(300), || {
                sent.load(Ordering::SeqCst)
            });
            assert!(held < FLOOD, "the whole flood was buffered somewhere");
            go.send(()).expect("the server waits");
        });
        assert_eq!(conn.response().text(), FLOOD.to_string());
        origin.check();
    }

    /// In a tunnel each byte crosses before the next exists, in both directions.
    fn tunnel_ping_pong(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            let mut byte = [0];
            while peer.input().read(&mut byte)? == 1 {
                peer.write([byte[0].wrapping_add(1)])?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        open_tunnel(&mut conn);
        for i in 0..=255_u8 {
            conn.write(&[i]);
            let mut answer = [0];
            conn.read_exact(&mut answer).expect("an answer");
            assert_eq!(answer[0], i.wrapping_add(1));
        }
    }
}
