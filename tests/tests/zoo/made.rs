//! Servers made for one way of writing each.

use std::sync::atomic::Ordering::Relaxed;

use portsplice_tests::client_behaviours;
use portsplice_tests::over_paths;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::zoo::{Server, ServerVariant, Tally};

fn written_by(path: Path, manner: ServerVariant, len: u64) -> Tally {
    let rig = Rig::new(path);
    let server = Server::start(manner, &rig.netns);
    client_behaviours::all_at_once(&rig.dialer(server.port), len);
    let page = rig.connect_to(server.port).get("/tally").text();
    Tally::parse(&page)
}

/// A blocking write takes all it is given, unless the connection has failed: a server in C may not even look.
fn takes_all(path: Path, manner: ServerVariant) {
    let tally = written_by(path, manner, 16 << 20);
    // The client that resets cuts one write short at most.
    let short = tally.short.load(Relaxed);
    assert!(short <= 1, "{short} of {} writes came up short", tally.writes.load(Relaxed));
}

over_paths! {
    /// write(2).
    fn writes(path) { takes_all(path, ServerVariant::Write); }

    /// write(2) of a few bytes each.
    fn small_writes(path) { written_by(path, ServerVariant::Small, 2 << 20); }

    /// writev(2).
    fn vectors(path) { takes_all(path, ServerVariant::Vectored); }

    /// MSG_MORE.
    fn more_to_come(path) { takes_all(path, ServerVariant::More); }

    /// Several threads in turn on one socket.
    fn threads_in_turn(path) { takes_all(path, ServerVariant::Turns); }

    /// sendfile(2).
    fn sendfile(path) { written_by(path, ServerVariant::Sendfile, 16 << 20); }

    /// splice(2).
    fn splices(path) { written_by(path, ServerVariant::Splice, 16 << 20); }

    /// MSG_ZEROCOPY: every page comes back.
    fn zerocopy(path) {
        let tally = written_by(path, ServerVariant::Zerocopy, 16 << 20);
        assert!(tally.completed.load(Relaxed) > 0);
    }

    /// io_uring.
    fn uring(path) { written_by(path, ServerVariant::Uring, 16 << 20); }

    /// io_uring without copies: every page comes back. A socket that takes the fast path does without.
    fn uring_zerocopy(path) {
        let tally = written_by(path, ServerVariant::UringZerocopy, 16 << 20);
        assert!(tally.completed.load(Relaxed) > 0 || path == Path::Fast);
    }

    /// Requests read as FIONREAD says.
    fn fionread(path) { takes_all(path, ServerVariant::Fionread); }

    /// A Multipath TCP listener.
    fn multipath(path) { takes_all(path, ServerVariant::Mptcp); }

    /// Edge-triggered epoll(7).
    fn edge_triggered(path) { written_by(path, ServerVariant::Edge, 16 << 20); }
}
