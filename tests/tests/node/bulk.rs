//! A gigabyte arrives whole, in order, once.

use std::io::Write;

use portsplice_tests::client::Proof;
use portsplice_tests::origin::contract;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::{over_paths, pattern};

/// A gigabyte where it matters; less where only the scenario itself is proved.
fn length(path: Path) -> u64 {
    if path.has_gateway() { 1 << 30 } else { 1 << 26 }
}

over_paths! {
    /// Downloads a gigabyte and checks each byte and the hash.
    fn down(path) {
        let rig = Rig::with(path, |config| {
            // However long it takes.
            config.set("limits", "upstream-idle-timeout", "\"1h\"");
        });
        let origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        let len = length(path);
        conn.send("GET", &format!("/bytes/{len}"), &[], b"");
        let (_, head, framing) = conn.final_head(Proof::Owed);
        assert_eq!(head.get("content-length"), Some(len.to_string().as_str()));
        let mut check = pattern::Check::default();
        conn.body_into(framing, &mut |part| check.update(part)).expect("the whole body");
        assert_eq!(check.len(), len);
        assert_eq!(check.sha256(), pattern::sha256(len));
        // The connection is as good as new.
        assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
        // A server that blocks gets a new connection after an answer on the fast path.
        assert_eq!(origin.accepted(), if path == Path::Fast { 2 } else { 1 });
    }

    /// Uploads a gigabyte, whose hash the server reports.
    fn up(path) {
        let rig = Rig::with(path, |config| {
            // However long it takes.
            config.set("limits", "upstream-idle-timeout", "\"1h\"");
        });
        let origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        let len = length(path);
        let head = conn.head_for("POST", "/sink", &[&format!("Content-Length: {len}")]);
        conn.write(&head);
        pattern::write_to(&mut conn, len, 1 << 18).expect("taken");
        conn.flush().expect("taken");
        assert_eq!(conn.response().text(), format!("{len} {}\n", pattern::sha256(len)));
        assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
        assert_eq!(origin.accepted(), 1);
    }

    /// Both directions of one connection at once, chunked both ways.
    fn echo(path) {
        let len = 1 << 26;
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        let head = conn.head_for("POST", "/echo", &[&format!("Content-Length: {len}")]);
        conn.write(&head);
        let mut writer = conn.writer();
        std::thread::scope(|scope| {
            scope.spawn(move || pattern::write_to(&mut writer, len, 100_000).expect("taken"));
            let (_, _, framing) = conn.final_head(Proof::Owed);
            let mut check = pattern::Check::default();
            conn.body_into(framing, &mut |part| check.update(part)).expect("the whole body");
            assert_eq!(check.len(), len);
        });
    }
}
