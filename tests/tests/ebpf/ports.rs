//! Listening ports, known by the kernel's events and by dumps, of sockets in namespaces that the tests make.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portsplice::app::KernelNews;
use portsplice_bpf::{BpfMode, BpfSettings, Fastpath};
use portsplice_discovery::events::{Events, StateEvent};
use portsplice_discovery::ports;
use portsplice_discovery::ports::Ports;
use portsplice_model::ListeningPort;
use portsplice_net::netns::Netns;
use socket2::{Domain, Socket, Type};
use tokio::runtime::Runtime;
use tokio::sync::broadcast::Receiver;

use crate::namespace::Namespace;
use crate::{HANG, eventually, privileged};

/// So long that no test sees a look that comes only because it is time. The first one comes at a random part of it.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// A table of ports with the kernel's events, and one namespace that it may look after.
struct Rig {
    runtime: Runtime,
    fastpath: Arc<Fastpath>,
    ports: Arc<Ports>,
    state: Receiver<StateEvent>,
    namespace: Namespace,
    netns: Arc<Netns>,
}

impl Rig {
    /// Looks after the namespace already.
    fn new() -> Self {
        let rig = Self::before(BpfMode::Required);
        rig.add();
        rig
    }

    /// Does not look after the namespace yet.
    fn before(mode: BpfMode) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _inside = runtime.enter();
        let settings = BpfSettings { mode, ..BpfSettings::default() };
        let fastpath = Arc::new(Fastpath::start(&settings).expect("PORTSPLICE_SKIP_PRIVILEGED=1 skips this test"));
        let events = Events::default();
        let state = events.state();
        let ports = Ports::start(events, NEVER).unwrap();
        match KernelNews::of(&fastpath) {
            Some(news) => drop(runtime.spawn(ports::follow(news, Arc::clone(&ports)))),
            None => ports.events_lost(),
        }
        let namespace = Namespace::new();
        let netns = Arc::new(namespace.run(|| Netns::current().unwrap()));
        drop(_inside);
        Self { runtime, fastpath, ports, state, namespace, netns }
    }

    fn add(&self) {
        let told = self.fastpath.register(self.namespace.cookie());
        let dumps = self.ports.counts().dumps;
        self.ports.added(&self.netns, told);
        // What comes while it is under way may be found by it, too, which is told in another way.
        eventually("the first look", || if self.ports.counts().dumps > dumps { Ok(()) } else { Err("none".into()) });
    }

    fn known(&self) -> Vec<SocketAddr> {
        self.ports.of(self.netns.id()).iter().map(|p| SocketAddr::new(p.address, p.port)).collect()
    }

    #[track_caller]
    fn expect(&self, expected: &[SocketAddr]) {
        let mut expected = expected.to_vec();
        expected.sort_by_key(|address| (address.port(), address.ip()));
        eventually("the ports", || {
            let known = self.known();
            if known == expected { Ok(()) } else { Err(format!("{known:?} instead of {expected:?}")) }
        });
    }

    fn only(&self) -> ListeningPort {
        let ports = self.ports.of(self.netns.id());
        assert_eq!(ports.len(), 1, "{ports:?}");
        ports[0].clone()
    }

    fn listen(&self, address: &str) -> (TcpListener, SocketAddr) {
        let listener = self.namespace.run(|| TcpListener::bind(address).unwrap());
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// Listens again where something has listened just now. Whoever starts a process in another test has copies of all that
    /// this one has open, until the program begins.
    fn listen_again(&self, address: SocketAddr) -> TcpListener {
        self.namespace.run(|| {
            eventually("the address is free", || match TcpListener::bind(address) {
                Err(error) if error.kind() == ErrorKind::AddrInUse => Err(error.to_string()),
                bound => Ok(bound.unwrap()),
            })
        })
    }

    /// Starts a process inside the namespace; killed when dropped.
    fn spawn(&self, command: &mut Command) -> Guard {
        Guard(self.namespace.run(|| command.stdin(Stdio::null()).spawn().unwrap()))
    }

    /// What was told of ports since this was asked last: `+port` and `-port`.
    fn told(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        while let Ok(event) = self.state.try_recv() {
            match event {
                StateEvent::PortOpened(netns, port) if netns == self.netns.id() => told.push(format!("+{}", port.port)),
                StateEvent::PortClosed(netns, port) if netns == self.netns.id() => told.push(format!("-{}", port.port)),
                _ => {}
            }
        }
        told
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.ports.removed(&self.netns);
        self.fastpath.unregister(self.namespace.cookie());
    }
}

struct Guard(Child);

