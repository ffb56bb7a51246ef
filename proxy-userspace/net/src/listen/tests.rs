use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use portsplice_model::error_line;

use super::*;

fn listener(address: &str) -> ListenConfig {
    let address = match address.strip_prefix("systemd") {
        Some("") => ListenAddress::Systemd(None),
        Some(name) => ListenAddress::Systemd(Some(name[1..].to_owned())),
        None => ListenAddress::Socket(address.parse().unwrap()),
    };
    ListenConfig { address, tls: true, credentials: vec![Scheme::Bound], certificate: None }
}

fn bind_one(address: &str) -> Result<Bound, ListenError> {
    let config = listener(address);
    Ok(bind(&config, std::slice::from_ref(&config), &Inherited::default())?.remove(0))
}

#[test]
fn port_0_becomes_a_real_one_and_accepts() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let bound = bind_one(address).unwrap();
        assert_ne!(bound.address.port(), 0);
        TcpStream::connect(bound.address).unwrap();
    }
}

#[test]
fn the_v6_wildcard_is_dual_stack_unless_v4_is_wanted_apart() {
    let bound = bind_one("[::]:0").unwrap();
    assert!(!bound.socket.only_v6().unwrap());
    TcpStream::connect(("127.0.0.1", bound.address.port())).unwrap();
    let port = bound.address.port();
    drop(bound);

    let both = [listener(&format!("[::]:{port}")), listener(&format!("0.0.0.0:{port}"))];
    let inherited = Inherited::default();
    let bound: Vec<Bound> = both.iter().flat_map(|l| bind(l, &both, &inherited).unwrap()).collect();
    assert!(bound[0].socket.only_v6().unwrap());
    assert_eq!(bound.len(), 2);
}

#[test]
fn a_port_is_free_again_while_old_connections_linger() {
    let bound = bind_one("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(bound.address).unwrap();
    let (accepted, _) = loop {
        match bound.socket.accept() {
            Ok(accepted) => break accepted,
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
        }
    };
    // The side that closes first keeps the address in TIME_WAIT.
    drop(accepted);
    drop(client);
    let address = bound.address.to_string();
    drop(bound);
    bind_one(&address).unwrap();
}

#[test]
fn errors_say_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _held = TcpListener::bind(taken).unwrap();
    let error = bind_one(&taken.to_string()).unwrap_err().to_string();
    assert!(error.contains(&format!("cannot listen on {taken}")) && error.contains("ss -ltnp"), "{error}");
    let error = bind_one("192.0.2.1:1").unwrap_err().to_string();
    assert!(error.contains("ip address"), "{error}");
    let error = error_line(&bind_one("systemd").unwrap_err());
    assert!(error.contains("it passed none"), "{error}");
}

/// Names the part of the test that this process is to play, when it was started by [`run_as_service`].
const ROLE: &str = "PORTSPLICE_TEST_ROLE";

/// Runs `role` in another process of this test binary, with `sockets` as descriptors 3 and 4, as systemd would.
fn run_as_service(role: &str, names: &str, sockets: [OwnedFd; 2]) {
    let [first, second] = sockets;
    // The process id must be known before the program runs, as LISTEN_PID names the one process that is meant.
    let script = r#"exec 3<&0 4<&1 </dev/null >&2; LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES="$0" exec "$@""#;
    let status = Command::new("sh")
        .args(["-c", script, names])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "listen::tests::sockets_of_the_service_manager_are_found_by_name", "--nocapture"])
        .env(ROLE, role)
        .stdin(Stdio::from(first))
        .stdout(Stdio::from(second))
        .status()
        .unwrap();
    assert!(status.success(), "{role}: {status}");
}

fn two_listeners() -> ([OwnedFd; 2], [SocketAddr; 2]) {
    let sockets = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let addresses = [sockets[0].local_addr().unwrap(), sockets[1].local_addr().unwrap()];
    (sockets.map(OwnedFd::from), addresses)
}

