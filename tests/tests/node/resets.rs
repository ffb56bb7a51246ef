//! A message that did not come whole never looks as if it had, and nobody waits for one who has gone.

use std::io::Read;
use std::sync::mpsc::channel;

use portsplice_tests::client::{End, Proof};
use portsplice_tests::http::Framing;
use portsplice_tests::origin::contract;
use portsplice_tests::rig::Rig;
use portsplice_tests::{HANG, over_paths, pattern, wait};

/// How a server's response can be framed.
const FRAMINGS: [(&str, Framing); 3] = [
    ("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", Framing::Length(1_000_000)),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nf4240\r\n", Framing::Chunked),
    ("HTTP/1.1 200 OK\r\n\r\n", Framing::UntilClose),
];

over_paths! {
    /// The server resets in the middle of a response: the client's connection is reset, however the body was framed.
    fn server_resets_mid_response(path) {
        let rig = Rig::new(path);
        for (head, expected) in FRAMINGS {
            let (go, gate) = channel::<()>();
            let gate = std::sync::Mutex::new(gate);
            let _origin = rig.serve(move |peer| {
                peer.must_request()?;
                peer.write(head)?;
                peer.write(pattern::slice(0, 1000))?;
                // Not before the client has it: a reset may overtake data.
                gate.lock().expect("gate").recv_timeout(HANG).expect("the client has it");
                peer.reset_on_close();
                Ok(())
            });
            let mut conn = rig.connect();
            conn.send("GET", "/", &[], b"");
            let (_, _, framing) = conn.final_head(Proof::Owed);
            assert_eq!(framing, expected);
            if framing == Framing::Chunked {
                conn.input().line().expect("a chunk's size");
            }
            pattern::read_from(&mut conn, 1000, 1000).expect("what was sent");
            go.send(()).expect("the server waits");
            assert_eq!(conn.end(), End::Cut, "{expected:?}");
        }
    }

    /// The server ends in order but too early.
    fn server_ends_mid_response(path) {
        let rig = Rig::new(path);
        for (head, expected) in &FRAMINGS[..2] {
            let _origin = rig.serve(move |peer| {
                peer.must_request()?;
                peer.write(head)?;
                peer.write(pattern::slice(0, 1000))
            });
            let mut conn = rig.connect();
            conn.send("GET", "/", &[], b"");
            let (_, _, framing) = conn.final_head(Proof::Owed);
            let mut check = pattern::Check::default();
            let ended = conn.body_into(framing, &mut |part| check.update(part));
            assert!(ended.is_err(), "{expected:?} ended early and passed for whole");
        }
    }

    /// The client resets while it downloads: the server is told, so that it can stop.
    fn client_resets_mid_download(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(contract::serve);
        for target in ["/bytes/10000000000", "/chunked/10000000000", "/close/10000000000"] {
            let mut conn = rig.connect();
            conn.send("GET", target, &[], b"");
            conn.final_head(Proof::Owed);
            conn.read_exact(&mut [0; 100_000]).expect("some of it");
            conn.reset();
            wait::until_true("the server is told", || origin.open() == 0);
        }
    }

    /// The client closes while it downloads: the same.
    fn client_closes_mid_download(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(contract::serve);
        for target in ["/bytes/10000000000", "/chunked/10000000000", "/close/10000000000"] {
            let mut conn = rig.connect();
            conn.send("GET", target, &[], b"");
            conn.final_head(Proof::Owed);
            conn.read_exact(&mut [0; 100_000]).expect("some of it");
            drop(conn);
            wait::until_true("the server is told", || origin.open() == 0);
        }
    }

    /// The client resets while the server thinks (an LLM before its first token): the server is told.
    fn client_resets_before_the_answer(path) {
        let rig = Rig::new(path);
        let (origin, conn) = crate::cancelled::asked(&rig);
        conn.reset();
        wait::until_true("the server is told", || origin.open() == 0);
    }

    /// The client goes in the middle of an upload: the server sees that it was not all.
    fn client_goes_mid_upload(path) {
        let rig = Rig::new(path);
        let (told, tell) = channel();
        let _origin = rig.serve(move |peer| {
            let head = peer.head()?.expect("a request");
            let mut check = pattern::Check::default();
            let read = peer.input().body_into(head.request_framing(), &mut |part| check.update(part));
            told.send(read.is_ok()).expect("the test waits");
            Ok(())
        });
        for (framing, prefix) in [("Content-Length: 1000000", ""), ("Transfer-Encoding: chunked", "f4240\r\n")] {
            for reset in [false, true] {
                let mut conn = rig.connect();
                let mut request = conn.head_for("POST", "/", &[framing]);
                request.extend_from_slice(prefix.as_bytes());
                request.extend_from_slice(&pattern::bytes(300_000));
                conn.write(&request);
                if reset {
                    conn.reset();
                } else {
                    drop(conn);
                }
                let whole = tell.recv_timeout(HANG).expect("the server saw an end");
                assert!(!whole, "{framing}: a part passed for the whole");
            }
        }
    }
}
