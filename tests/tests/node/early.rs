//! Requests whose bodies wait for leave, and answers that do not wait for the body.

use std::io::Write;
use std::sync::mpsc::channel;

use portsplice_tests::rig::Rig;
use portsplice_tests::{HANG, over_paths, pattern};

over_paths! {
    /// The client waits for `100 Continue`, gets it from the server, and then sends its body.
    fn expect_waits_for_100(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(|peer| {
            while let Some(head) = peer.head()? {
                assert!(head.lists("expect", "100-continue"), "{head:?}");
                peer.write("HTTP/1.1 100 Continue\r\n\r\n")?;
                let (body, _) = peer.body(head.request_framing())?;
                peer.respond("200 OK", body.len().to_string())?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
            let head = conn.head_for("PUT", "/", &["Expect: 100-continue", framing]);
            conn.write(&head);
            assert_eq!(conn.any_head().status(), 100);
            if framing.starts_with('T') {
                conn.write(b"186a0\r\n");
            }
            conn.write(&pattern::bytes(100_000));
            if framing.starts_with('T') {
                conn.write(b"\r\n0\r\n\r\n");
            }
            assert_eq!(conn.response().text(), "100000");
        }
        origin.check();
    }

    /// The client sends its body without waiting: allowed (RFC 9110 section 10.1.1), and the 100 may still come.
    fn expect_without_waiting(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            while let Some(head) = peer.head()? {
                if head.target() == "/100" {
                    peer.write("HTTP/1.1 100 Continue\r\n\r\n")?;
                }
                let (body, _) = peer.body(head.request_framing())?;
                peer.respond("200 OK", body.len().to_string())?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        for target in ["/100", "/none", "/100"] {
            conn.send("PUT", target, &["Expect: 100-continue", "Content-Length: 50000"], &pattern::bytes(50_000));
            assert_eq!(conn.response().text(), "50000");
        }
    }

    /// The server refuses without 100, the client never sends the body and closes.
    fn expect_refused(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            peer.head()?.expect("a request");
            peer.write("HTTP/1.1 417 Expectation Failed\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
        });
        let mut conn = rig.connect();
        let head = conn.head_for("PUT", "/", &["Expect: 100-continue", "Content-Length: 50000"]);
        conn.write(&head);
        let response = conn.response();
        assert_eq!((response.status(), response.text().as_str()), (417, "no"));
    }

    /// The final response comes while the body is still being sent, with the connection to be closed.
    fn early_response_then_close(path) {
        const LEN: u64 = 32 << 20;
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            peer.head()?.expect("a request");
            peer.write("HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nlarge")?;
            peer.finish()?;
            // A lingering close (RFC 9112 section 9.6), or the reset would overtake the response.
            let _ = peer.rest();
            Ok(())
        });
        let mut conn = rig.connect();
        let head = conn.head_for("POST", "/", &[&format!("Content-Length: {LEN}")]);
        conn.write(&head);
        let mut writer = conn.writer();
        let response = std::thread::scope(|scope| {
            // It may well be cut off.
            scope.spawn(move || pattern::write_to(&mut writer, LEN, 65536).is_ok());
            let response = conn.response();
            conn.stream().shutdown(std::net::Shutdown::Both).ok();
            response
        });
        assert_eq!((response.status(), response.text().as_str()), (413, "large"));
    }

    /// The server answers the head alone and closes at once, with what has come of the body unread: its reset is right behind its
    /// answer, and must not overtake it, neither for a client that reads while it sends nor for one that sends as long as it can.
    fn early_response_then_reset(path) {
        const LEN: u64 = 50_000_000;
        const STATUS: &str = "HTTP/1.1 413 Content Too Large\r\n";
        for fields in [
            "Connection: close\r\nContent-Length: 5\r\n\r\nlarge",
            "Content-Length: 5\r\n\r\nlarge",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nlarge\r\n0\r\n\r\n",
        ] {
            let rig = Rig::new(path);
            let _origin = rig.serve(move |peer| {
                peer.head()?.expect("a request");
                if peer.index % 2 == 1 {
                    // With the upload under way.
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                peer.write(STATUS.to_owned() + fields)
            });
            for (tries, meanwhile) in [(20, true), (4, false)] {
                for _ in 0..tries {
                    let mut conn = rig.connect();
                    let head = conn.head_for("POST", "/", &[&format!("Content-Length: {LEN}")]);
                    conn.write(&head);
                    let mut writer = conn.writer();
                    let response = std::thread::scope(|scope| {
                        let sending = scope.spawn(move || pattern::write_to(&mut writer, LEN, 65536).is_ok());
                        if !meanwhile {
                            assert!(!sending.join().expect("it sends"), "nobody can have taken all of it");
                        }
                        let response = conn.response();
                        conn.stream().shutdown(std::net::Shutdown::Both).ok();
                        response
                    });
                    assert_eq!((response.status(), response.text().as_str()), (413, "large"), "{fields:?}");
                }
            }
        }
    }

    /// The early response is longer than what a client's kernel keeps for it, and the client reads it only when it has sent all.
    fn early_response_read_late(path) {
        const LEN: u64 = 50_000_000;
        const ANSWER: usize = 1_000_000;
        let rig = Rig::new(path);
        let origin = rig.serve(|peer| {
            peer.head()?.expect("a request");
            let head = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n";
            peer.write(format!("{head}Content-Length: {ANSWER}\r\n\r\n"))?;
            peer.write(pattern::bytes(ANSWER))?;
            peer.finish()?;
            let _ = peer.rest();
            Ok(())
        });
        let dialer = rig.dialer(origin.port());
        let mut conn = dialer.connect_with(|socket| socket.set_recv_buffer_size(64 * 1024));
        let head = conn.head_for("POST", "/", &[&format!("Content-Length: {LEN}")]);
        conn.write(&head);
        pattern::write_to(&mut conn.writer(), LEN, 65536).expect("taken, if not by the server");
        let response = conn.response();
        assert_eq!((response.status(), response.body == pattern::bytes(ANSWER)), (413, true));
    }

    /// The final response comes before the body has been read, and the connection goes on.
    fn early_response_then_body(path) {
        const LEN: u64 = 8 << 20;
        let rig = Rig::new(path);
        let (told, tell) = channel::<u64>();
        let _origin = rig.serve(move |peer| {
            while let Some(head) = peer.head()? {
                peer.respond("200 OK", "early")?;
                let mut check = pattern::Check::default();
                peer.input().body_into(head.request_framing(), &mut |part| check.update(part))?;
                told.send(check.len()).expect("the test waits");
            }
            Ok(())
        });
        let mut conn = rig.connect();
        for _ in 0..2 {
            let head = conn.head_for("POST", "/", &[&format!("Content-Length: {LEN}")]);
            conn.write(&head);
            // Not one byte of the body before the answer is here.
            let response = conn.response();
            assert_eq!(response.text(), "early");
            if response.head.lists("connection", "close") {
                // Allowed: whoever answers early may refuse to read on.
                return;
            }
            pattern::write_to(&mut conn, LEN, 65536).expect("taken");
            conn.flush().expect("taken");
            assert_eq!(tell.recv_timeout(HANG).expect("the body came"), LEN);
        }
    }
}
