//! Thousands of connections of all lengths, paces and faults, each byte checked; and nothing is left behind.
//!
//! `PORTSPLICE_SEED=N` plays others; with `PORTSPLICE_PLAY=N` one of them alone.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

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

/// What is done to the daemon while it is played with.
type Meanwhile = fn(&Rig, u64);

fn endure(path: Path, plays: u64, meanwhile: Meanwhile) {
    // One after the other: each alone keeps the machine busy.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !privileged() {
        return;
    }
    let seed = soak::seed();
    let rig = Rig::with(path, |config| {
        config.set("log", "access", "false");
    });
    let score = Arc::new(Score::default());
    let origin = soak::serve(&rig, seed, &score);
    let mut round = 0;
    let mut perform = |numbers| {
        soak::run(&rig.dialer(origin.port()), seed, soak::numbers(numbers), SIDE_BY_SIDE, &score, || {
            round += 1;
            meanwhile(&rig, round);
        });
    };
    let memory = || rig.node().status_kib("RssAnon");
    let files = rig.node().open_files();

    perform(0..WARM_UP);
    let before = memory();
    perform(WARM_UP..plays);
    let after = memory();
    report(&rig, seed, &score, before, after);

    // Nothing is left: in the daemon, at the server, in the kernel.
    wait::until_true("the server's handlers have ended", || origin.open() == 0);
    wait::until_true("no socket is left in the container", || sockets(Some(&rig.netns), &[]).is_empty());
    let listeners = [rig.node().plain[0], rig.node().tls[0]];
    for port in listeners.map(|listener| listener.port()) {
        let ours = format!("( sport = :{port} or dport = :{port} )");
        wait::until_true("no connection is left at the daemon", || sockets(None, &[&ours]).is_empty());
    }
    for gauge in ["portsplice_connections_open", "portsplice_tunnels_open", "portsplice_fast_flows"] {
        wait::until_true(gauge, || rig.node().metric(gauge, &[]) == 0.0);
    }
    // Idle pipes are kept, a bounded number of them.
    let idle = 2 * 64;
    rig.node().until_files(files + idle);
    assert!(after <= before + KIB, "the daemon's own memory grew from {before} KiB to {after} KiB");
}

fn report(rig: &Rig, seed: u64, score: &Score, before: u64, after: u64) {
    let failures = score.failures();
    let plays = score.plays.load(Ordering::Relaxed);
    let gigabytes = |bytes: f64| bytes / 1e9;
    let checked = gigabytes(score.bytes.load(Ordering::Relaxed) as f64);
    let fast = gigabytes(rig.node().metric("portsplice_fast_bytes_total", &[]).max(0.0));
    #[expect(clippy::print_stderr, reason = "the figures are wanted, and `--nocapture` shows them")]
    {
        let path = rig.path;
        eprintln!(
            "{path:?}: {plays} plays, {checked:.1} GB checked, {fast:.1} GB past the daemon, {before} KiB before, {after} KiB after"
        );
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

/// Nothing in particular.
fn nothing(_: &Rig, _: u64) {}

/// Has the daemon change its mind on how to move bytes, several times a second; what runs goes on as it began or changes, too.
fn flap(rig: &Rig, round: u64) {
    const PATHS: [&str; 6] = ["\"fast\"", "\"auto\"", "\"fast\"", "\"splice\"", "\"fast\"", "\"copy\""];
    if round.is_multiple_of(8) {
        let path = PATHS[(round / 8 % 6) as usize];
        rig.reconfigure(|config| {
            config.set("relay", "path", path);
        });
    }
}

/// Past the daemon.
#[test]
fn fast() {
    endure(Path::Fast, 2400, nothing);
}

/// By all paths in turn.
#[test]
fn flapping() {
    endure(Path::Fast, 1200, flap);
}

/// By splice(2).
#[test]
fn splice() {
    endure(Path::Splice, 600, nothing);
}

/// By copying.
#[test]
fn copy() {
    endure(Path::Copy, 500, nothing);
}

/// Under TLS.
#[test]
fn tls() {
    endure(Path::Tls, 500, nothing);
}
