//! `portsplice check`: what this machine offers the daemon, item by item.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueHint};

use super::output;
use crate::app::daemon::{self, Role};
use crate::app::node::{NodeRole, bpf_settings};
use crate::config::{Config, NODE, Node, RoleSettings, Sources};
use crate::privileges;
use portsplice_bpf::{BpfMode, BpfSettings, Finding, Item, Kernel, Unavailable};
use portsplice_net::netns;

/// How long Docker's engine may take to say that it is there.
const DOCKER: Duration = Duration::from_secs(3);

/// What `portsplice check` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Keeps the privileges that the daemon would keep, loads its kernel programs, tests the fast path
in a network namespace of its own, and removes everything again. A running daemon
is not affected.

Each line begins with `ok`, `note` (works with limitations) or `FAIL` (the daemon would not start).
Exit code: 0 if the daemon could run, 1 if not.")]
pub(super) struct CheckArgs {
    /// The configuration to check; by default /etc/portsplice/node.toml, if it is there
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
}

/// What one line says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Ok,
    Note,
    Fail,
}

#[derive(Default)]
struct Report {
    text: String,
    failed: bool,
}

impl Report {
    fn line(&mut self, mark: Mark, text: &str) {
        let word = match mark {
            Mark::Ok => "ok",
            Mark::Note => "note",
            Mark::Fail => "FAIL",
        };
        self.failed |= mark == Mark::Fail;
        self.text.push_str(&format!("{word:<5} {text}\n"));
    }
}

pub(super) fn run(args: CheckArgs) -> Result<ExitCode> {
    let mut report = Report::default();
    let config = configuration(&mut report, args.config)?;
    let mode = config.as_ref().map_or(BpfMode::Auto, |config| config.bpf.mode);
    let open_files = capabilities(&mut report, mode)?;
    files(&mut report, config.as_ref(), open_files);
    kernel(&mut report, mode, config.as_ref());
    sockets(&mut report);
    docker(&mut report, config.as_ref())?;
    report.text.push_str(match report.failed {
        true => "\nThe daemon cannot start on this host.\n",
        false => "\nThis host is supported.\n",
    });
    output::print(report.text.as_bytes())?;
    Ok(if report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn configuration(report: &mut Report, file: Option<PathBuf>) -> Result<Option<Config>> {
    if file.is_none() && !PathBuf::from(NODE.default_file).exists() {
        report.line(
            Mark::Note,
            &format!("configuration: {} does not exist; checking with the defaults", NODE.default_file),
        );
        return Ok(None);
    }
    let shown = file.as_deref().map_or_else(|| NODE.default_file.to_owned(), |file| file.display().to_string());
    let sources = Sources { file, ..Sources::with_environment()? };
    let checked = Config::load(&sources)
        .map_err(anyhow::Error::from)
        .and_then(|config| daemon::check::<NodeRole>(&config).map(|()| config));
    match checked {
        Ok(config) => {
            report.line(Mark::Ok, &format!("configuration: {shown}"));
            config.warnings.iter().for_each(|warning| report.line(Mark::Note, &format!("configuration: {warning}")));
            Ok(Some(config))
        }
        Err(error) => {
            report.line(Mark::Fail, &format!("configuration: {error:#}"));
            Ok(None)
        }
    }
}

/// Gives the limit of open files.
fn capabilities(report: &mut Report, mode: BpfMode) -> Result<Option<u64>> {
    let privileges = privileges::reduce(mode)?;
    let kept: Vec<_> = privileges.kept.iter().map(ToString::to_string).collect();
    if !kept.is_empty() {
        report.line(Mark::Ok, &format!("capabilities: {}", kept.join(", ")));
    }
    let fatal = privileges.check().is_err();
    for (number, missing) in privileges.missing.iter().enumerate() {
        let mark = if fatal && number == 0 { Mark::Fail } else { Mark::Note };
        report.line(mark, &missing.to_string());
    }
    Ok(privileges.open_files)
}

fn files(report: &mut Report, config: Option<&Config>, limit: Option<u64>) {
    let files = limit.map_or_else(|| "no limit".to_owned(), |files| files.to_string());
    let settings = config.map_or_else(Node::defaults, |config| config.settings.clone());
    match NodeRole::descriptors(&settings, limit).warning(settings.clients.connections) {
        Some(warning) => report.line(Mark::Note, &format!("open files: {warning}")),
        None => report.line(Mark::Ok, &format!("open files: {files}")),
    }
}

fn kernel(report: &mut Report, mode: BpfMode, config: Option<&Config>) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    report.line(Mark::Ok, &format!("kernel: Linux {}", release.trim()));
    if mode == BpfMode::Off {
        report.line(Mark::Note, "kernel programs: disabled by the configuration");
        return;
    }
    let without = if mode == BpfMode::Required { Mark::Fail } else { Mark::Note };
    let settings = config.map_or_else(BpfSettings::default, |config| bpf_settings(&config.bpf));
    let loaded = match Kernel::load(&settings) {
        Ok(kernel) => kernel,
        Err(reason) => {
            report.line(without, &format!("kernel programs: {reason}"));
            report.line(Mark::Note, "fast path: not available; responses are relayed with splice(2)");
            return;
        }
    };
    report.line(Mark::Ok, &format!("kernel programs: counting, at {}", loaded.cgroup().display()));
    for item in &loaded.proof().items {
        report.line(mark(item), &item.to_string());
    }
    match loaded.flows() {
        Ok(flows) => {
            let text = format!(
                "fast path: verified in {} ms; up to {} responses at once, {} KiB of memory",
                loaded.proof().took().as_millis(),
                flows.used().1,
                flows.memory() / 1024
            );
            report.line(Mark::Ok, &text);
        }
        Err(reason) => report.line(Mark::Note, &without_fast_path(reason)),
    }
}

fn mark(item: &Item) -> Mark {
    match item.finding {
        Finding::Holds(_) => Mark::Ok,
        Finding::WorkedAround(_) | Finding::Fails(_) => Mark::Note,
    }
}

fn without_fast_path(reason: &Unavailable) -> String {
    format!("fast path: not available; responses are relayed with splice(2): {reason}")
}

fn sockets(report: &mut Report) {
    netns::try_sock_diag();
    match netns::sock_diag_missing() {
        None => report.line(Mark::Ok, "listening sockets: read through sock_diag"),
        Some(reason) => report.line(
            Mark::Note,
            &format!(
                "listening sockets: sock_diag is not available ({reason}); reading /proc/PID/net/tcp instead, which is slower and does not show whether an IPv6 socket also accepts IPv4"
            ),
        ),
    }
}

/// Whether the engine answers. A daemon without it runs, and finds it when it comes.
fn docker(report: &mut Report, config: Option<&Config>) -> Result<()> {
    let containers = config.map_or_else(|| Node::defaults().containers, |config| config.containers.clone());
    let Some(socket) = containers.docker else {
        report.line(Mark::Ok, "Docker: disabled");
        return Ok(());
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let answer = runtime.block_on(async {
        let late = || anyhow::anyhow!("no response within {} s", DOCKER.as_secs());
        let asked = tokio::time::timeout(DOCKER, portsplice_discovery::container::engine_version(&socket)).await;
        asked.map_or_else(|_| Err(late()), |answer| answer.map_err(anyhow::Error::from))
    });
    match answer {
        Ok(version) => {
            report.line(Mark::Ok, &format!("Docker: engine {version} at {}", socket.display()));
        }
        Err(error) => {
            let text = format!("Docker: no engine responds at {}: {error:#}", socket.display());
            report.line(Mark::Note, &text);
        }
    }
    Ok(())
}
