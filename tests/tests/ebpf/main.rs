//! The programs in the kernel, loaded and attached: what they count and tell of sockets in namespaces of the tests.
//!
//! Each test needs root and a kernel with BPF. One that cannot run fails, unless `PORTSPLICE_SKIP_PRIVILEGED=1` says that
//! this is meant.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tests speak on their standard streams")]

mod bytecode;
mod namespace;
mod ports;
mod process;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portsplice_bpf::{BpfSettings, Counters, Kernel};
use proxy_common::op;

use bytecode::ForeignProgram;
use namespace::Namespace;

/// Whether to run the test; the privileges are found out by the test itself.
fn privileged() -> bool {
    if std::env::var_os("PORTSPLICE_SKIP_PRIVILEGED").is_some_and(|value| value == "1") {
        eprintln!("skipped: PORTSPLICE_SKIP_PRIVILEGED=1");
        return false;
    }
    true
}

fn kernel() -> Kernel {
    Kernel::load(&BpfSettings::default()).unwrap_or_else(|reason| {
        panic!("this test needs the kernel's help ({reason}); PORTSPLICE_SKIP_PRIVILEGED=1 skips it")
    })
}

/// What has not come by then does not come, on a machine however busy.
const HANG: Duration = Duration::from_secs(60);

/// Waits for what the kernel does a little after the system call: a last ACK, a closing in soft interrupt. Whoever starts a
/// process in another test has copies of all that this one has open until the program begins, so a close may take longer.
fn eventually<T>(what: &str, mut try_it: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + HANG;
    loop {
        match try_it() {
            Ok(value) => return value,
            Err(seen) if Instant::now() > deadline => panic!("{what}: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn counts(kernel: &Kernel, cookie: u64) -> Counters {
    kernel.namespaces().counters_of(cookie).expect("read the counters").expect("the namespace is registered")
}

fn expect_counts(kernel: &Kernel, cookie: u64, expected: Counters) {
    eventually("the counters", || {
        let seen = counts(kernel, cookie);
        if seen == expected { Ok(()) } else { Err(format!("{seen:?} instead of {expected:?}")) }
    });
}

/// One connection within a namespace, made, used and closed.
fn converse(listener: &TcpListener) {
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"ping").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    server.read_to_string(&mut text).unwrap();
    assert_eq!(text, "ping");
}

#[test]
fn sockets_of_a_registered_namespace_are_counted() {
    if !privileged() {
        return;
    }
    let kernel = kernel();
    let namespace = Namespace::new();
    kernel.namespaces().register(namespace.cookie()).unwrap();
    let total_before = kernel.namespaces().total().unwrap();

    for address in ["127.0.0.1:0", "[::1]:0"] {
        namespace.run(move || {
            let listener = TcpListener::bind(address).unwrap();
            for _ in 0..3 {
                converse(&listener);
            }
        });
    }
    // Each connection has both its ends here: one active, one passive, and two that close.
    let expected =
        Counters { listen_opened: 2, listen_closed: 2, established_active: 6, established_passive: 6, closed: 12 };
    expect_counts(&kernel, namespace.cookie(), expected);
    assert_eq!((expected.listening(), expected.open()), (0, 0));
    assert_eq!(kernel.namespaces().total().unwrap(), total_before.plus(&expected));

    kernel.namespaces().unregister(namespace.cookie()).unwrap();
    assert_eq!(kernel.namespaces().counters_of(namespace.cookie()).unwrap(), None);
    assert_eq!(
        kernel.namespaces().total().unwrap(),
        total_before.plus(&expected),
        "the total outlives the registration"
    );
}

#[test]
fn what_stands_is_told_while_it_stands() {
    if !privileged() {
        return;
    }
    let kernel = kernel();
    let namespace = Namespace::new();
    kernel.namespaces().register(namespace.cookie()).unwrap();
    let sockets = namespace.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    });
    let seen = counts(&kernel, namespace.cookie());
    assert_eq!((seen.listening(), seen.open()), (1, 2));
    drop(sockets);
    eventually("nothing stands", || {
        let seen = counts(&kernel, namespace.cookie());
        if (seen.listening(), seen.open()) == (0, 0) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
fn other_namespaces_are_not_counted() {
    if !privileged() {
        return;
    }
    let kernel = kernel();
    let (registered, other) = (Namespace::new(), Namespace::new());
    kernel.namespaces().register(registered.cookie()).unwrap();
    other.run(|| converse(&TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()));
    // And this thread's own, the host's as a rule.
    converse(&TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());

    registered.run(|| converse(&TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap()));
    let expected =
        Counters { listen_opened: 1, listen_closed: 1, established_active: 1, established_passive: 1, closed: 2 };
    expect_counts(&kernel, registered.cookie(), expected);
    assert_eq!(kernel.namespaces().total().unwrap(), expected);
    assert_eq!(kernel.namespaces().counters_of(other.cookie()).unwrap(), None);
}

#[test]
fn attempts_that_fail_are_not_counted() {
    if !privileged() {
        return;
    }
    let kernel = kernel();
    let namespace = Namespace::new();
    kernel.namespaces().register(namespace.cookie()).unwrap();
    namespace.run(|| {
        // Bound, never listening, closed.
        let bound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        bound.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = bound.local_addr().unwrap().as_socket().unwrap();
        assert!(TcpStream::connect(address).is_err());
    });
    // All that came before is counted when this is.
    namespace.run(|| drop(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()));
    let expected = Counters { listen_opened: 1, listen_closed: 1, ..Counters::default() };
    expect_counts(&kernel, namespace.cookie(), expected);
}

#[test]
fn a_reset_is_an_end_too() {
    if !privileged() {
        return;
    }
    let kernel = kernel();
    let namespace = Namespace::new();
    kernel.namespaces().register(namespace.cookie()).unwrap();
    namespace.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        drop(server);
    });
    let expected =
        Counters { listen_opened: 1, listen_closed: 1, established_active: 1, established_passive: 1, closed: 2 };
    expect_counts(&kernel, namespace.cookie(), expected);
}

#[test]
fn a_namespace_registered_twice_is_counted_until_both_are_gone() {
    if !privileged() {
        return;
    }
    let kernel = kernel();
    let namespace = Namespace::new();
    let listen = |times: u64| {
        namespace.run(|| drop(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()));
        let expected = Counters { listen_opened: times, listen_closed: times, ..Counters::default() };
        expect_counts(&kernel, namespace.cookie(), expected);
    };

    kernel.namespaces().register(namespace.cookie()).unwrap();
    listen(1);
    kernel.namespaces().register(namespace.cookie()).unwrap();
    assert_eq!(counts(&kernel, namespace.cookie()).listen_opened, 1, "a second registration keeps the counts");
    kernel.namespaces().unregister(namespace.cookie()).unwrap();
    listen(2);
    assert_eq!(counts(&kernel, namespace.cookie()).listen_opened, 2);
    kernel.namespaces().unregister(namespace.cookie()).unwrap();
    assert_eq!(kernel.namespaces().counters_of(namespace.cookie()).unwrap(), None);
    kernel.namespaces().unregister(namespace.cookie()).expect("once too often does no harm");

    kernel.namespaces().register(namespace.cookie()).unwrap();
    assert_eq!(counts(&kernel, namespace.cookie()), Counters::default(), "a new registration begins at zero");
}

#[test]
fn nothing_is_lost_when_all_cpus_count_at_once() {
    if !privileged() {
        return;
    }
    const THREADS: u64 = 4;
    const EACH: u64 = 500;
    let kernel = kernel();
    let namespace = Arc::new(Namespace::new());
    kernel.namespaces().register(namespace.cookie()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                namespace.run(|| {
                    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
                    for _ in 0..EACH {
                        converse(&listener);
                    }
                });
            });
        }
    });
    let connections = THREADS * EACH;
    let expected = Counters {
        listen_opened: THREADS,
        listen_closed: THREADS,
        established_active: connections,
        established_passive: connections,
        closed: 2 * connections,
    };
    expect_counts(&kernel, namespace.cookie(), expected);
    assert_eq!(kernel.namespaces().total().unwrap(), expected);
}

