//! From what the guests told to a table of kernels.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use portsplice_tooling::workspace;
use serde::{Deserialize, Serialize};

use crate::kernels::{self, Kernel};
use crate::machine::Told;
use crate::record::{Record, Sealed, Soak};

/// What was found out on one kernel.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The kernel's name here.
    pub(crate) kernel: String,
    /// Its package and version.
    pub(crate) package: String,
    /// Seconds from power on to the last word.
    pub(crate) seconds: u64,
    /// What the guest told.
    pub(crate) records: Vec<Record>,
    /// Lines of the console in which the kernel complains of itself.
    pub(crate) complaints: Vec<String>,
}

impl Entry {
    /// Puts together what a machine told.
    pub(crate) fn new(kernel: &Kernel, told: Told, took: Duration) -> Self {
        Self {
            kernel: kernel.name.to_owned(),
            package: format!("{} {}", kernel.package, kernel.version),
            seconds: took.as_secs(),
            complaints: complaints(&told.console),
            records: told.records,
        }
    }

    /// What is not as it must be: failed steps, failed exchanges, a daemon that could not run, complaints.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let mut troubles = self.complaints.clone();
        for record in &self.records {
            match record {
                Record::Failed { step, reason } => troubles.push(format!("{step}: {reason}")),
                Record::Soak(soak) => troubles.extend(soak.failures.iter().map(|text| format!("{}: {text}", soak.way))),
                Record::Check(check) if check.code != Some(0) => {
                    troubles.push(format!("check: {}: {}", exit(check.code), check.text.trim()));
                }
                _ => {}
            }
        }
        troubles
    }

    fn soaks(&self) -> impl Iterator<Item = &Soak> {
        self.records.iter().filter_map(|record| if let Record::Soak(soak) = record { Some(soak) } else { None })
    }

    fn sealed(&self) -> &[Sealed] {
        let sealed = self.records.iter().find_map(|r| if let Record::Tls(sealed) = r { Some(sealed) } else { None });
        sealed.map_or(&[], Vec::as_slice)
    }
}

/// Lines in which a kernel says that something is wrong with itself. A stall is none: the host may have been busy.
fn complaints(console: &str) -> Vec<String> {
    const WORDS: [&str; 5] = ["BUG:", "WARNING:", "Oops", "general protection", "Kernel panic"];
    let complains = |line: &&str| line.starts_with('[') && WORDS.iter().any(|word| line.contains(word));
    console.lines().filter(complains).map(str::to_owned).collect()
}

/// One line on a record, for whoever waits.
pub(crate) fn line(record: &Record) -> String {
    match record {
        Record::Booted(booted) => {
            let modules = booted.modules.iter().map(|text| format!("; not loaded: {text}")).collect::<String>();
            format!(
                "Linux {} ({}), BTF {}, {}{modules}",
                booted.release,
                booted.version,
                booted.btf,
                booted.cpu.join(" ")
            )
        }
        Record::Check(check) => format!("check: {}\n{}", exit(check.code), check.text.trim_end()),
        Record::Load(load) => {
            format!("node: programs {}\n{}", if load.up { "up" } else { "absent" }, load.log.join("\n"))
        }
        Record::Soak(soak) => {
            format!("soak {}: {} in {:.0} s; {}", soak.way, soaked(soak), soak.seconds, soak.failures.join("; "))
        }
        Record::Tls(sealed) => sealed.iter().map(figures).collect::<Vec<_>>().join("; "),
        Record::Failed { step, reason } => format!("{step} failed: {reason}"),
        Record::Done => "done".to_owned(),
    }
}

fn exit(code: Option<i32>) -> String {
    code.map_or_else(|| "did not end".to_owned(), |code| format!("exit code {code}"))
}

/// How a soak went and by which paths its bytes went, in percent.
fn soaked(soak: &Soak) -> String {
    let all: u64 = soak.relayed.values().sum();
    let share = |(path, bytes): (&String, &u64)| format!("{path} {:.0} %", *bytes as f64 * 100.0 / all as f64);
    let paths: Vec<_> = soak.relayed.iter().map(share).collect();
    let good = soak.exchanges.saturating_sub(soak.failures.len() as u64);
    format!("{good} of {}, {} MB: {}", soak.exchanges, all / 1_000_000, paths.join(", "))
}

fn figures(sealed: &Sealed) -> String {
    format!("{}: {:.0} MB/s, {:.1} s/GB, relay {:.1} s/GB", sealed.way, sealed.rate, sealed.cpu, sealed.relay_cpu)
}

/// What came of one kernel, in a few lines.
pub(crate) fn summary(entry: &Entry) -> String {
    let troubles = entry.troubles();
    let verdict = if troubles.is_empty() { "all is well".to_owned() } else { troubles.join("\n  ") };
    format!("kernel {} ({}), {} s: {verdict}", entry.kernel, entry.package, entry.seconds)
}

