//! The daemon from start to end: reports, reloads, socket activation, the service manager's protocol, drain.
//!
//! The containers are this process itself, registered by its process id and reached through the host's network, so that
//! nothing has to be set up. Entering a namespace takes CAP_SYS_ADMIN even so: run as root.

mod site;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use self::site::{Guarded, PATIENCE, Site, ask, get, origin, until};

const PLAIN: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\n";
const ADMIN: &str = "admin = \"127.0.0.1:0\"";

#[test]
fn it_reports_its_addresses_and_serves() {
    let site = Site::new();
    site.configure(ADMIN, &format!("{PLAIN}[[listen]]\naddress = \"[::1]:0\"\n"));
    let daemon = site.start();
    let admin = daemon.address("admin http://");
    assert_eq!(get(admin, "/healthz"), (200, "alive\n".to_owned()));
    until("readiness", || get(admin, "/readyz").0 == 200);
    assert!(daemon.address("listening tls ").is_ipv6());

    let mut stream = TcpStream::connect(daemon.address("listening tcp ")).unwrap();
    let port = origin();
    assert_eq!(ask(&mut stream, &site.request(port, "/")), (200, "ok".to_owned()));
    // Counted once the response is out.
    until("the request's count", || daemon.metric("portsplice_requests_total{code=\"200\"") == 1.0);
    assert_eq!(daemon.metric("portsplice_connections_open{listener=\"tcp"), 1.0);
    let log = daemon.stop();
    assert!(log.contains("portsplice::access") && log.contains("all connections drained"), "{log}");
}