impl Guard {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A socket with an option set before it is bound.
fn socket(address: &str, prepare: impl FnOnce(&Socket)) -> Socket {
    let address: SocketAddr = address.parse().unwrap();
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    prepare(&socket);
    socket.bind(&address.into()).unwrap();
    socket
}

#[test]
fn begin_and_end_are_told_by_the_kernel_alone() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new();
    let dumps = rig.ports.counts().dumps;
    for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
        let (listener, local) = rig.listen(address);
        rig.expect(&[local]);
        let port = rig.only();
        assert_eq!(port.dual_stack, local.ip() == Ipv6Addr::UNSPECIFIED, "{address}");
        // The thread that calls listen(2) has another name than its process.
        let own = std::fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(port.process.as_deref(), Some(own.trim_end()));
        drop(listener);
        rig.expect(&[]);
        let number = local.port();
        assert_eq!(rig.told(), [format!("+{number}"), format!("-{number}")]);
    }
    assert_eq!(rig.ports.counts().dumps, dumps, "nothing of this took a dump");
    assert!(rig.ports.counts().events_seen >= 8);
}

#[test]
fn a_socket_of_ipv6_alone_is_told_from_one_of_both_families() {
    if !privileged() {
        return;
    }
    let rig = Rig::new();
    let both = rig.namespace.run(|| socket("[::]:0", |s| s.set_only_v6(false).unwrap()));
    both.listen(1).unwrap();
    rig.expect(&[both.local_addr().unwrap().as_socket().unwrap()]);
    assert!(rig.only().dual_stack);
    drop(both);
    rig.expect(&[]);
    let alone = rig.namespace.run(|| socket("[::]:0", |s| s.set_only_v6(true).unwrap()));
    alone.listen(1).unwrap();
    rig.expect(&[alone.local_addr().unwrap().as_socket().unwrap()]);
    assert!(!rig.only().dual_stack);
}

#[test]
fn bound_is_not_listening_and_a_new_backlog_is_no_news() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new();
    let socket = rig.namespace.run(|| socket("127.0.0.1:8000", |_| ()));
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    socket.listen(1).unwrap();
    rig.expect(&[address]);
    socket.listen(100).unwrap();
    // shutdown(2) ends a listener, and the same socket may start over.
    socket.shutdown(std::net::Shutdown::Read).unwrap();
    rig.expect(&[]);
    socket.listen(1).unwrap();
    rig.expect(&[address]);
    let number = address.port();
    assert_eq!(rig.told(), [format!("+{number}"), format!("-{number}"), format!("+{number}")]);
}

#[test]
fn what_listened_before_is_found_with_its_process_and_its_end_is_seen() {
    if !privileged() {
        return;
    }
    let rig = Rig::before(BpfMode::Required);
    let (own, local) = rig.listen("127.0.0.1:0");
    let mut server = rig.spawn(Command::new("python3").args(["-m", "http.server", "--bind", "::1", "8000"]));
    let served = SocketAddr::from((Ipv6Addr::LOCALHOST, 8000));
    eventually("the server listens", || {
        rig.namespace.run(|| std::net::TcpStream::connect(served)).map(drop).map_err(|e| e.to_string())
    });
    rig.add();
    rig.expect(&[local, served]);
    eventually("the name", || {
        let ports = rig.ports.of(rig.netns.id());
        let name = ports.iter().find(|p| p.port == 8000).and_then(|p| p.process.as_deref());
        if name.is_some_and(|name| name.starts_with("python3")) { Ok(()) } else { Err(format!("{ports:?}")) }
    });
    server.kill();
    rig.expect(&[local]);
    drop(own);
    rig.expect(&[]);
}

#[test]
fn without_the_kernels_news_ports_are_known_a_little_later() {
    if !privileged() {
        return;
    }
    let rig = Rig::before(BpfMode::Off);
    rig.add();
    let (listener, local) = rig.listen("127.0.0.1:0");
    rig.expect(&[local]);
    drop(listener);
    rig.expect(&[]);
    assert_eq!(rig.ports.counts().events_seen, 0);
}

#[test]
fn sockets_that_share_a_port_are_one_port_until_the_last_has_gone() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new();
    let first = rig.namespace.run(|| socket("127.0.0.1:0", |s| s.set_reuse_port(true).unwrap()));
    let local = first.local_addr().unwrap().as_socket().unwrap();
    first.listen(1).unwrap();
    let second = rig.namespace.run(|| socket(&local.to_string(), |s| s.set_reuse_port(true).unwrap()));
    second.listen(1).unwrap();
    rig.expect(&[local]);
    let since = rig.only().since;
    eventually("both are heard of", || if rig.ports.counts().events_seen >= 2 { Ok(()) } else { Err("one".into()) });
    drop(first);
    eventually("the end is heard of", || if rig.ports.counts().events_seen >= 3 { Ok(()) } else { Err("none".into()) });
    rig.expect(&[local]);
    assert_eq!(rig.only().since, since);
    drop(second);
    rig.expect(&[]);
    assert_eq!(rig.told(), [format!("+{}", local.port()), format!("-{}", local.port())]);
}

