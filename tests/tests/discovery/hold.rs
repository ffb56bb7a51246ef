//! Requests for a port that does not listen yet, with `containers.wait-for-port`.

use std::time::Duration;

use portsplice_tests::client::Conn;
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::{over_gateway, pattern, wait};

use crate::by_news;

/// A daemon that holds requests for longer than any test lasts.
#[track_caller]
fn holding(path: Path) -> Rig {
    Rig::with(path, |config| {
        by_news(config);
        config.set("containers", "wait-for-port", "\"1h\"");
    })
}

/// A request for a port that nothing listens on, which the daemon holds.
#[track_caller]
fn held(rig: &Rig, port: u16) -> Conn {
    rig.use_port(port);
    let in_vain = || rig.node().metric("portsplice_dials_total", &["not_listening"]);
    let before = in_vain();
    let mut conn = rig.connect();
    conn.send("GET", "/bytes/9", &[], b"");
    wait::until_true("two attempts", || in_vain() >= before + 2.0);
    assert!(conn.is_quiet(), "it is not held");
    conn
}

over_gateway! {
    /// Wherever the server listens in the end, the request reaches it; and others before it do not matter.
    fn a_server_comes(path) {
        let rig = holding(path);
        rig.netns.add_address("10.9.8.7/32");
        for (port, address) in [(8001, "127.0.0.1"), (8002, "[::1]"), (8003, "10.9.8.7"), (8004, "[::]")] {
            let mut conn = held(&rig, port);
            let _other = Origin::start(&rig.netns, "127.0.0.1:0", contract::serve);
            let _origin = Origin::start(&rig.netns, &format!("{address}:{port}"), contract::serve);
            assert_eq!(conn.response().body, pattern::bytes(9));
        }
    }

    /// The container goes: there is nothing to wait for.
    fn the_container_goes(path) {
        let rig = holding(path);
        let mut conn = held(&rig, 8000);
        rig.node().unregister(&rig.name);
        assert_eq!(conn.response().status(), 502);
    }

    /// The client goes, in order or by a reset: its place among the container's connections is free again.
    fn the_client_goes(path) {
        let rig = holding(path);
        let open = || rig.node().metric("portsplice_connections_open", &[]);
        drop(held(&rig, 8000));
        wait::until_true("the connection's end", || open() == 0.0);
        held(&rig, 8000).reset();
        wait::until_true("the connection's end", || open() == 0.0);
        // One that has sent more than its request.
        let mut conn = held(&rig, 8000);
        conn.write(b"GET / HTTP/1.1\r\n");
        std::thread::sleep(Duration::from_millis(20));
        drop(conn);
        wait::until_true("the connection's end", || open() == 0.0);
    }

    /// A client that has ended its direction, but still reads, gets an answer.
    fn the_client_half_closes(path) {
        let rig = holding(path);
        let mut conn = held(&rig, 8000);
        conn.half_close();
        assert_eq!(conn.response().status(), 502);
    }
}
