//! Under a service manager: sockets that it passes, readiness that it is told.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::Command;

use portsplice_tests::net::Netns;
use portsplice_tests::node::{ListenOn, Node, NodeConfig, Site, binary};
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::process::Process;
use portsplice_tests::{HANG, pattern, privileged, wait};

/// A socket that systemd would pass is served at the address that it has, and stays open over a restart.
#[test]
fn a_passed_socket_is_served() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let passed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = passed.local_addr().expect("bound");
    let mut config = NodeConfig::new();
    config.listen(vec![ListenOn { address: "systemd".into(), tls: false, credentials: vec!["bound"] }]);
    config.container("here", &format!("netns = {:?}\n", netns.path()));
    for _ in 0..2 {
        let site = config.site();
        let node = spawn_with_fd(&passed, site);
        assert_eq!(node.plain, [address]);
        assert_eq!(node.connect("here", origin.port()).get("/bytes/5").body, pattern::bytes(5));
        drop(node);
        // Meanwhile connections wait in the socket's queue.
        std::net::TcpStream::connect(address).expect("the socket is still open");
    }
}

/// A passed socket that its other holder shuts down gives no connection any more: the daemon says so and ends, rather than
/// to ask for ever.
#[test]
fn a_passed_socket_that_is_shut_down_ends_the_daemon() {
    if !privileged() {
        return;
    }
    let passed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut config = NodeConfig::new();
    config.listen(vec![ListenOn { address: "systemd".into(), tls: false, credentials: vec!["bound"] }]);
    let mut node = spawn_with_fd(&passed, config.site());
    rustix::net::shutdown(&passed, rustix::net::Shutdown::Read).expect("it listens");
    assert!(!node.wait().success());
    // What it has written last may be read a moment after its end is known.
    let listener = format!("listener tcp {}", passed.local_addr().expect("bound"));
    wait::until_true("it says so", || node.log().contains(&listener));
}

/// Starts the daemon as the service manager does: a listening socket is descriptor 3, LISTEN_PID is its own id.
fn spawn_with_fd(socket: &TcpListener, site: Site) -> Node {
    use std::os::fd::AsRawFd;
    // A duplicate without close-on-exec, which a shell can move to where the service manager puts it.
    let open = rustix::io::dup(socket).expect("another handle");
    let script = format!("exec 3<&{0}; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"", open.as_raw_fd());
    let mut command = Command::new("bash");
    command.args(["-c", &script, "bash"]).arg(binary()).args(["node", "--config"]).arg(site.path("config.toml"));
    let process = Process::spawn("portsplice node", &mut command, None);
    Node::ready(site, process, None)
}

/// `READY=1` comes when requests are served, `STOPPING=1` when it drains.
#[test]
fn the_manager_is_told() {
    if !privileged() {
        return;
    }
    let mut config = NodeConfig::new();
    let site = config.site();
    let socket = UnixDatagram::bind(site.path("notify")).expect("a socket");
    socket.set_read_timeout(Some(HANG)).expect("a timeout");
    config.env("NOTIFY_SOCKET", site.path("notify").to_str().expect("UTF-8"));
    let process = Process::spawn("portsplice node", &mut site.command(&config), None);
    let mut node = Node::ready(site, process, None);
    let mut told = String::new();
    let mut until = |what: &str| {
        while !told.contains(what) {
            let mut buf = [0; 4096];
            let n = socket.recv(&mut buf).expect("a notification");
            told.push_str(&String::from_utf8_lossy(&buf[..n]));
            told.push('\n');
        }
    };
    until("READY=1");
    node.signal(rustix::process::Signal::TERM);
    until("STOPPING=1");
    assert!(node.wait().success());
}
