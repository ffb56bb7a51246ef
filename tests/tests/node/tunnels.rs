//! `Upgrade: tcp`: both directions are the port's own, their ends included.

use std::io::{Read, Write};

use portsplice_tests::client::{Conn, End, Proof};
use portsplice_tests::origin::contract;
use portsplice_tests::rig::Rig;
use portsplice_tests::{over_gateway, over_paths, pattern};

/// Opens a tunnel; a direct connection is one already.
#[track_caller]
pub(crate) fn open_tunnel(conn: &mut Conn) {
    if conn.caller.is_none() {
        return;
    }
    conn.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
    let (_, head, _) = conn.final_head(Proof::Owed);
    assert_eq!(head.status(), 101, "{head:?}");
    assert!(head.lists("connection", "upgrade"), "{head:?}");
    assert_eq!(head.get("upgrade"), Some("tcp"), "{head:?}");
}

over_paths! {
    /// The client ends first; the server's response still comes whole. This is how `nc -N` and many protocols work.
    fn client_half_closes(path) {
        const LEN: u64 = 8 << 20;
        let rig = Rig::new(path);
        let origin = rig.serve(|peer| {
            let (bytes, end) = peer.rest();
            end.expect("the client ended in order");
            assert_eq!(bytes, pattern::bytes(100_000));
            let mut out = peer.stream();
            pattern::write_to(&mut out, LEN, 30_000)
        });
        let mut conn = rig.connect();
        open_tunnel(&mut conn);
        conn.write(&pattern::bytes(100_000));
        conn.half_close();
        pattern::read_from(&mut conn, LEN, 65536).expect("the whole answer");
        assert_eq!(conn.end(), End::Clean);
        origin.check();
    }

    /// The server ends first; what the client sends afterwards still arrives.
    fn server_half_closes(path) {
        const LEN: usize = 8 << 20;
        let rig = Rig::new(path);
        let (told, tell) = std::sync::mpsc::channel();
        let origin = rig.serve(move |peer| {
            peer.write("bye")?;
            peer.finish()?;
            let (bytes, end) = peer.rest();
            end.expect("the client ended in order");
            told.send(bytes).expect("the test waits");
            Ok(())
        });
        let mut conn = rig.connect();
        open_tunnel(&mut conn);
        let mut bye = [0; 3];
        conn.read_exact(&mut bye).expect("the farewell");
        assert_eq!(&bye, b"bye");
        assert_eq!(conn.end(), End::Clean);
        pattern::write_to(&mut conn, LEN as u64, 30_000).expect("taken");
        conn.half_close();
        let bytes = tell.recv_timeout(portsplice_tests::HANG).expect("the server got it");
        assert!(bytes == pattern::bytes(LEN), "{} bytes", bytes.len());
        origin.check();
    }

    /// A server that speaks first (SMTP, SSH, MySQL) is heard.
    fn server_speaks_first(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            peer.write("220 ready\r\n")?;
            let line = peer.input().line()?;
            peer.write(format!("250 {line}\r\n"))
        });
        let mut conn = rig.connect();
        open_tunnel(&mut conn);
        assert_eq!(conn.input().line().expect("a greeting"), "220 ready");
        conn.write(b"hello\r\n");
        assert_eq!(conn.input().line().expect("an answer"), "250 hello");
        assert_eq!(conn.end(), End::Clean);
    }

    /// Bytes that look like HTTP are not touched.
    fn nothing_is_read_as_http(path) {
        let rig = Rig::new(path);
        let text = b"GET / HTTP/1.1\r\nX-Arvados-Authorization: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n\0\r\n0\r\n\r\n";
        let origin = rig.serve(move |peer| {
            let (bytes, end) = peer.rest();
            end.expect("in order");
            assert_eq!(bytes, text);
            peer.write("HTTP/1.1 999 \n\n")
        });
        let mut conn = rig.connect();
        open_tunnel(&mut conn);
        conn.write(text);
        conn.half_close();
        let (bytes, end) = conn.rest();
        assert_eq!((bytes.as_slice(), end), (&b"HTTP/1.1 999 \n\n"[..], End::Clean));
        origin.check();
    }

    /// 64 MiB each way at once.
    fn both_directions_at_once(path) {
        const LEN: u64 = 64 << 20;
        let rig = Rig::new(path);
        let origin = rig.serve(|peer| {
            let out = peer.stream().try_clone()?;
            let writing = std::thread::spawn(move || pattern::write_to(&mut &out, LEN, 65536));
            pattern::read_from(peer.input(), LEN, 65536)?;
            writing.join().expect("written")
        });
        let mut conn = rig.connect();
        open_tunnel(&mut conn);
        let mut writer = conn.writer();
        std::thread::scope(|scope| {
            scope.spawn(move || pattern::write_to(&mut writer, LEN, 50_000).expect("taken"));
            pattern::read_from(&mut conn, LEN, 65536).expect("the whole stream");
        });
        conn.half_close();
        assert_eq!(conn.end(), End::Clean);
        origin.check();
    }

    /// A reset by the server is one for the client: an end in order would pass for the whole stream.
    fn server_resets(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(|peer| {
            let mut one = [0];
            peer.input().read_exact(&mut one)?;
            peer.write("part")?;
            peer.input().read_exact(&mut one)?;
            peer.reset_on_close();
            Ok(())
        });
        let mut conn = rig.connect();
        open_tunnel(&mut conn);
        conn.write(b"1");
        let mut part = [0; 4];
        conn.read_exact(&mut part).expect("the part");
        conn.write(b"2");
        assert_eq!(conn.end(), End::Cut);
    }

    /// A reset by the client is one for the server.
    fn client_resets(path) {
        let rig = Rig::new(path);
        let (told, tell) = std::sync::mpsc::channel();
        let _origin = rig.serve(move |peer| {
            peer.write("part")?;
            let (_, end) = peer.rest();
            told.send(end.map_err(|e| e.kind())).expect("the test waits");
            Ok(())
        });
        let mut conn = rig.connect();
        open_tunnel(&mut conn);
        let mut part = [0; 4];
        conn.read_exact(&mut part).expect("the part");
        conn.write(b"some");
        conn.reset();
        let end = tell.recv_timeout(portsplice_tests::HANG).expect("the server saw an end");
        assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
    }

    /// A client that resets while a stopped server owes it nothing more does not leave the tunnel half open.
    fn client_resets_under_back_pressure(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(|peer| {
            // Writes until it cannot: the client never reads.
            let mut out = peer.stream();
            let _ = pattern::write_to(&mut out, u64::MAX, 65536);
            Ok(())
        });
        let mut conn = rig.connect();
        open_tunnel(&mut conn);
        let mut part = [0; 4];
        conn.read_exact(&mut part).expect("something");
        conn.reset();
        portsplice_tests::wait::until_true("the server is told", || origin.open() == 0);
    }
}

over_gateway! {
    /// After a tunnel request that was refused the connection is still HTTP's.
    fn no_tunnel_to_nowhere(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        let good = conn.caller.clone();
        conn.caller.as_mut().expect("signed").port = rig.netns.free_port();
        conn.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
        assert_eq!(conn.response().status(), 502);
        conn.caller = good;
        assert_eq!(conn.get("/bytes/3").body, pattern::bytes(3));
        conn.flush().expect("nothing to do");
    }
}