#[test]
fn a_port_listens_as_long_as_anybody_holds_the_socket() {
    if !privileged() {
        return;
    }
    let rig = Rig::new();
    let (listener, local) = rig.listen("127.0.0.1:0");
    rig.expect(&[local]);
    // Another process takes the socket over, and this one lets it go.
    let fd = OwnedFd::from(listener);
    let mut heir = rig.spawn(Command::new("sleep").arg("60").stdout(Stdio::from(fd.try_clone().unwrap())));
    drop(fd);
    std::thread::sleep(Duration::from_millis(50));
    rig.expect(&[local]);
    heir.kill();
    rig.expect(&[]);
}

#[test]
fn a_process_that_is_killed_leaves_no_port_behind() {
    if !privileged() {
        return;
    }
    let rig = Rig::new();
    let mut server = rig.spawn(Command::new("python3").args(["-m", "http.server", "--bind", "127.0.0.1", "8000"]));
    rig.expect(&[([127, 0, 0, 1], 8000).into()]);
    assert_eq!(rig.only().process.as_deref().map(|name| name.starts_with("python3")), Some(true));
    server.kill();
    rig.expect(&[]);
}

#[test]
fn a_namespace_that_goes_takes_its_ports_along() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new();
    let (_listener, local) = rig.listen("127.0.0.1:0");
    rig.expect(&[local]);
    rig.ports.removed(&rig.netns);
    rig.expect(&[]);
    assert_eq!(rig.told(), [format!("+{}", local.port()), format!("-{}", local.port())]);
    assert_eq!(rig.ports.counts().listening, 0);
    rig.add();
    rig.expect(&[local]);
}

#[test]
fn more_news_than_a_namespace_may_send_are_made_up_for_by_a_look() {
    if !privileged() {
        return;
    }
    let rig = Rig::new();
    let (kept, listeners) = rig.namespace.run(|| {
        // As many as it takes within one window, however slow the machine; those of which nothing was told are among the last.
        let mut listeners = Vec::new();
        while rig.fastpath.lost_of(rig.namespace.cookie()) < 50 {
            assert!(listeners.len() < 4000, "nothing is lost");
            listeners.extend((0..50).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()));
        }
        let kept = listeners.split_off(listeners.len() - 250);
        (kept, listeners)
    });
    drop(listeners);
    let expected: Vec<_> = kept.iter().map(|listener| listener.local_addr().unwrap()).collect();
    rig.expect(&expected);
    let counts = rig.ports.counts();
    assert!(counts.lost > 0 && counts.events_seen > 0, "{counts:?}");
    drop(kept);
    rig.expect(&[]);
}

#[test]
fn a_port_that_flaps_ends_as_it_is() {
    if !privileged() {
        return;
    }
    let rig = Rig::new();
    let (listener, local) = rig.listen("127.0.0.1:0");
    drop(listener);
    for _ in 0..300 {
        drop(rig.listen_again(local));
    }
    rig.expect(&[]);
    let _last = rig.listen_again(local);
    rig.expect(&[local]);
}

#[test]
fn a_listener_of_multipath_tcp_is_one_of_tcp() {
    if !privileged() {
        return;
    }
    const IPPROTO_MPTCP: i32 = 262;
    let rig = Rig::new();
    let made = rig.namespace.run(|| Socket::new(Domain::IPV4, Type::STREAM, Some(IPPROTO_MPTCP.into())));
    let Ok(socket) = made else {
        eprintln!("this kernel has no MPTCP");
        return;
    };
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket.listen(1).unwrap();
    assert!(socket.as_raw_fd() >= 0);
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    rig.expect(&[address]);
    drop(socket);
    rig.expect(&[]);
}

#[test]
fn whoever_waits_for_a_port_is_woken_by_that_one_alone() {
    if !privileged() {
        return;
    }
    let rig = Rig::new();
    let (held, local) = rig.listen("127.0.0.1:0");
    rig.expect(&[local]);
    drop(held);
    rig.expect(&[]);
    let mut port_watch = rig.ports.watch(rig.netns.id());
    let waiter = rig.runtime.spawn(async move { port_watch.opened(local.port()).await });
    let (_other, other) = rig.listen("127.0.0.2:0");
    rig.expect(&[other]);
    std::thread::sleep(Duration::from_millis(20));
    assert!(!waiter.is_finished());
    let _again = rig.listen_again(local);
    let woken = rig.runtime.block_on(async { tokio::time::timeout(HANG, waiter).await });
    woken.expect("woken").unwrap();
}

/// Not asserted, only told: from listen(2) to the table.
#[test]
fn how_long_it_takes_is_told() {
    if !privileged() {
        return;
    }
    let rig = Rig::new();
    let mut took: Vec<Duration> = (0..50)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            let socket = rig.namespace.run(|| socket("127.0.0.1:0", |_| ()));
            let port = socket.local_addr().unwrap().as_socket().unwrap().port();
            let began = Instant::now();
            socket.listen(1).unwrap();
            while !rig.ports.listens(rig.netns.id(), port) {
                std::thread::yield_now();
            }
            began.elapsed()
        })
        .collect();
    took.sort();
    println!("from listen() to the table: median {:?}, worst {:?} of {}", took[25], took[49], took.len());
}