#[test]
fn sockets_of_the_service_manager_are_found_by_name() {
    match std::env::var(ROLE).as_deref() {
        Ok("named") => return as_service_named(),
        Ok("same name") => return as_service_same_name(),
        Ok("broken") => return as_service_broken(),
        Ok(role) => panic!("unknown role {role}"),
        Err(_) => {}
    }
    let (sockets, _) = two_listeners();
    run_as_service("named", "tls:plain", sockets);
    let (sockets, _) = two_listeners();
    run_as_service("same name", "portsplice.socket:portsplice.socket", sockets);
    let stream = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(stream.local_addr().unwrap()).unwrap();
    run_as_service("broken", "a:b", [OwnedFd::from(stream), OwnedFd::from(connected)]);
}

#[test]
fn errors_of_accept_are_told_apart() {
    use AcceptFailure::{Connection, Listener, Resources};
    for (errno, failure) in [
        (libc::ECONNABORTED, Connection),
        (libc::ENETDOWN, Connection),
        (libc::EINTR, Connection),
        (libc::EMFILE, Resources),
        (libc::ENFILE, Resources),
        (libc::ENOBUFS, Resources),
        (libc::ENOMEM, Resources),
        // A security module or a filter of system calls refuses before it takes a connection: the same again at once.
        (libc::EPERM, Resources),
        (libc::EACCES, Resources),
        (libc::EBADF, Listener),
        (libc::EINVAL, Listener),
        (libc::ENOTSOCK, Listener),
    ] {
        let error = std::io::Error::from_raw_os_error(errno);
        assert_eq!(AcceptFailure::of(&error), failure, "{error}");
    }
    assert_eq!(AcceptFailure::of(&std::io::Error::other("unknown")), Resources);
}

fn as_service_named() {
    let inherited = Inherited::take().unwrap();
    let all = [listener("systemd:plain"), listener("systemd")];
    let plain = bind(&all[0], &all, &inherited).unwrap();
    let rest = bind(&all[1], &all, &inherited).unwrap();
    assert_eq!((plain.len(), rest.len()), (1, 1));
    assert_ne!(plain[0].address, rest[0].address);
    assert!(inherited.unused(&all).is_empty());
    assert_eq!(inherited.unused(&all[..1]), ["tls"]);
    TcpStream::connect(plain[0].address).unwrap();
    plain[0].socket.accept().unwrap();
    // A reload asks again.
    assert_eq!(bind(&all[0], &all, &inherited).unwrap()[0].address, plain[0].address);

    let all = [listener("systemd:web")];
    let error = error_line(&bind(&all[0], &all, &inherited).unwrap_err());
    assert!(error.contains("it passed tls, plain") && error.contains("FileDescriptorName="), "{error}");
}

fn as_service_same_name() {
    let inherited = Inherited::take().unwrap();
    let all = [listener("systemd:portsplice.socket")];
    assert_eq!(bind(&all[0], &all, &inherited).unwrap().len(), 2);
}

fn as_service_broken() {
    let error = error_line(&Inherited::take().unwrap_err());
    assert!(error.contains("file descriptor 4 (b)") && error.contains("ListenStream="), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_loop_goes_on_after_what_passes_and_ends_with_its_listener() {
    let codes = [libc::ECONNABORTED, libc::EMFILE, 0, libc::EBADF];
    let mut results = codes.into_iter().map(|code| match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    });
    let mut admitted = 0;
    let error = accept("test", || std::future::ready(results.next().unwrap()), |()| admitted += 1).await;
    assert_eq!(admitted, 1);
    assert!(error.to_string().contains("cannot accept connections any more"), "{error}");

    let drain = crate::drain::Drain::new();
    let watch = drain.watch();
    drain.begin();
    let pending = || std::future::pending::<io::Result<()>>();
    accept_until_drain("test", &watch, pending, |()| unreachable!("nothing was accepted")).await.unwrap();
}
