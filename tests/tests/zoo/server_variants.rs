//! What only some servers do.

use portsplice_tests::client::Proof;
use portsplice_tests::http::Framing;
use portsplice_tests::rig::Rig;
use portsplice_tests::zoo::{Server, ServerVariant, crowd};
use portsplice_tests::{over_gateway, over_paths, pattern};

over_paths! {
    /// Several threads that write to one socket without any order: each one's bytes come whole and in their order.
    fn a_crowd_of_writers(path) {
        const LEN: usize = 8 << 20;
        let rig = Rig::new(path);
        let server = Server::start(ServerVariant::Write, &rig.netns);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let dialer = rig.dialer(server.port);
                scope.spawn(move || {
                    let mut conn = dialer.connect();
                    for len in [LEN, LEN / 3, 5] {
                        let response = conn.get(&format!("/crowd/{len}"));
                        assert_eq!(response.body.len(), len);
                        crowd::check(&response.body).unwrap_or_else(|fault| panic!("{fault}"));
                    }
                });
            }
        });
    }

    /// A server that asks FIONREAD before it reads gets uploads of all sizes whole, also between large answers.
    fn uploads_read_by_fionread(path) {
        let rig = Rig::new(path);
        let server = Server::start(ServerVariant::Fionread, &rig.netns);
        let mut conn = rig.connect_to(server.port);
        for len in [0, 1, 70_000, 5_000_000, 3] {
            assert_eq!(conn.post("/sink", &pattern::bytes(len)).text(), format!("{len}\n"));
            assert!(conn.get("/bytes/3000000").body == pattern::bytes(3_000_000));
        }
    }
}

over_gateway! {
    /// An urgent byte in a response stays in its place for a client that knows nothing of such (RFC 6093 section 6).
    fn urgent_data(path) {
        const LEN: u64 = 4 << 20;
        let rig = Rig::new(path);
        let server = Server::start(ServerVariant::Write, &rig.netns);
        let mut conn = rig.connect_to(server.port);
        for len in [LEN, 1000, LEN] {
            conn.send("GET", &format!("/urgent/{len}"), &[], b"");
            let (_, _, framing) = conn.final_head(Proof::Owed);
            assert_eq!(framing, Framing::Length(len));
            pattern::read_from(&mut conn, len, 65536).expect("whole");
        }
        assert_eq!(conn.get("/bytes/1000").body, pattern::bytes(1000));
    }
}