#[test]
fn only_the_needed_privileges_are_kept_by_every_thread() {
    let site = Site::new();
    site.configure("", PLAIN);
    let daemon = site.start();
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{}/task", daemon.child.0.id())).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        // CAP_SYS_ADMIN, CAP_SYS_PTRACE, CAP_NET_BIND_SERVICE.
        let allowed: u64 = 1 << 21 | 1 << 19 | 1 << 10;
        for set in ["CapPrm:\t", "CapEff:\t", "CapInh:\t", "CapAmb:\t"] {
            let hex = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
            assert_eq!(u64::from_str_radix(hex, 16).unwrap() & !allowed, 0, "{set}{hex}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
        threads += 1;
    }
    assert!(threads > 2);
    daemon.stop();
}

#[test]
fn a_reload_changes_keys_and_listeners_and_keeps_connections() {
    let site = Site::new();
    let port = origin();
    site.configure(ADMIN, &format!("{PLAIN}[[listen]]\naddress = \"127.0.0.2:0\"\ntls = false\n"));
    let mut daemon = site.start();
    let addresses = daemon.addresses("listening tcp ");
    let mut kept = TcpStream::connect(addresses[0]).unwrap();
    assert_eq!(ask(&mut kept, &site.request(port, "/")).0, 200);
    let before = site.request(port, "/");

    // A new secret, one listener gone, one new, one with another credential.
    site.secret("second");
    let changed = PLAIN.replace("tls = false", "tls = false\ncredentials = [\"bound\", \"timestamp\"]");
    site.configure("admin = \"127.0.0.1:1\"", &format!("{changed}[[listen]]\naddress = \"127.0.0.3:0\"\n"));
    daemon.signal(Signal::HUP);
    assert!(daemon.line().starts_with("listening tls 127.0.0.3:"));
    until("the reload", || daemon.metric("portsplice_config_reloads_total{result=\"applied\"}") == 1.0);
    until("the end of the removed listener", || TcpStream::connect(addresses[1]).is_err());

    let mut new = TcpStream::connect(addresses[0]).unwrap();
    assert_eq!(ask(&mut new, &site.request(port, "/")).0, 200);
    let mut old_secret = TcpStream::connect(addresses[0]).unwrap();
    assert_eq!(ask(&mut old_secret, &before).0, 401);
    let log = daemon.stop();
    assert!(log.contains("`admin` has changed; restart the node"), "{log}");
    assert!(log.contains("stopped listening on tcp 127.0.0.2:"), "{log}");
}

#[test]
fn a_connection_outlives_a_reload() {
    let site = Site::new();
    let port = origin();
    site.configure(ADMIN, PLAIN);
    let daemon = site.start();
    let mut kept = TcpStream::connect(daemon.address("listening tcp ")).unwrap();
    assert_eq!(ask(&mut kept, &site.request(port, "/")).0, 200);
    site.secret("second");
    daemon.signal(Signal::HUP);
    until("the reload", || daemon.metric("portsplice_config_reloads_total{result=\"applied\"}") == 1.0);
    assert_eq!(ask(&mut kept, &site.request(port, "/")).0, 200, "with the new secret on the old connection");
    daemon.stop();
}

#[test]
fn a_bad_configuration_leaves_the_old_one_in_force() {
    let site = Site::new();
    let port = origin();
    site.configure(ADMIN, PLAIN);
    let daemon = site.start();
    let rejected = |n: f64| {
        until("the rejection", || daemon.metric("portsplice_config_reloads_total{result=\"rejected\"}") == n);
    };
    // Not understood; understood, with an address that is taken, beside one that is free; with a secret that others read.
    site.configure("admin = 5", PLAIN);
    daemon.signal(Signal::HUP);
    rejected(1.0);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen =
        format!("[[listen]]\naddress = \"127.0.0.4:0\"\n[[listen]]\naddress = \"{}\"\n", taken.local_addr().unwrap());
    site.configure(ADMIN, &listen);
    daemon.signal(Signal::HUP);
    rejected(2.0);
    site.configure(ADMIN, PLAIN);
    site.secret("second");
    fs::set_permissions(site.path("root"), Permissions::from_mode(0o644)).unwrap();
    daemon.signal(Signal::HUP);
    rejected(3.0);

    site.secret("first");
    let mut stream = TcpStream::connect(daemon.address("listening tcp ")).unwrap();
    assert_eq!(ask(&mut stream, &site.request(port, "/")).0, 200);
    let log = daemon.stop();
    assert!(log.contains("keeping the previous configuration: ") && log.contains("`admin` is `5`"), "{log}");
    assert!(log.contains("cannot listen on 127.0.0.1:") && log.contains("chmod 600"), "{log}");
    assert!(!log.contains("127.0.0.4"), "nothing of a bad configuration is put in force: {log}");
}

#[test]
fn the_log_level_follows_signals() {
    let site = Site::new();
    site.configure("log = { level = \"info\", format = \"json\" }", PLAIN);
    let daemon = site.start();
    daemon.signal(Signal::USR1);
    thread::sleep(Duration::from_millis(200));
    drop(TcpStream::connect(daemon.address("listening tcp ")).unwrap());
    thread::sleep(Duration::from_millis(200));
    daemon.signal(Signal::USR2);
    thread::sleep(Duration::from_millis(200));
    let log = daemon.stop();
    assert!(log.contains("\"filter\":\"debug\"") && log.contains("\"filter\":\"info\""), "{log}");
    assert!(log.contains("\"level\":\"DEBUG\""), "{log}");
    assert!(log.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{log}");
}

#[test]
fn sigterm_finishes_what_runs() {
    let site = Site::new();
    let port = origin();
    site.configure(ADMIN, PLAIN);
    let daemon = site.start();
    let (address, admin) = (daemon.address("listening tcp "), daemon.address("admin http://"));
    let mut idle = TcpStream::connect(address).unwrap();
    assert_eq!(ask(&mut idle, &site.request(port, "/")).0, 200);
    let mut busy = TcpStream::connect(address).unwrap();
    busy.write_all(site.request(port, "/slow").as_bytes()).unwrap();
    thread::sleep(Duration::from_millis(300));
    daemon.signal(Signal::TERM);
    until("unreadiness", || get(admin, "/readyz").0 == 503);
    assert_eq!(get(admin, "/healthz").0, 200);
    assert!(TcpStream::connect(address).is_err(), "it still accepts");
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0, "the idle connection was not closed");
    assert_eq!(ask(&mut busy, ""), (200, "ok".to_owned()));
    let (status, log) = daemon.wait();
    assert!(status.success() && log.contains("all connections drained"), "{log}");
}

#[test]
fn the_deadline_and_a_second_signal_cut_what_runs() {
    let site = Site::new();
    let port = origin();
    for (timeout, second) in [("500ms", false), ("1h", true)] {
        site.configure(&format!("drain-timeout = \"{timeout}\""), PLAIN);
        let daemon = site.start();
        let mut busy = TcpStream::connect(daemon.address("listening tcp ")).unwrap();
        busy.write_all(site.request(port, "/never").as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        daemon.signal(Signal::TERM);
        if second {
            thread::sleep(Duration::from_millis(300));
            daemon.signal(Signal::INT);
        }
        let (status, log) = daemon.wait();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert!(status.success(), "{status}");
        assert!(log.contains("resetting the remaining connections") && log.contains("open=1"), "{log}");
        busy.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(matches!(busy.read(&mut [0; 1]), Ok(0) | Err(_)), "the connection was not ended");
    }
}

#[test]
fn systemd_passes_sockets_and_is_told_the_state() {
    let site = Site::new();
    site.configure("drain-timeout = \"3s\"", "[[listen]]\naddress = \"systemd:web\"\ntls = false\n");
    let notify = UnixDatagram::bind(site.path("notify")).unwrap();
    notify.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = |expected: &[&str]| loop {
        let mut message = [0; 4096];
        let n = notify.recv(&mut message).unwrap_or_else(|e| panic!("{expected:?} was not told: {e}"));
        let text = std::str::from_utf8(&message[..n]).unwrap();
        if expected.iter().all(|e| text.lines().any(|line| line.starts_with(e))) {
            return;
        }
    };
    let sockets = [TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap()];
    let address = sockets[1].local_addr().unwrap();
    let [first, second] = sockets.map(OwnedFd::from);
    // systemd passes sockets as descriptors from 3 on; the process id must be that of the program itself.
    let script = "exec 3<&0 4<&2 </dev/null 2>\"$0\"; LISTEN_PID=$$ exec \"$@\"";
    let node = site.command();
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(site.path("log")).arg(node.get_program()).args(node.get_args());
    command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "other:web");
    command.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "200000");
    command.stdin(Stdio::from(first)).stderr(Stdio::from(second)).stdout(Stdio::piped());
    let mut child = Guarded(command.spawn().unwrap());
    drop(command);

    told(&["READY=1", "STATUS=serving on tcp 127.0.0.1:"]);
    told(&["WATCHDOG=1"]);
    let mut line = String::new();
    BufReader::new(child.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("listening tcp {address}\n"));
    let port = origin();
    let mut stream = TcpStream::connect(address).unwrap();
    assert_eq!(ask(&mut stream, &site.request(port, "/")).0, 200);
    kill_process(Pid::from_child(&child.0), Signal::HUP).unwrap();
    told(&["RELOADING=1", "MONOTONIC_USEC="]);
    told(&["READY=1"]);
    assert_eq!(ask(&mut stream, &site.request(port, "/")).0, 200, "a passed socket is kept at a reload");
    kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
    told(&["STOPPING=1", "EXTEND_TIMEOUT_USEC=13000000"]);
    assert!(child.0.wait().unwrap().success());
    let log = fs::read_to_string(site.path("log")).unwrap();
    assert!(log.contains("a socket that no listener asks for") && log.contains("other"), "{log}");
}

