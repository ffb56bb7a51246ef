//! A virtual machine: started, listened to, ended.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portsplice_tooling::child::{Guarded, program};
use portsplice_tooling::{command, interrupt};

use crate::QEMU;
use crate::record::Record;

/// How long a machine may run. An idle host needs a fifth of it.
const LIMIT: Duration = Duration::from_secs(20 * 60);
/// How often its report is looked at.
const POLL: Duration = Duration::from_millis(200);
/// Memory, far above what the guest needs.
const MEMORY: &str = "1536M";

/// Everything the kernel hands to the guest: its first program, and that one's environment.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=6 panic=-1 rdinit=/bin/guest PATH=/bin LD_LIBRARY_PATH=/lib \
                            RUST_BACKTRACE=1";

/// What a machine told.
pub(crate) struct Told {
    /// What the guest reported.
    pub(crate) records: Vec<Record>,
    /// What the kernel and the guest wrote to the console.
    pub(crate) console: String,
}

/// Boots `vmlinuz` with `initramfs` and listens until the guest is done; the machine is gone afterwards in any case.
pub(crate) fn run(vmlinuz: &Path, initramfs: &Path, folder: &Path) -> anyhow::Result<Told> {
    let (console, report) = (folder.join("console"), folder.join("report"));
    for file in [&console, &report] {
        fs::write(file, "").with_context(|| format!("write {}", file.display()))?;
    }
    let mut qemu = command::command(program(QEMU));
    // No KVM on purpose: the same everywhere, also inside other virtual machines. No disk, no network, no screen.
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg,thread=multi"]);
    qemu.args(["-machine", "pc", "-cpu", "max", "-smp", "2", "-m", MEMORY, "-append", COMMAND_LINE]);
    qemu.arg("-kernel").arg(vmlinuz).arg("-initrd").arg(initramfs);
    for file in [&console, &report] {
        qemu.arg("-serial").arg(format!("file:{}", file.to_str().context("a path that is not UTF-8")?));
    }
    command::say(&qemu);
    let mut machine = Guarded::spawn("the virtual machine", &mut qemu, &folder.join("qemu.log"), None)?;
    let deadline = Instant::now() + LIMIT;
    let mut seen = 0;
    loop {
        let ended = machine.has_ended()?;
        let records = records(&fs::read_to_string(&report)?)?;
        for record in &records[seen..] {
            println!("vm: {}", crate::report::line(record));
        }
        seen = records.len();
        if matches!(records.last(), Some(Record::Done)) {
            return Ok(Told { records, console: text(&console)? });
        }
        let last =
            || format!("its last words are in {}:\n{}", console.display(), tail(&text(&console).unwrap_or_default()));
        ensure!(!ended, "the machine ended before the guest was done; {}\n{}", last(), machine.last_words());
        ensure!(Instant::now() < deadline, "the guest was not done after {LIMIT:?}; {}", last());
        interrupt::check()?;
        thread::sleep(POLL);
    }
}

/// The whole lines of a report.
fn records(report: &str) -> anyhow::Result<Vec<Record>> {
    let whole = report.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("the guest wrote: {line}"))).collect()
}

/// A console may carry anything.
fn text(file: &Path) -> anyhow::Result<String> {
    Ok(String::from_utf8_lossy(&fs::read(file)?).replace('\r', ""))
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_are_read() {
        let read = |text: &str| records(text).map(|records| records.len());
        assert_eq!(read("").unwrap(), 0);
        assert_eq!(read("\"do").unwrap(), 0);
        assert_eq!(read("\"done\"\r\n\"do").unwrap(), 1);
        assert_eq!(read("{\"failed\":{\"step\":\"a\",\"reason\":\"b\"}}\r\n\"done\"\r\n").unwrap(), 2);
        assert!(read("nonsense\n").is_err());
    }
}
