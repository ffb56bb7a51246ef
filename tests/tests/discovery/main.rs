//! Containers of engines and of files, and which ports listen in them: real servers that start, stop, restart and fork.

mod containers;
mod daemon;
mod hold;
mod servers;
mod unasked;

use std::collections::BTreeMap;
use std::net::IpAddr;

use portsplice_tests::node::{Node, NodeConfig};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::wait;
use serde_json::Value;

/// A daemon that learns of ports from the kernel's events: what it does because it is time is a day away.
fn by_news(config: &mut NodeConfig) {
    config.set("bpf", "mode", "\"required\"").set("ports", "rescan", "\"24h\"").set("log", "level", "\"debug\"");
}

/// One container with such a daemon.
#[track_caller]
fn rig() -> Rig {
    Rig::with(Path::Splice, by_news)
}

/// What the daemon says that listens, and the names of the processes.
fn listening(node: &Node) -> BTreeMap<(u16, IpAddr), Option<String>> {
    let mut ports = BTreeMap::new();
    for record in node.log_records() {
        let text = |key: &str| record.get(key).and_then(Value::as_str).map(str::to_owned);
        let place = || {
            let port = record.get("port").and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
            Some((port?, text("address")?.parse().ok()?))
        };
        match (text("message").as_deref(), place()) {
            (Some("port listening"), Some(place)) => drop(ports.insert(place, text("process"))),
            (Some("port closed"), Some(place)) => drop(ports.remove(&place)),
            _ => {}
        }
    }
    ports
}

/// Waits until just these ports listen, written as `ADDRESS PORT PROCESS`; the process's name may go on.
#[track_caller]
fn expect(node: &Node, expected: &[(&str, u16, &str)]) {
    let as_expected = |ports: &BTreeMap<(u16, IpAddr), Option<String>>| {
        ports.len() == expected.len()
            && expected.iter().all(|(address, port, process)| {
                let named = ports.get(&(*port, address.parse().expect("an address"))).and_then(Option::as_deref);
                named.is_some_and(|name| name.starts_with(process))
            })
    };
    wait::until_true(&format!("listening: {expected:?}\nlog:\n{}", node.log()), || as_expected(&listening(node)));
    #[expect(clippy::cast_precision_loss, reason = "a handful")]
    let count = expected.len() as f64;
    assert_eq!(node.metric("portsplice_ports_listening", &[]), count);
}
