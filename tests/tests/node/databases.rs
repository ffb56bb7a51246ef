//! Debian's Redis and PostgreSQL behind an `Upgrade: tcp` tunnel, used by their own clients.

use std::process::Command;

use portsplice_tests::client::{Conn, Version};
use portsplice_tests::forwarder::{Forwarder, Mode};
use portsplice_tests::process::{Process, run, try_run};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::sign::Scheme;
use portsplice_tests::{over_paths, wait};

/// A local port that leads to a port of the rig's container, over a path.
pub(crate) fn forward(rig: &Rig, path: Path, mode: Mode, port: u16) -> Forwarder {
    if path == Path::Direct {
        // The test's own threads enter the namespace; a descriptor of it is all they need.
        let netns = std::fs::File::open(rig.netns.path()).expect("the namespace");
        return Forwarder::start(mode, move || {
            let inside = |netns: &std::fs::File| {
                use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
                let fd = std::os::fd::AsFd::as_fd(netns);
                move_into_link_name_space(fd, Some(LinkNameSpaceType::Network)).expect("enter");
                std::net::TcpStream::connect(("127.0.0.1", port)).expect("the server listens")
            };
            let stream = std::thread::scope(|scope| scope.spawn(|| inside(&netns)).join().expect("connected"));
            Conn::plain(stream, None)
        });
    }
    let node = rig.node();
    let caller = node.caller(Scheme::Bound, &rig.name, port);
    let (plain, tls) = (node.plain[0], node.tls[0]);
    Forwarder::start(mode, move || {
        let to = |address| std::net::TcpStream::connect(address).expect("the gateway listens");
        match path {
            Path::Tls => Conn::tls(to(tls), Version::Tls13, Some(caller.clone())),
            _ => Conn::plain(to(plain), Some(caller.clone())),
        }
    })
}

over_paths! {
    /// redis-cli with small and large values, and redis-benchmark with many connections and pipelining.
    fn redis(path) {
        let rig = Rig::new(path);
        let port = rig.netns.free_port();
        let dir = tempfile::tempdir().expect("a directory");
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(dir.path());
        let _server = Process::spawn("redis-server", &mut command, Some(&rig.netns));
        wait::until_true("Redis listens", || rig.netns.connect(([127, 0, 0, 1], port).into()).is_ok());
        let local = forward(&rig, rig.path, Mode::Tunnel, port);
        let at = local.address.port().to_string();
        let cli = |args: &[&str]| run(Command::new("redis-cli").args(["-p", &at]).args(args), None);
        assert_eq!(cli(&["PING"]).trim(), "PONG");
        let value = "x".repeat(100_000);
        assert_eq!(cli(&["SET", "large", &value]).trim(), "OK");
        assert_eq!(cli(&["GET", "large"]).trim(), value);
        assert_eq!(cli(&["EVAL", "return string.rep('y', 5000000)", "0"]).trim().len(), 5_000_000);
        let report = run(
            Command::new("redis-benchmark").args(["-p", &at, "-t", "set,get,lrange_100", "-n", "3000", "-c", "30", "-P", "8", "-q"]),
            None,
        );
        assert_eq!(report.matches("requests per second").count(), 4, "{report}");
    }
}

/// psql over a tunnel: the startup packet, TLS refusal of PostgreSQL's own, a result of many rows, COPY both ways.
#[test]
fn postgresql() {
    if !portsplice_tests::privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let port = rig.netns.free_port();
    let dir = tempfile::Builder::new().prefix("portsplice-pg-").tempdir_in("/tmp").expect("a directory");
    let data = dir.path().join("data");
    let (data_text, socket_dir) = (data.to_str().expect("UTF-8"), dir.path().to_str().expect("UTF-8"));
    let bin = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL of Debian").flatten().next();
    let bin = bin.expect("a version of it").path().join("bin");
    // PostgreSQL refuses to run as root.
    run(Command::new("chown").args(["-R", "postgres", socket_dir]), None);
    let as_postgres = |program: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(bin.join(program));
        command
    };
    run(as_postgres("initdb").args(["-D", data_text, "-A", "trust", "--no-sync"]), None);
    let mut command = as_postgres("postgres");
    command.args(["-D", data_text, "-p", &port.to_string(), "-h", "127.0.0.1", "-k", socket_dir, "-F"]);
    let mut server = Process::spawn("postgres", &mut command, Some(&rig.netns));
    let local = forward(&rig, rig.path, Mode::Tunnel, port);
    let psql = |sql: &str| {
        let mut command = Command::new("psql");
        command.args(["-h", "127.0.0.1", "-p", &local.address.port().to_string(), "-U", "postgres", "-Atc", sql]);
        try_run(&mut command, None)
    };
    wait::until_true("PostgreSQL answers", || {
        assert!(server.running(), "{}", server.log());
        rig.netns.connect(([127, 0, 0, 1], port).into()).is_ok() && psql("SELECT 1").0
    });
    let rows = psql("SELECT repeat(md5(i::text), 10) FROM generate_series(1, 20000) i");
    assert!(rows.0 && rows.1.lines().count() == 20_000, "{}", rows.2);
    let sum = psql("CREATE TABLE t AS SELECT i FROM generate_series(1, 100000) i; SELECT sum(i) FROM t");
    assert_eq!(sum.1.lines().last(), Some("5000050000"), "{}", sum.2);
    // An orderly end, so that its shared memory goes with it.
    server.signal(rustix::process::Signal::INT);
    server.wait();
}
