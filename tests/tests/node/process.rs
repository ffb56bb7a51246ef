//! The daemon as a process: what it may do, what it says when it is told to say more, what its kernel program sees.

use std::collections::BTreeSet;
use std::path::PathBuf;

use portsplice_tests::net::Netns;
use portsplice_tests::node::{Node, NodeConfig};
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::{privileged, wait};
use rustix::process::Signal;
use rustix::thread::CapabilitySet;

/// The capabilities of the table in ARCHITECTURE.md, which is what operators are told.
fn documented(with_bpf: bool) -> CapabilitySet {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).expect("ARCHITECTURE.md");
    let rows = text.lines().filter(|line| line.starts_with("| `CAP_") && (with_bpf || !line.contains("`bpf.mode`")));
    let names = rows.flat_map(|line| line.split('|').nth(1).expect("a cell").split(','));
    names.fold(CapabilitySet::empty(), |all, name| {
        let name = name.trim().trim_matches('`').strip_prefix("CAP_").expect("a capability");
        all | CapabilitySet::from_name(name).unwrap_or_else(|| panic!("CAP_{name} is not known"))
    })
}

/// One field of the `status` of each of the daemon's threads (proc_pid_status(5)).
fn of_all_threads(node: &Node, field: &str) -> BTreeSet<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", node.pid())).expect("it runs");
    let statuses = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    statuses
        .map(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
            line.unwrap_or_else(|| panic!("no {field} in {status}")).to_owned()
        })
        .collect()
}

/// Every thread holds exactly what is documented, with and without the kernel's programs, and can get no more.
#[test]
fn privileges_are_those_documented() {
    if !privileged() {
        return;
    }
    for (mode, with_bpf) in [("\"required\"", true), ("\"off\"", false)] {
        let rig = Rig::with(Path::Splice, |config| {
            config.set("bpf", "mode", mode);
        });
        // Threads that only a request brings to life are to be among them.
        let _origin = rig.serve(contract::serve);
        assert_eq!(rig.connect().get("/status/204").status(), 204);
        let kept = format!("{:016x}", documented(with_bpf).bits());
        let none = format!("{:016x}", 0);
        for (field, expected) in
            [("CapPrm", &kept), ("CapEff", &kept), ("CapInh", &none), ("CapAmb", &none), ("CapBnd", &none)]
        {
            let found = of_all_threads(rig.node(), field);
            assert_eq!(found, BTreeSet::from([expected.clone()]), "{field} with bpf.mode {mode}");
        }
        assert_eq!(of_all_threads(rig.node(), "NoNewPrivs"), BTreeSet::from(["1".to_owned()]));
    }
}

/// SIGUSR1 and SIGUSR2 change what is logged while requests go on.
#[test]
fn the_log_level_follows_signals() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let _origin = rig.serve(contract::serve);
    let node = rig.node();
    // One request on a connection of its own. The daemon is through with it, and has said what it says of it, when it
    // counts no connection any more.
    let ask = || {
        let mut conn = rig.connect();
        assert_eq!(conn.get("/status/204").status(), 204);
        drop(conn);
        wait::until_true("the connection's end", || node.metric("portsplice_connections_open", &[]) == 0.0);
    };
    let count = |key: &str, value: &str| {
        node.log_records().iter().filter(|r| r.get(key).and_then(|v| v.as_str()) == Some(value)).count()
    };
    let access = || count("target", "portsplice::access");
    // Lines come in order: all that was said before is there when the change is.
    let signal = |signal: Signal, filter: &str, times: usize| {
        node.signal(signal);
        wait::until_true("the change of the level", || count("filter", filter) == times);
    };
    ask();
    signal(Signal::USR1, "debug", 1);
    assert_eq!((count("level", "DEBUG"), access()), (0, 1));
    ask();
    signal(Signal::USR2, "info", 1);
    let debug = count("level", "DEBUG");
    assert!(debug > 0 && access() == 2, "{debug} at DEBUG, {} of the access log", access());
    ask();
    signal(Signal::USR2, "warn", 1);
    assert_eq!((count("level", "DEBUG"), access()), (debug, 3));
    ask();
    signal(Signal::USR1, "info", 2);
    assert_eq!(access(), 3, "the access log is at level info");
    ask();
    wait::until_true("the access log again", || access() == 4);
    assert_eq!(count("level", "DEBUG"), debug);
}

/// The kernel program sees the sockets of a registered container, and no others; `/metrics` tells.
#[test]
fn sockets_of_containers_are_counted_in_the_kernel() {
    if !privileged() {
        return;
    }
    let events = |node: &Node| {
        ["listen_opened", "listen_closed", "established_active", "established_passive", "closed"]
            .map(|event| node.metric("portsplice_bpf_socket_events_total", &[&format!("event=\"{event}\"")]))
    };
    let rig = Rig::with(Path::Splice, |config| {
        config.set("bpf", "mode", "\"required\"");
    });
    assert_eq!(rig.node().metric("portsplice_bpf_up", &[]), 1.0);
    assert_eq!(events(rig.node()), [0.0; 5]);
    let mut origin = rig.serve(contract::serve);
    let conns = [(); 3].map(|()| {
        let mut conn = rig.connect();
        for _ in 0..5 {
            assert_eq!(conn.get("/bytes/100000").body.len(), 100_000);
        }
        conn
    });
    assert_eq!(events(rig.node()), [1.0, 0.0, 3.0, 3.0, 0.0], "both ends of each connection are in the container");

    // A namespace that is nobody's container.
    let stranger = Netns::new();
    let other = Origin::start(&stranger, "127.0.0.1:0", contract::serve);
    drop(stranger.connect(([127, 0, 0, 1], other.port()).into()).expect("it listens"));
    drop(other);

    drop(conns);
    origin.stop_listening();
    drop(origin);
    wait::until_true("all is closed", || events(rig.node()) == [1.0, 1.0, 3.0, 3.0, 6.0]);
    // Another daemon beside it counts for itself.
    let mut second = NodeConfig::new();
    let second = second.set("bpf", "mode", "\"required\"").start();
    assert_eq!(events(&second), [0.0; 5]);
}
