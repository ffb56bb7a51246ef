//! `cargo xtask bench`: the data paths beside the direct connection and beside other proxies.
//!
//! Three network namespaces stand for controller, node and container. In each round every system is tried in turn, the
//! order shifted by one from round to round, and each reading is set in relation to the direct way's of the same
//! round; what is reported are medians over the rounds, with their spread. No time is ever asserted.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks on its standard streams")]

mod discovery;
mod load;
mod machine;
mod measure;
mod only;
mod origin;
mod peers;
mod registry;
mod report;
mod route;
mod stats;
mod system;
mod topology;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use portsplice_tooling::child::Guarded;
use portsplice_tooling::program::Profile;
use portsplice_tooling::{command, interrupt, program, workspace};

use self::load::Amounts;
use self::measure::Trial;
use self::only::Only;
use self::report::{Facts, Results};
use self::system::{Launcher, Running, System};
use self::topology::Topology;

/// Above this share of the machine in use by others, the results say more about the others.
const TOO_BUSY: f64 = 0.1;

/// Rounds of a quick run, whose figures nobody should believe.
const QUICK_ROUNDS: u16 = 3;

/// Measure the data paths beside the direct connection and other proxies
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Args {
    /// Measure only this (may be given several times)
    #[arg(long, value_name = "MEASURE", value_parser = only::parser())]
    only: Vec<Only>,
    /// Compare only these with the direct way
    #[arg(long, value_name = "SYSTEM", value_delimiter = ',')]
    systems: Vec<System>,
    /// Rounds, at least 5; a quick run has 3
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(5..=99))]
    runs: u16,
    /// Write rows {measure, system, value, unit, ratio_to_direct} to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Less of everything, in about a minute: does it work, not how fast is it
    #[arg(long)]
    quick: bool,
    /// Write table and chart to this folder [default: docs/bench for a full run, else none]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Use this `portsplice` (of `--only registry`, the example `registry_load`) instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

/// Other measurements, and what the bench starts itself as.
#[derive(Subcommand)]
enum Role {
    /// Measure what it costs the node to know which ports listen, when nothing changes
    Discovery(discovery::Args),
    /// The server in the container
    #[command(hide = true)]
    Origin,
    /// A container that listens
    #[command(hide = true)]
    Listeners {
        /// How many ports
        ports: u16,
    },
}

fn main() -> ExitCode {
    program::exit(run(Args::parse()))
}

fn run(args: Args) -> anyhow::Result<()> {
    match args.role {
        Some(Role::Origin) => return origin::serve(),
        Some(Role::Listeners { ports }) => return discovery::serve(ports),
        Some(Role::Discovery(discovery)) => {
            workspace::enter()?;
            return measure_discovery(&discovery, args.binary.as_deref());
        }
        None => workspace::enter()?,
    }
    if args.binary.is_none() {
        command::run(command::xtask().args(["setup", "--for", "bench"]))?;
    }
    if args.only.contains(&Only::Registry) {
        ensure!(args.only.len() == 1, "`--only registry` has a table of its own; measure the data paths separately");
        return registry::run(args.binary.as_deref(), args.quick, args.out.as_deref());
    }
    ensure!(rustix::process::geteuid().is_root(), "the bench makes network namespaces: run it as root (sudo -E)");
    let systems = wanted_systems(&args.systems);
    ensure_installed(&systems)?;
    let binary = if systems.iter().any(|s| s.is_ours()) {
        program::portsplice(args.binary.as_deref(), Profile::Release)?
    } else {
        PathBuf::new()
    };
    interrupt::watch()?;
    raise_file_limit();
    warn_if_busy()?;

    let started = Instant::now();
    let amounts = if args.quick { Amounts::QUICK } else { Amounts::FULL };
    let trials = wanted_trials(&args.only);
    let rounds = if args.quick { QUICK_ROUNDS } else { args.runs };
    let results = measure_all(&systems, &trials, amounts, rounds, &binary)?;
    let facts = Facts::gather(&systems, &binary, rounds, args.quick, started.elapsed())?;

    print!("{}", report::markdown::render(&results, &facts));
    if let Some(file) = &args.json {
        report::write_json(&results, file)?;
    }
    let whole = args.only.is_empty() && args.systems.is_empty() && !args.quick;
    let out = args.out.or_else(|| whole.then(|| workspace::root().join("docs/bench")));
    if let Some(folder) = out {
        report::write_folder(&results, &facts, &folder)?;
    }
    Ok(())
}

fn measure_discovery(discovery: &discovery::Args, binary: Option<&Path>) -> anyhow::Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "this makes network namespaces: run it as root (sudo -E)");
    let binary = program::portsplice(binary, Profile::Release)?;
    interrupt::watch()?;
    raise_file_limit();
    warn_if_busy()?;
    discovery::run(discovery, &binary)
}

