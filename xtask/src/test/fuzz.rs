//! A bounded run of each fuzz target.
//!
//! The folder fuzz/ is laid out as cargo-fuzz wants it, and cargo-fuzz is the tool for a hunt of hours. For this short run
//! it is not needed: what it does is to build with LLVM's coverage instrumentation and to call the binary, and that takes no
//! nightly, since the code under test is safe Rust and so needs no sanitizer. Findings are kept in fuzz/artifacts.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use portsplice_tooling::{command, workspace};

use super::tally::Tally;
use super::watch;

/// Seconds that each target runs.
const SECONDS: u64 = 8;

/// What cargo-fuzz passes to the compiler, without its sanitizers.
const FLAGS: [&str; 9] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "--cfg=fuzzing",
];

/// Whether there are fuzz targets.
pub(crate) fn exists() -> bool {
    workspace::root().join("fuzz/Cargo.toml").exists()
}

/// Builds all targets, and runs one after the other.
pub(crate) fn run() -> anyhow::Result<Tally> {
    let host = host()?;
    let target_dir = workspace::target_dir().join("fuzz");
    let mut build = command::cargo();
    build.args(["build", "--locked", "--release", "--bins", "--manifest-path", "fuzz/Cargo.toml", "--target", &host]);
    // With a target given, the flags are for the code under test and not for build scripts and macros.
    build.arg("--target-dir").arg(&target_dir).env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    command::run(&mut build)?;

    let binaries = target_dir.join(host).join("release");
    let mut tally = Tally::default();
    for target in targets()? {
        tally = tally.plus(watch::run_one(&mut hunt(&binaries, &target)?, Duration::from_secs(SECONDS + 60))?);
    }
    Ok(tally)
}

/// The compiler's name for this machine.
fn host() -> anyhow::Result<String> {
    let version = command::output(command::command("rustc").arg("-vV")).context("run rustc -vV")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` tells no host")?;
    Ok(host.to_owned())
}

/// Names of the fuzz targets.
fn targets() -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir("fuzz/fuzz_targets").context("read fuzz/fuzz_targets")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

/// The command that runs one target: libFuzzer's options, a folder for what it finds interesting, and the seeds.
fn hunt(binaries: &std::path::Path, target: &str) -> anyhow::Result<Command> {
    let found = workspace::target_dir().join("fuzz/corpus").join(target);
    let artifacts = PathBuf::from("fuzz/artifacts").join(target);
    for folder in [&found, &artifacts] {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let mut fuzz = command::command(binaries.join(target));
    fuzz.arg(format!("-max_total_time={SECONDS}")).arg("-timeout=10").arg("-rss_limit_mb=1024");
    fuzz.arg("-print_final_stats=1").arg("-verbosity=0");
    fuzz.arg(format!("-artifact_prefix={}/", artifacts.display())).arg(&found);
    for seeds in ["fuzz/seeds", "fuzz/corpus"].map(|folder| PathBuf::from(folder).join(target)) {
        if seeds.is_dir() {
            fuzz.arg(seeds);
        }
    }
    Ok(fuzz)
}