/// Puts an entry in the place of the one that was there for its kernel, and writes both files anew.
pub(crate) fn keep(entry: Entry) -> anyhow::Result<()> {
    let docs = |name: &str| -> PathBuf { workspace::root().join("docs").join(name) };
    let data = docs("kernels.json");
    let mut entries: Vec<Entry> = match fs::read(&data) {
        Ok(text) => {
            serde_json::from_slice(&text).with_context(|| format!("{} is broken: remove it", data.display()))?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("read {}", data.display())),
    };
    entries.retain(|other| other.kernel != entry.kernel);
    entries.push(entry);
    let place = |entry: &Entry| kernels::ALL.iter().position(|kernel| kernel.name == entry.kernel);
    entries.retain(|entry| place(entry).is_some());
    entries.sort_by_key(place);
    fs::write(&data, serde_json::to_string_pretty(&entries)? + "\n")?;
    fs::write(docs("kernels.md"), page(&entries)).context("write docs/kernels.md")
}

/// The whole of docs/kernels.md.
fn page(entries: &[Entry]) -> String {
    let mut out = "\
# Kernels

What the daemon does on Debian's own kernels. `cargo xtask vm --all` (or `--kernel NAME`) boots each in a virtual machine whose
processor is emulated, loads the programs, lets the daemon prove its fast path, soaks it, and writes this page; do not edit it.

| kernel | eBPF | fast path | proof | soak, relay `auto` | soak, relay `copy` | soak, TLS | troubles |
| --- | --- | --- | --- | --- | --- | --- | --- |
"
    .to_owned();
    for entry in entries {
        let _ = writeln!(out, "{}", row(entry));
    }
    out += "\nA soak is a few hundred requests over eight connections: downloads (by length, chunked, to the end of the \
            connection, to a slow\nreader), uploads and events, 1 B to 16 MB, each answer checked to the byte. In a cell: how \
            many were right, and which path the bytes\ntook, as the node counts them.\n";
    for entry in entries {
        details(&mut out, entry);
    }
    out += &tls(entries);
    out
}

fn row(entry: &Entry) -> String {
    let mut cells = vec![format!("{} ({})", entry.kernel, note(entry)), "-".to_owned(), "-".to_owned(), "-".to_owned()];
    for record in &entry.records {
        match record {
            Record::Load(load) => cells[1] = if load.up { "loads".to_owned() } else { "not used".to_owned() },
            Record::Check(check) => {
                cells[2] = fast_path(&check.text);
                cells[3] = proof(&check.text);
            }
            _ => {}
        }
    }
    for way in ["auto", "copy", "tls"] {
        cells.push(entry.soaks().find(|soak| soak.way == way).map_or_else(|| "-".to_owned(), soaked));
    }
    let troubles = entry.troubles().len();
    cells.push(if troubles == 0 { "none".to_owned() } else { format!("{troubles}, see below") });
    format!("| {} |", cells.join(" | "))
}

/// The first words of what `portsplice check` says of the fast path.
fn fast_path(check: &str) -> String {
    let said = check.lines().find_map(|line| line.split_once(" fast path: "));
    said.map_or("-", |(_, text)| text.split([';', ':']).next().unwrap_or_default()).to_owned()
}

/// How many items of the proof hold: its lines are those that end with the time that they took.
fn proof(check: &str) -> String {
    let items: Vec<_> = check.lines().filter(|line| line.ends_with(" ms)")).collect();
    let holds = items.iter().filter(|line| line.starts_with("ok ")).count();
    if items.is_empty() { "-".to_owned() } else { format!("{holds} of {} hold", items.len()) }
}

fn note(entry: &Entry) -> &'static str {
    kernels::ALL.iter().find(|kernel| kernel.name == entry.kernel).map_or("", |kernel| kernel.note)
}

/// What one kernel made the daemon say.
fn details(out: &mut String, entry: &Entry) {
    let _ = write!(out, "\n## {}\n\n{}\n", entry.kernel, entry.package);
    for record in &entry.records {
        match record {
            Record::Check(check) => block(out, "`portsplice check`", &check.text),
            Record::Load(load) => block(out, "`portsplice node` at its start", &load.log.join("\n")),
            _ => {}
        }
    }
    block(out, "Troubles", &entry.troubles().join("\n"));
}

fn block(out: &mut String, title: &str, text: &str) {
    if !text.trim().is_empty() {
        let _ = write!(out, "\n{title}:\n\n```text\n{}\n```\n", text.trim_end());
    }
}