#[test]
fn it_lives_beside_other_programs_and_keeps_their_flags() {
    if !privileged() {
        return;
    }
    const RTO_FLAG: u32 = 1;
    // Programs of one cgroup run in the order in which they were attached.
    let before = ForeignProgram::attach_setting_flags(RTO_FLAG);
    let kernel = kernel();
    let second = self::kernel();
    let after = ForeignProgram::attach_recording_flags();

    let namespace = Namespace::new();
    for kernel in [&kernel, &second] {
        kernel.namespaces().register(namespace.cookie()).unwrap();
    }
    namespace.run(|| converse(&TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()));

    let expected =
        Counters { listen_opened: 1, listen_closed: 1, established_active: 1, established_passive: 1, closed: 2 };
    for kernel in [&kernel, &second] {
        expect_counts(kernel, namespace.cookie(), expected);
    }
    let flags = after.recorded_for(namespace.cookie()).expect("the other program saw the listener");
    assert_eq!(flags, RTO_FLAG | op::STATE_FLAG, "the flags of the program before us are kept, ours are added");
    drop((before, after));
}

#[test]
fn log_records_come_through_when_they_are_wanted() {
    if !privileged() {
        return;
    }
    let lines = Arc::new(Lines::default());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(Arc::clone(&lines))
        .finish();
    let namespace = Namespace::new();
    let cookie = namespace.cookie();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let kernel = kernel();
            kernel.forward_logs();
            kernel.namespaces().register(cookie).unwrap();
            namespace.run(|| converse(&TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()));
            kernel.log_events(true).unwrap();
            let port = namespace.run(|| {
                let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
                converse(&listener);
                listener.local_addr().unwrap().port()
            });
            let expected = [
                format!("portsplice::ebpf: listening: netns {cookie} local [::1]:{port} remote [::]:0"),
                format!("accepted: netns {cookie} local [::1]:{port} remote [::1]:"),
                format!("not listening any more: netns {cookie} local [::1]:{port}"),
            ];
            let deadline = Instant::now() + HANG;
            while !expected.iter().all(|line| lines.text().contains(line)) {
                assert!(Instant::now() < deadline, "expected {expected:#?} in:\n{}", lines.text());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let accepted = lines.text().lines().filter(|line| line.contains("accepted")).count();
            assert_eq!(accepted, 1, "only what happened after it was asked for:\n{}", lines.text());
        });
    });
}

/// A place for log lines.
#[derive(Default)]
struct Lines(Mutex<Vec<u8>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for &Lines {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_fast_path_is_proven_on_this_kernel() {
    if !privileged() {
        return;
    }
    let kernel = kernel();
    for item in &kernel.proof().items {
        println!("{item}");
    }
    kernel.flows().expect("the fast path holds on this kernel");
}

#[test]
fn the_check_tells_it_item_by_item_and_leaves_nothing_behind() {
    if !privileged() {
        return;
    }
    let check = |args: &[&str]| {
        let mut command = std::process::Command::new(portsplice_tests::node::binary());
        let output = command.arg("check").args(args).env_clear().output().expect("run it");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let (code, text) = check(&[]);
    assert_eq!(code, Some(0), "{text}");
    for item in &kernel().proof().items {
        assert!(text.contains(item.name), "{} is missing in\n{text}", item.name);
    }
    assert!(text.contains("ok    fast path: verified in "), "{text}");
    let (code, text) = check(&["--config", "/nonexistent/node.toml"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.starts_with("FAIL  configuration: ") && text.ends_with("cannot start on this host.\n"));
}
