//! The process's own use of the machine, under the names that every Prometheus client library uses.

use std::fmt;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::observe::{Kind, Sample, encode};

/// Reads `/proc/self` at each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector {
    started: Duration,
}

impl ProcessCollector {
    /// Takes the present as the start of the process.
    pub(super) fn new() -> Self {
        Self { started: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let stat = Stat::read();
        let max_fds = getrlimit(Resource::Nofile).current;
        let values = [
            ("process_start_time_seconds", "Start of the process since the epoch", Some(self.started.as_secs_f64())),
            ("process_open_fds", "Open file descriptors", open_fds()),
            ("process_max_fds", "Most file descriptors that may be open", max_fds.map(|n| n as f64)),
            ("process_resident_memory_bytes", "Memory of the process in RAM", stat.as_ref().map(|s| s.resident_bytes)),
            ("process_virtual_memory_bytes", "Address space of the process", stat.as_ref().map(|s| s.virtual_bytes)),
            ("process_threads", "Threads of the process", stat.as_ref().map(|s| s.threads)),
        ];
        for (name, help, value) in values {
            let samples: Vec<Sample> = value.map(Sample::plain).into_iter().collect();
            encode(&mut encoder, name, help, Kind::Gauge, &samples)?;
        }
        let cpu: Vec<Sample> = stat.map(|s| Sample::plain(s.cpu_seconds)).into_iter().collect();
        encode(&mut encoder, "process_cpu_seconds", "CPU time of the process, user and system", Kind::Counter, &cpu)
    }
}

fn open_fds() -> Option<f64> {
    // One of the entries is the descriptor that reads the directory.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

#[derive(Debug, PartialEq)]
struct Stat {
    cpu_seconds: f64,
    threads: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// proc_pid_stat(5); the second field is the command's name in parentheses and may hold anything.
    fn parse(stat: &str) -> Option<Self> {
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        // `after_name` begins with field 3.
        let field = |number: usize| -> Option<f64> { fields.get(number - 3)?.parse().ok() };
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / clock_ticks_per_second() as f64,
            threads: field(20)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_size() as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_spaces_and_parentheses_is_skipped() {
        let stat = "7 (a) b) S 1 1 1 0 -1 0 0 0 0 0 250 150 0 0 20 0 9 0 100 4096 3 0";
        let parsed = Stat::parse(stat).unwrap();
        assert_eq!(parsed.cpu_seconds, 400.0 / clock_ticks_per_second() as f64);
        assert_eq!((parsed.threads, parsed.virtual_bytes), (9.0, 4096.0));
        assert_eq!(parsed.resident_bytes, 3.0 * page_size() as f64);
    }

    #[test]
    fn garbage_is_none() {
        assert_eq!(Stat::parse(""), None);
        assert_eq!(Stat::parse("1 (x) S 1"), None);
    }
}
