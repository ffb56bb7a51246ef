//! `cargo xtask test`: everything that shows whether Portsplice works, in parts.

mod fuzz;
mod part;
mod tally;
mod watch;

use std::time::{Duration, Instant};

use anyhow::bail;
use portsplice_tooling::{command, workspace};

use crate::{build_ebpf, setup};
use part::Part;
use tally::Tally;

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only this part (may be given several times; `--list` names them)
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Name the parts and run none
    #[arg(long)]
    list: bool,
}

/// Runs the parts that are wanted, one after the other, and sums up.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let parts = part::all()?;
    if args.list {
        for part in &parts {
            println!("{:<16} {}", part.name, part.what);
        }
        return Ok(());
    }
    if let Some(unknown) = args.only.iter().find(|&name| !parts.iter().any(|part| part.name == *name)) {
        let names: Vec<_> = parts.iter().map(|part| part.name.as_str()).collect();
        bail!("there is no part `{unknown}`, but: {}", names.join(", "));
    }
    let wanted = |part: &&Part| args.only.is_empty() || args.only.contains(&part.name);
    prepare()?;
    let results: Vec<_> = parts.iter().filter(wanted).map(run_part).collect();
    conclude(&results)
}

/// What all parts need: the tools, the eBPF object inside the daemon, and the daemon.
fn prepare() -> anyhow::Result<()> {
    setup::run(setup::Args::of(setup::Purpose::Test))?;
    build_ebpf::run(build_ebpf::Args::default())?;
    command::run(command::cargo().args(["build", "--workspace"]))
}

/// What came of a part.
struct Outcome<'a> {
    part: &'a Part,
    tally: Tally,
    took: Duration,
}

fn run_part(part: &Part) -> Outcome<'_> {
    println!("\n== {}: {}", part.name, part.what);
    let started = Instant::now();
    let tally = part.run().unwrap_or_else(|error| {
        println!("{}: {error:#}", part.name);
        Tally::FAILURE
    });
    Outcome { part, tally, took: started.elapsed() }
}

/// Prints what came of it, the sum alone on the last line.
fn conclude(results: &[Outcome<'_>]) -> anyhow::Result<()> {
    println!("\n{:<16} {:>7} {:>7} {:>8}", "part", "passed", "failed", "seconds");
    for Outcome { part, tally, took } in results {
        println!("{:<16} {:>7} {:>7} {:>8.1}", part.name, tally.passed, tally.failed, took.as_secs_f64());
    }
    let sum = results.iter().fold(Tally::default(), |sum, outcome| sum.plus(outcome.tally));
    println!("in {}", workspace::root().display());
    println!("{} passed, {} failed", sum.passed, sum.failed);
    if sum.failed > 0 {
        std::process::exit(1); // the sum is the last word
    }
    Ok(())
}
