//! The corpus of raw requests (tests/h1, see its README): every case through the real daemon to a recording server.

use std::path::Path;
use std::process::Command;

use portsplice_tests::client::{Conn, Version};
use portsplice_tests::net::Netns;
use portsplice_tests::node::NodeConfig;
use portsplice_tests::privileged;
use portsplice_tests::process::try_run;

/// Runners at once; most of a runner's time is waiting whether something more comes.
const SHARDS: usize = 12;
const PORT: u16 = 18080;

fn every_case(tls: bool) {
    if !privileged() {
        return;
    }
    let uuid = |shard: usize| format!("zzzzz-dz642-{shard:015}");
    let netns: Vec<Netns> = (0..SHARDS).map(|_| Netns::new()).collect();
    let mut config = NodeConfig::new();
    for (shard, netns) in netns.iter().enumerate() {
        config.container(&uuid(shard), &format!("netns = {:?}\n", netns.path()));
    }
    let node = config.start();
    let gateway = if tls { node.tls[0] } else { node.plain[0] };
    let certificate =
        Conn::tls(node.tcp(node.tls[0]), Version::Tls13, None).channel().certificate.clone().expect("one");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("h1");
    let run = &|shard: usize| {
        let mut command = Command::new("python3");
        command.arg(corpus.join("run_cases.py")).args(["--gateway", &gateway.to_string()]);
        command.args(["--backend-port", &PORT.to_string(), "--shard", &format!("{shard}/{SHARDS}")]);
        command.arg("--auth-plugin").arg(corpus.join("gateway_auth.py"));
        // Generous where a case waits for something to happen, since the machine may be busy.
        command.args(["--wait", "5", "--quiet", "0.25"]);
        if tls {
            command.arg("--tls");
        }
        command.env("H1_ROOT", &node.site.root).env("H1_UUID", uuid(shard)).env("H1_PORT", PORT.to_string());
        command.env("H1_NETNS", netns[shard].path()).env("H1_SCHEME", if tls { "certificate" } else { "bound" });
        command.env("H1_CERTIFICATE", hex::encode(&certificate)).env("PYTHONDONTWRITEBYTECODE", "1");
        try_run(&mut command, None)
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SHARDS).map(|shard| scope.spawn(move || run(shard))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a runner")).collect()
    });
    let (mut passed, mut failed, mut said) = (0, 0, String::new());
    for (ok, out, err) in outcomes {
        // The last line: `N passed, N failed`.
        let numbers: Vec<usize> =
            out.lines().last().unwrap_or_default().split(' ').filter_map(|w| w.parse().ok()).collect();
        assert_eq!(numbers.len(), 2, "a runner broke off:\n{out}{err}");
        passed += numbers[0];
        failed += numbers[1];
        if !ok {
            let lines = out.lines().filter(|l| ["FAIL", "ERROR", "lenient"].iter().any(|w| l.starts_with(w)));
            lines.for_each(|line| said.extend([line, "\n"]));
        }
    }
    assert!(failed == 0, "{passed} passed, {failed} failed\n{said}");
    assert_eq!(passed, 319, "the corpus is whole");
}

/// Over plain TCP, each request signed for itself.
#[test]
fn plain() {
    every_case(false);
}

/// Over TLS, with the credential that existing controllers send.
#[test]
fn tls() {
    every_case(true);
}
