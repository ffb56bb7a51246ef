//! Thousands of connections of all lengths, paces and faults, each byte checked; and nothing is left behind.
//!
//! `PORTSPLICE_SEED=N` plays others; with `PORTSPLICE_PLAY=N` one of them alone.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use portsplice_tests::net::Netns;
use portsplice_tests::process::run;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::soak::{self, Play, Score};
use portsplice_tests::{privileged, wait};

/// How many play at the same time.
const SIDE_BY_SIDE: usize = 40;
/// After this many plays all that a daemon allocates once is there.
const WARM_UP: u64 = 300;
/// How much more memory of its own a daemon may hold afterwards: what an allocator keeps, not what grows with each play.
const KIB: u64 = 8 * 1024;

/// The TCP sockets of a namespace that are neither listening nor past their end.
fn sockets(netns: Option<&Netns>, filter: &[&str]) -> Vec<String> {
    let mut ss = Command::new("ss");
    ss.args(["-Htan", "exclude", "time-wait", "exclude", "listening"]).args(filter);
    run(&mut ss, netns).lines().map(str::to_owned).collect()
}

fn endure(path: Path, plays: u64) {
    if !privileged() {
        return;
    }
    let seed = soak::seed();
    let rig = Rig::with(path, |config| {
        config.set("log", "access", "false");
    });
    let score = Arc::new(Score::default());
    let origin = soak::serve(&rig, seed, &score);
    let perform = |numbers| soak::run(&rig, origin.port(), seed, soak::numbers(numbers), SIDE_BY_SIDE, &score);
    let memory = || rig.node().status_kib("RssAnon");
    let files = rig.node().open_files();

    perform(0..WARM_UP);
    let before = memory();
    perform(WARM_UP..plays);
    let after = memory();
    report(path, seed, &score, before, after);

    // Nothing is left: in the daemon, at the server, in the kernel.
    wait::until_true("the server's handlers have ended", || origin.open() == 0);
    wait::until_true("no socket is left in the container", || sockets(Some(&rig.netns), &[]).is_empty());
    let ours = format!("( sport = :{0} or dport = :{0} )", rig.node().plain[0].port());
    wait::until_true("no connection is left at the daemon", || sockets(None, &[&ours]).is_empty());
    for gauge in ["portsplice_connections_open", "portsplice_tunnels_open"] {
        wait::until_true(gauge, || rig.node().metric(gauge, &[]) == 0.0);
    }
    // Idle pipes are kept, a bounded number of them.
    let idle = 2 * 64;
    rig.node().until_files(files + idle);
    assert!(after <= before + KIB, "the daemon's own memory grew from {before} KiB to {after} KiB");
}

fn report(path: Path, seed: u64, score: &Score, before: u64, after: u64) {
    let failures = score.failures();
    let plays = score.plays.load(Ordering::Relaxed);
    let gigabytes = score.bytes.load(Ordering::Relaxed) as f64 / 1e9;
    #[expect(clippy::print_stderr, reason = "the figures are wanted, and `--nocapture` shows them")]
    {
        eprintln!("{path:?}: {plays} plays, {gigabytes:.1} GB checked, {before} KiB before, {after} KiB after");
        for failure in failures.iter().take(10) {
            let index = failure.index;
            eprintln!(
                "PORTSPLICE_SEED={seed} PORTSPLICE_PLAY={index}: {}\n  {:?}",
                failure.what,
                Play::new(seed, index)
            );
        }
    }
    assert!(failures.is_empty(), "{} of {plays} plays failed (seed {seed}); the first are above", failures.len());
}

/// By splice(2).
#[test]
fn splice() {
    endure(Path::Splice, 2400);
}

/// By copying.
#[test]
fn copy() {
    endure(Path::Copy, 600);
}

/// Under TLS.
#[test]
fn tls() {
    endure(Path::Tls, 600);
}

/// Past the daemon.
#[test]
fn fast() {
    endure(Path::Fast, 2400);
}