#[test]
fn nobody_has_to_read_what_it_prints() {
    let site = Site::new();
    site.configure(ADMIN, PLAIN);
    let mut command = site.command();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Guarded(command.spawn().unwrap());
    drop(child.0.stdout.take());
    drop(child.0.stderr.take());
    thread::sleep(Duration::from_millis(800));
    kill_process(Pid::from_child(&child.0), Signal::HUP).unwrap();
    thread::sleep(Duration::from_millis(300));
    assert!(child.0.try_wait().unwrap().is_none(), "it ended because nobody reads its output");
    kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
    assert!(child.0.wait().unwrap().success());
}

#[test]
fn it_does_not_start_with_what_it_cannot_have() {
    let site = Site::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    site.configure("", &format!("{PLAIN}[[listen]]\naddress = \"{address}\"\n"));
    let output = site.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "nothing is announced unless everything stands");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains(&format!("cannot listen on {address}")) && text.contains("ss -ltnp"), "{text}");
    let output = site.command().args(["--log-format", "json"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("cannot listen on") && text.lines().all(|line| line.starts_with('{')), "{text}");

    // Another user's secret: root can read it only with a capability that it has given up.
    std::os::unix::fs::chown(site.path("root"), Some(65_534), None).unwrap();
    let output = site.command().output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("Permission denied") && text.contains("(chown)"), "{text}");
}