/// The systems asked for, with the yardstick first in any case.
fn wanted_systems(asked: &[System]) -> Vec<System> {
    let wanted = |s: &System| *s == System::Direct || asked.is_empty() || asked.contains(s);
    System::ALL.into_iter().filter(wanted).collect()
}

fn wanted_trials(asked: &[Only]) -> Vec<Trial> {
    let wanted = |t: &Trial| asked.is_empty() || t.measures().iter().any(|&m| asked.contains(&Only::Measure(m)));
    Trial::ALL.into_iter().filter(wanted).collect()
}

fn ensure_installed(systems: &[System]) -> anyhow::Result<()> {
    for (system, name) in [
        (System::HaproxyHttp, "haproxy"),
        (System::HaproxyTcp, "haproxy"),
        (System::Nginx, "nginx"),
        (System::Go, "go"),
        (System::Direct, "ip"),
        (System::Direct, "openssl"),
    ] {
        let found = !systems.contains(&system) || command::find(name).is_some();
        ensure!(found, "`{name}` is missing: cargo xtask setup installs it; or choose --systems");
    }
    Ok(())
}

/// 2,000 idle connections are twice as many descriptors in a proxy.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // Should it fail, connecting will say so.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn warn_if_busy() -> anyhow::Result<()> {
    let busy = machine::busy_share()?;
    if busy > TOO_BUSY {
        eprintln!("warning: {:.0} % of this machine is busy with something else; expect noise", busy * 100.0);
    }
    Ok(())
}

fn measure_all(
    systems: &[System],
    trials: &[Trial],
    mut amounts: Amounts,
    rounds: u16,
    binary: &Path,
) -> anyhow::Result<Results> {
    let folder = tempfile::Builder::new().prefix("portsplice-bench-").tempdir().context("make a folder")?;
    let topology = Topology::new()?;
    let mut server = start_origin(&topology, folder.path())?;
    let launcher = Launcher::new(&topology, folder.path(), binary, server.id())?;
    let mut results = Results::new(systems);
    let (lasting, fresh): (Vec<_>, Vec<_>) = trials.iter().partition(|t| **t != Trial::Idle);

    if !lasting.is_empty() {
        let mut running = systems.iter().map(|s| launcher.start(*s)).collect::<anyhow::Result<Vec<_>>>()?;
        fit_to_machine(&mut amounts, &topology, &running[0])?;
        for trial in lasting {
            eprintln!("{}: {rounds} rounds", names(trial));
            for round in 0..usize::from(rounds) {
                for at in 0..systems.len() {
                    let on = &mut running[(round + at) % systems.len()];
                    if !trial.suits(on.system) {
                        continue;
                    }
                    attempt(trial, &topology, on, &amounts, round, &mut results)?;
                }
                server.ensure_running()?;
            }
        }
    }
    for trial in fresh {
        eprintln!("{}: {rounds} rounds", names(trial));
        for round in 0..usize::from(rounds) {
            for at in 0..systems.len() {
                let system = systems[(round + at) % systems.len()];
                if !trial.suits(system) {
                    continue;
                }
                let mut on = launcher.start(system)?;
                attempt(trial, &topology, &mut on, &amounts, round, &mut results)?;
            }
        }
    }
    Ok(results)
}

/// Sizes the bulk transfers by the direct way's speed, the better of two tries.
fn fit_to_machine(amounts: &mut Amounts, topology: &Topology, direct: &Running) -> anyhow::Result<()> {
    let route = &direct.route;
    let probe = || topology.controller.enter(|| load::bulk::download(route, Amounts::PROBE));
    amounts.fit(Amounts::PROBE, probe()?.min(probe()?));
    eprintln!("bulk transfers of {} MB", amounts.bulk_bytes / 1_000_000);
    Ok(())
}

fn attempt(
    trial: Trial,
    topology: &Topology,
    on: &mut Running,
    amounts: &Amounts,
    round: usize,
    results: &mut Results,
) -> anyhow::Result<()> {
    interrupt::check()?;
    let readings = trial.run(&topology.controller, on, amounts);
    on.ensure_running()?;
    let readings = readings.with_context(|| format!("{} through {}", names(trial), on.system.name()))?;
    for (measure, value) in readings {
        results.add(measure, on.system, round, value);
    }
    Ok(())
}

fn names(trial: Trial) -> String {
    trial.measures().iter().map(|m| m.name()).collect::<Vec<_>>().join(", ")
}

/// Starts the server as a process inside the container's namespace.
fn start_origin(topology: &Topology, folder: &Path) -> anyhow::Result<Guarded> {
    let mut command = Command::new(workspace::program()?);
    command.arg("origin");
    let mut server = Guarded::spawn("server", &mut command, &folder.join("server.log"), Some(topology.container.fd()))?;
    server.line(Duration::from_secs(10))?;
    Ok(server)
}
