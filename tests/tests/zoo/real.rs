//! Servers as people run them.

use portsplice_tests::client_behaviours::{self, ClientBehaviour};
use portsplice_tests::over_paths;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::servers::{Kind, Server};

const LEN: u64 = 16 << 20;

fn served_by(path: Path, kind: Kind) {
    let rig = Rig::new(path);
    let server = Server::start(kind, &rig.netns);
    for len in ClientBehaviour::ALL.iter().flat_map(|habit| habit.lengths(LEN)) {
        server.offer(len);
    }
    // The end of the client's direction is passed on, and these take it for a client that has given up.
    let gives_up = matches!(kind, Kind::Nginx | Kind::NginxWrites | Kind::NginxProxy | Kind::Node);
    client_behaviours::all_but(
        &rig.dialer(server.port),
        LEN,
        if gives_up { &[ClientBehaviour::HalfCloses] } else { &[] },
    );
}

over_paths! {
    /// nginx with sendfile(2).
    fn nginx(path) { served_by(path, Kind::Nginx); }

    /// nginx with writev(2).
    fn nginx_without_sendfile(path) { served_by(path, Kind::NginxWrites); }

    /// nginx before another server.
    fn nginx_as_a_proxy(path) { served_by(path, Kind::NginxProxy); }

    /// Python's asyncio.
    fn asyncio(path) { served_by(path, Kind::Asyncio); }

    /// Python's http.server.
    fn python_threads(path) { served_by(path, Kind::Threads); }

    /// Node's http module.
    fn node(path) { served_by(path, Kind::Node); }

    /// Go's net/http.
    fn go(path) { served_by(path, Kind::Go); }

    /// The JDK's HTTP server.
    fn java(path) { served_by(path, Kind::Java); }
}
