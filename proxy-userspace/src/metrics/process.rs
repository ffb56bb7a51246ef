//! The process's own use of the machine, under the names that every Prometheus client library uses.

use std::fs;
use std::time::Duration;

use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

use super::description::{Unit, counter, gauge};
use super::observe::Group;
use portsplice_model::unix_time;

/// The process at the time of a scrape.
#[derive(Debug)]
pub(super) struct Process {
    /// When it began, since 1970.
    started: Duration,
    stat: Option<Stat>,
}

/// Metrics of the process; their names have no prefix.
pub(super) static GROUP: Group<Process> = Group {
    title: "The process",
    about: "On nodes and edges, read from `/proc/self`. Every Prometheus client library has them under these names.",
    metrics: &[
        gauge("process_start_time", "Start of the process, since 1970")
            .unit(Unit::Seconds)
            .worry("It changes though nobody has restarted the daemon.")
            .read(|p| Some(p.started.as_secs_f64())),
        gauge("process_open_fds", "Open file descriptors")
            .worry("It comes near `process_max_fds`; a connection takes two to six.")
            .read(|_| open_fds()),
        gauge("process_max_fds", "Maximum number of open file descriptors")
            .worry("It is less than the configured connections need; the daemon says so at its start.")
            .read(|_| getrlimit(Resource::Nofile).current.map(|n| n as f64)),
        gauge("process_resident_memory", "Memory of the process in RAM")
            .unit(Unit::Bytes)
            .worry("It goes up for hours while connections do not.")
            .read(|p| Some(p.stat.as_ref()?.resident_bytes)),
        gauge("process_virtual_memory", "Address space of the process")
            .unit(Unit::Bytes)
            .worry("Never by itself: most of it is not backed by memory.")
            .read(|p| Some(p.stat.as_ref()?.virtual_bytes)),
        gauge("process_threads", "Threads of the process")
            .worry("It goes up without an end.")
            .read(|p| Some(p.stat.as_ref()?.threads)),
        counter("process_cpu", "CPU time of the process, user and system")
            .unit(Unit::Seconds)
            .worry("The rate comes near the number of threads that relay.")
            .read(|p| Some(p.stat.as_ref()?.cpu_seconds)),
    ],
};

/// Reads the process; takes the present as its start.
pub(super) fn state() -> impl Fn() -> Option<Process> {
    let started = unix_time();
    move || Some(Process { started, stat: Stat::read() })
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
