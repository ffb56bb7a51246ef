//! What the machine says: time spent, memory held, versions.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::param::clock_ticks_per_second;

/// CPU seconds that the whole machine has spent on anything since it started: `/proc/stat`, all but idle and waiting
/// (proc_stat(5)); time stolen by a hypervisor is not ours either. Guest time is within user time already.
pub(crate) fn cpu_seconds() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    busy_ticks(&text).map(|ticks| ticks as f64 / clock_ticks_per_second() as f64)
}

fn busy_ticks(stat: &str) -> anyhow::Result<u64> {
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    ensure!(fields.len() >= 7, "/proc/stat has {} fields, 7 are needed", fields.len());
    let [user, nice, system, _idle, _iowait, irq, softirq] = fields[..7] else { unreachable!() };
    Ok(user + nice + system + irq + softirq)
}

/// Share of the machine, 0 to 1, that is busy with something else right now.
pub(crate) fn busy_share() -> anyhow::Result<f64> {
    let (start, before) = (Instant::now(), cpu_seconds()?);
    thread::sleep(Duration::from_secs(1));
    let spent = cpu_seconds()? - before;
    Ok(spent / start.elapsed().as_secs_f64() / cpus() as f64)
}

/// Resident memory of several processes together, in bytes: proportional set sizes, so that pages which workers share
/// count once.
pub(crate) fn resident_bytes(processes: &[u32]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for pid in processes {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).with_context(|| format!("no Pss in {path}"))?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("Pss in {path}: {line}"))?;
        sum += kib * 1024;
    }
    Ok(sum)
}

/// Processors that this process may use.
pub(crate) fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// The processor's name.
pub(crate) fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|l| l.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}

/// The kernel's release.
pub(crate) fn kernel() -> String {
    read_trimmed("/proc/sys/kernel/osrelease")
}

/// TCP's congestion control, which new namespaces take over.
pub(crate) fn congestion_control() -> String {
    read_trimmed("/proc/sys/net/ipv4/tcp_congestion_control")
}

fn read_trimmed(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// The first line that `program` prints with `flag`, on either stream.
pub(crate) fn version(program: &Path, flag: &str) -> anyhow::Result<String> {
    let output = Command::new(program).arg(flag).output().with_context(|| format!("run {}", program.display()))?;
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().next().unwrap_or("unknown");
    // HAProxy adds its address on the web.
    Ok(line.split(" - http").next().unwrap_or(line).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_time_do_not_count() {
        let stat = "cpu  10 20 30 1000 2000 40 50 3000 1 2\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat).unwrap(), 150);
        assert!(busy_ticks("cpu 1 2 3\n").is_err());
    }
}
