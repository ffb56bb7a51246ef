//! A short soak: requests of all kinds and sizes over a few connections at once, each answer checked to the byte.

use std::any::Any;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::bail;
use portsplice_tests::client::{Caller, Conn, Proof, Version};
use portsplice_tests::node::Node;
use portsplice_tests::origin::contract;
use portsplice_tests::pattern;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::sign::Scheme;

use crate::record::{Load, Record, Soak};

/// Clients at once.
const CLIENTS: u64 = 8;
/// Requests of each.
const EXCHANGES: u64 = 60;
/// The largest body.
const LARGEST: u64 = 16 << 20;

/// Soaks a node that relays by `way`: a value of the setting `relay.path`, or `tls`.
pub(crate) fn run(way: &str) -> anyhow::Result<Vec<Record>> {
    let path = if way == "tls" { Path::Tls } else { Path::Splice };
    let rig = Rig::with(path, |config| {
        config.set("relay", "path", if way == "copy" { "\"copy\"" } else { "\"auto\"" });
        config.set("bpf", "mode", "\"auto\"");
    });
    let origin = rig.serve(contract::serve);
    let node = rig.node();
    let to = Target {
        address: if path == Path::Tls { node.tls[0] } else { node.plain[0] },
        tls: path == Path::Tls,
        caller: node.caller(Scheme::Bound, &rig.name, origin.port()),
    };
    let began = Instant::now();
    let failures = to.soak();
    let seconds = began.elapsed().as_secs_f64();
    let soak = Soak { way: way.to_owned(), exchanges: CLIENTS * EXCHANGES, seconds, relayed: relayed(node), failures };
    let mut records = vec![Record::Soak(soak)];
    if way == "auto" {
        records.insert(0, Record::Load(load(node)));
    }
    Ok(records)
}

/// What the node's start said of the kernel, and what it complained about.
fn load(node: &Node) -> Load {
    let text = |record: &serde_json::Map<_, serde_json::Value>, key: &str| {
        record.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
    };
    let records = node.log_records();
    let told = records.iter().filter(|record| {
        let message = text(record, "message");
        matches!(text(record, "level").as_str(), "WARN" | "ERROR")
            || message.contains("BPF")
            || message.contains("fast")
    });
    let log = told.map(|record| format!("{}: {}", text(record, "level").to_lowercase(), text(record, "message")));
    Load { log: log.collect(), up: node.metric("portsplice_bpf_up", &[]) > 0.0 }
}

/// Bytes by path, both directions together.
fn relayed(node: &Node) -> BTreeMap<String, u64> {
    let mut relayed = BTreeMap::new();
    for (name, value) in node.metrics() {
        let path = name.split_once("path=\"").and_then(|(_, rest)| rest.split('"').next());
        if let (true, Some(path)) = (name.starts_with("portsplice_relayed_bytes") && value > 0.0, path) {
            *relayed.entry(path.to_owned()).or_default() += value as u64;
        }
    }
    relayed
}

/// Where the clients go.
struct Target {
    address: SocketAddr,
    tls: bool,
    caller: Caller,
}

impl Target {
    /// Runs all clients; what they complain about.
    fn soak(&self) -> Vec<String> {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || self.client(n))).collect();
            let outcomes = clients.into_iter().map(|client| match client.join() {
                Ok(outcome) => outcome,
                Err(panic) => Err(anyhow::anyhow!(text_of(&*panic))),
            });
            outcomes.filter_map(|outcome| Some(format!("{:#}", outcome.err()?))).collect()
        })
    }

    fn connect(&self) -> anyhow::Result<Conn> {
        let stream = TcpStream::connect(self.address)?;
        let caller = Some(self.caller.clone());
        Ok(if self.tls { Conn::tls(stream, Version::Tls13, caller) } else { Conn::plain(stream, caller) })
    }

    fn client(&self, number: u64) -> anyhow::Result<()> {
        let mut random = Random(number);
        let mut conn = self.connect()?;
        for n in 0..EXCHANGES {
            // Each order of magnitude as often as any other.
            let magnitude = random.below(25);
            let length = random.below(LARGEST >> magnitude) + 1;
            let kind = random.below(6);
            if let Err(error) = exchange(&mut conn, kind, length, n) {
                bail!("client {number}, request {n} of kind {kind}, {length} bytes: {error:#}");
            }
            if kind == 2 {
                conn = self.connect()?;
            }
        }
        Ok(())
    }
}

/// One request and its answer.
fn exchange(conn: &mut Conn, kind: u64, length: u64, n: u64) -> anyhow::Result<()> {
    match kind {
        0 => download(conn, &format!("/bytes/{length}"), length, Duration::ZERO),
        1 => download(conn, &format!("/chunked/{length}"), length, Duration::ZERO),
        2 => download(conn, &format!("/close/{length}"), length, Duration::ZERO),
        // A reader that is slower than the server: the way in between fills up and empties again.
        3 => download(conn, &format!("/bytes/{length}"), length, Duration::from_millis(1)),
        4 => {
            let answer = conn.post("/sink", &pattern::bytes(usize::try_from(length)?)).text();
            anyhow::ensure!(answer == format!("{length} {}\n", pattern::sha256(length)), "the server got {answer:?}");
            Ok(())
        }
        _ => {
            let count = length % 100;
            let answer = conn.get(&format!("/events/{count}")).text();
            let expected: String = (0..count).map(|i| format!("data: {i}\n\n")).collect();
            anyhow::ensure!(answer == expected, "events of request {n}: {answer:?}");
            Ok(())
        }
    }
}

fn download(conn: &mut Conn, target: &str, length: u64, pause: Duration) -> anyhow::Result<()> {
    conn.send("GET", target, &[], b"");
    let (_, head, framing) = conn.final_head(Proof::Owed);
    anyhow::ensure!(head.status() == 200, "{}", head.line);
    let mut check = pattern::Check::default();
    conn.body_into(framing, &mut |part| {
        check.update(part);
        std::thread::sleep(pause);
    })?;
    anyhow::ensure!(check.len() == length, "{} of {length} bytes came", check.len());
    Ok(())
}

/// What a panic says.
pub(crate) fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words").to_owned()
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit.max(1)
    }
}