/// Kernel TLS beside TLS in userspace.
fn tls(entries: &[Entry]) -> String {
    let mut out = "\n## Kernel TLS

What kernel TLS with splice(2) would give for downloads. One stream over loopback is relayed from a plain socket into another: as
it is, or as TLS 1.3 records of AES-256-GCM under made-up keys, sealed by rustls (ring) in buffers of 128 KiB or by the kernel
(`TCP_ULP` \"tls\"). That both seal the same stream is checked. Medians of 5 transfers of 34 MB. The processor is emulated, AES and
carry-less multiplication too, so that sealing outweighs everything as it does on no real one: compare ways, not speeds. A kernel
without kernel TLS has no row for it.

| kernel | way | MB/s | CPU s/GB, machine | CPU s/GB, relaying thread |
| --- | --- | --- | --- | --- |
"
    .to_owned();
    for entry in entries {
        for Sealed { way, rate, cpu, relay_cpu } in entry.sealed() {
            let _ = writeln!(out, "| {} | {way} | {rate:.0} | {cpu:.1} | {relay_cpu:.1} |", entry.kernel);
        }
    }
    out + &verdict(entries)
}

/// What the figures say, where there are all four ways.
fn verdict(entries: &[Entry]) -> String {
    let mut out = String::new();
    for entry in entries {
        let [copied, spliced, userspace, kernel] = entry.sealed() else { continue };
        let _ = write!(
            out,
            "\n- {}: kernel TLS moves {:.2} of what TLS in userspace moves, for {:.2} of the relaying thread's CPU time. To move a \
             GB without\n  TLS takes that thread {:.1} s less by splice(2) than by copying; to seal it takes the kernel {:.1} s and \
             rustls {:.1} s.",
            entry.kernel,
            kernel.rate / userspace.rate,
            kernel.relay_cpu / userspace.relay_cpu,
            copied.relay_cpu - spliced.relay_cpu,
            kernel.relay_cpu - spliced.relay_cpu,
            userspace.relay_cpu - copied.relay_cpu,
        );
    }
    if !out.is_empty() {
        out += "\n\nIt saves the copy. Whether sealing itself becomes cheaper depends on the kernel's cipher code. Against it stand \
                the module,\nwhich not every kernel has, alerts and key updates, which come back to userspace, and the fast \
                path, which it excludes: a\nsocket with TLS in the kernel cannot be in a sockmap.\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(records: &str, console: &str) -> Entry {
        let records = records.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Entry::new(&kernels::ALL[0], Told { records, console: console.to_owned() }, Duration::from_secs(9))
    }

    #[test]
    fn troubles_are_found_wherever_they_are() {
        let console = "[    1.0] x: module verification failed\n[    2.0] BUG: kernel NULL pointer dereference\n";
        let records = "{\"check\":{\"code\":1,\"text\":\"no\\n\"}}\n{\"failed\":{\"step\":\"a\",\"reason\":\"b\"}}\n\
                       {\"soak\":{\"way\":\"tls\",\"exchanges\":5,\"seconds\":1.0,\"relayed\":{},\"failures\":[\"c\"]}}";
        let entry = entry(records, console);
        let expected = ["[    2.0] BUG: kernel NULL pointer dereference", "check: exit code 1: no", "a: b", "tls: c"];
        assert_eq!(entry.troubles(), expected);
        assert!(summary(&entry).contains("a: b"));
    }

    #[test]
    fn the_page_has_a_row_and_a_section_for_each_kernel() {
        let records = "{\"check\":{\"code\":0,\"text\":\"ok    a: b (3 ms)\\nnote  c: d (4 ms)\\n\
                       ok    fast path: proven in 9 ms; 5 at once\\n\"}}\n\
                       {\"load\":{\"up\":true,\"log\":[\"info: eBPF\"]}}\n\
                       {\"soak\":{\"way\":\"auto\",\"exchanges\":5,\"seconds\":1.0,\"relayed\":{\"copy\":1000000,\
                       \"splice\":3000000},\"failures\":[]}}\n\
                       {\"tls\":[{\"way\":\"a\",\"rate\":99.0,\"cpu\":2.0,\"relay_cpu\":3.0},\
                       {\"way\":\"b\",\"rate\":99.0,\"cpu\":2.0,\"relay_cpu\":1.0},\
                       {\"way\":\"c\",\"rate\":50.0,\"cpu\":2.0,\"relay_cpu\":10.0},\
                       {\"way\":\"d\",\"rate\":75.0,\"cpu\":2.0,\"relay_cpu\":9.0}]}\n\"done\"";
        let page = page(&[entry(records, "")]);
        let row = "| loads | proven in 9 ms | 1 of 2 hold | 5 of 5, 4 MB: copy 25 %, splice 75 % | - | - | none |";
        assert!(page.contains(row), "{page}");
        assert!(page.contains("```text\ninfo: eBPF\n```"), "{page}");
        assert!(page.contains("| d | 75 | 2.0 | 9.0 |"), "{page}");
        assert!(page.contains("moves 1.50 of what"), "{page}");
        assert!(page.contains("takes that thread 2.0 s less by"), "{page}");
        assert!(page.lines().all(|line| line.len() < 400), "{page}");
    }
}
