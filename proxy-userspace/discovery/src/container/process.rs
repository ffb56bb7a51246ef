//! A process held by pidfd: its namespaces can be opened without mistaking another process for it, and its end is seen.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use portsplice_net::netns::Netns;

/// The unit of times in /proc, in Hz: `USER_HZ`, part of the kernel's interface (include/asm-generic/param.h).
const USER_HZ: u64 = 100;

/// The parent of a namespace (linux/nsfs.h): `_IO(0xb7, 2)`.
const NS_GET_PARENT: libc::c_ulong = 0xb702;

/// The identity of a pid namespace: device and inode of its nsfs file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PidNamespace(u64, u64);

impl PidNamespace {
    /// The one that this process is in.
    pub(super) fn own() -> io::Result<Self> {
        Ok(Self::of(&File::open("/proc/self/ns/pid")?.metadata()?))
    }

    fn of(metadata: &std::fs::Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// A process that was alive when this was made.
#[derive(Debug)]
pub(super) struct Process {
    pid: u32,
    pidfd: OwnedFd,
}

impl Process {
    /// # Errors
    /// `NotFound` when there is no such process; the error of `pidfd_open(2)` otherwise (it needs Linux 5.3).
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(ended)?;
        match pidfd_open(raw, PidfdFlags::empty()) {
            // Asked again what it is called: /proc may be that of another pid namespace, where the pid is somebody else's.
            Ok(pidfd) => match Self::of_pidfd(pidfd)? {
                process if process.pid == pid => Ok(process),
                _ => Err(io::Error::other(
                    "/proc does not belong to the daemon's own pid namespace: mount one that does",
                )),
            },
            Err(rustix::io::Errno::SRCH) => Err(ended()),
            Err(e) => Err(e.into()),
        }
    }

    /// The process of a pidfd.
    ///
    /// # Errors
    /// `NotFound` when it has ended; another error when it is in a pid namespace that is not seen from here.
    pub(super) fn of_pidfd(pidfd: OwnedFd) -> io::Result<Self> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i64>().ok());
        match pid.map(u32::try_from) {
            Some(Ok(pid)) if pid > 0 => Ok(Self { pid, pidfd }),
            Some(Err(_)) => Err(ended()),
            _ => Err(io::Error::other("the process is in a pid namespace that is not a descendant of the daemon's")),
        }
    }

    /// All processes that are seen from here, one after the other.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub(super) fn all() -> io::Result<impl Iterator<Item = Self>> {
        let names = std::fs::read_dir("/proc")?.flatten();
        Ok(names.filter_map(|entry| Self::open(entry.file_name().to_str()?.parse().ok()?).ok()))
    }

    /// What it is called in each pid namespace that it is in, from the daemon's own to its innermost.
    pub(super) fn pids(&self) -> io::Result<Vec<u32>> {
        let status = self.read(|proc| std::fs::read_to_string(proc.join("status")))?;
        let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let pids = pids.and_then(|pids| pids.split_ascii_whitespace().map(|pid| pid.parse().ok()).collect());
        pids.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// The innermost pid namespace that it is in.
    pub(super) fn pid_namespace(&self) -> io::Result<PidNamespace> {
        Ok(PidNamespace::of(&self.read(|proc| File::open(proc.join("ns/pid")))?.metadata()?))
    }

    /// Whether `namespace` is that of its pid namespaces that is `depth` below the daemon's own.
    pub(super) fn is_in(&self, namespace: &PidNamespace, depth: usize) -> io::Result<bool> {
        let Some(up) = self.pids()?.len().checked_sub(depth + 1) else { return Ok(false) };
        let mut innermost = self.read(|proc| File::open(proc.join("ns/pid")))?;
        for _ in 0..up {
            // SAFETY: takes no argument, and gives a descriptor that nobody else knows of, or an error.
            let parent = unsafe { libc::ioctl(innermost.as_raw_fd(), NS_GET_PARENT) };
            if parent < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: as above: it is open, and ours alone.
            innermost = unsafe { File::from_raw_fd(parent) };
        }
        Ok(PidNamespace::of(&innermost.metadata()?) == *namespace)
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it has not ended; a zombie has.
    pub(super) fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    /// The network namespace it is in.
    ///
    /// # Errors
    /// `NotFound` when the process has ended; `PermissionDenied` without `CAP_SYS_PTRACE` (to look at a process of
    /// another user) or `CAP_SYS_ADMIN` (to enter its namespace).
    pub(super) fn netns(&self) -> io::Result<Netns> {
        self.read(|proc| Netns::open(&proc.join("ns/net")))
    }

    /// Its line in /proc/PID/cgroup of every hierarchy.
    pub(super) fn cgroups(&self) -> io::Result<String> {
        self.read(|proc| std::fs::read_to_string(proc.join("cgroup")))
    }

    /// When it started, in hundredths of a second since the machine did: field 22 of /proc/PID/stat.
    pub(super) fn start_ticks(&self) -> io::Result<u64> {
        let stat = self.read(|proc| std::fs::read_to_string(proc.join("stat")))?;
        start_ticks_of(&stat).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Reads below /proc/PID. A pid is given to another process only after this one has ended, so what was read is of
    /// this process if it is alive afterwards.
    fn read<T>(&self, read: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let result = read(&PathBuf::from(format!("/proc/{}", self.pid)));
        if self.is_alive() { result } else { Err(ended()) }
    }

    /// Returns when the process has ended. If it cannot be watched, that is taken for its end: a container that cannot be
    /// watched must not be connected to.
    pub(super) async fn exited(self) {
        let pid = self.pid;
        // SAFETY: an `OwnedFd` is open and the same descriptor for as long as it lives, and the `AsyncFd` owns it.
        let registered = unsafe { AsyncFd::register_with_interest(self.pidfd, Interest::READABLE) };
        let result = match registered {
            Ok(pidfd) => pidfd.readable().await.map(|mut guard| guard.retain_ready()),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = result {
            tracing::error!(pid, %error, "cannot watch a container's process, dropping the container");
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the process has exited")
}

/// The second field is the command in parentheses, which may itself hold spaces and parentheses.
fn start_ticks_of(stat: &str) -> Option<u64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The time of day at which a process with these [`Process::start_ticks`] started, as today's clock would have shown it.
pub(super) fn time_of_start(ticks: u64) -> SystemTime {
    boot_time().checked_add(start_after_boot(ticks)).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// How long after the machine a process with these [`Process::start_ticks`] started.
pub(super) fn start_after_boot(ticks: u64) -> Duration {
    Duration::from_millis(ticks.saturating_mul(1000 / USER_HZ))
}

/// How long after the machine's start it was `time`, by today's clock; zero if it was before. Equal times give equal results, and
/// an earlier one never a later result, unless the clock is set in between.
pub(super) fn after_boot(time: SystemTime) -> Duration {
    time.duration_since(boot_time()).unwrap_or_default()
}

/// When the machine started, by today's clock: the same each time, unless the clock is set.
fn boot_time() -> SystemTime {
    /// Longer than it takes to read two clocks.
    const SET: Duration = Duration::from_millis(10);
    static KNOWN: Mutex<Option<SystemTime>> = Mutex::new(None);
    // Anything may pass between two readings, on a machine that is busy: the quickest of some is right.
    let read = || {
        let (before, now) = (uptime(), SystemTime::now());
        (uptime().saturating_sub(before), now.checked_sub(before).unwrap_or(SystemTime::UNIX_EPOCH))
    };
    let quickest = (0..4).map(|_| read()).min();
    let (_, found) = quickest.unwrap_or_else(read);
    let mut known = KNOWN.lock();
    let set = known.is_none_or(|known| found.duration_since(known).unwrap_or_else(|before| before.duration()) > SET);
    if set {
        *known = Some(found);
    }
    known.unwrap_or(found)
}

/// How long the machine has been running.
pub(super) fn uptime() -> Duration {
    let since_boot = clock_gettime(ClockId::Boottime);
    Duration::new(since_boot.tv_sec.unsigned_abs(), since_boot.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    /// Of two containers that claim one name at the same time, the order of their ids decides.
    #[test]
    fn what_was_at_the_same_time_is_so_each_time_that_it_is_asked() {
        let now = SystemTime::now();
        let after = after_boot(now);
        assert!(uptime().saturating_sub(after) < Duration::from_secs(60), "{after:?}");
        for _ in 0..10_000 {
            assert_eq!(after_boot(now), after);
        }
        assert_eq!(after_boot(now + Duration::from_nanos(1)), after + Duration::from_nanos(1));
        assert_eq!(after_boot(SystemTime::UNIX_EPOCH), Duration::ZERO);
    }

    #[tokio::test]
    async fn the_end_of_a_process_is_seen() {
        let mut child = sleeper();
        let process = Process::open(child.id()).unwrap();
        assert!(process.is_alive());
        child.kill().unwrap();
        let pid = process.pid();
        tokio::time::timeout(Duration::from_secs(5), process.exited()).await.unwrap();
        // Still a zombie, since nobody has waited for it.
        assert!(Process::open(pid).is_ok_and(|zombie| !zombie.is_alive() && zombie.netns().is_err()));
        child.wait().unwrap();
        assert_eq!(Process::open(pid).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn impossible_pids_are_refused() {
        for pid in [0, u32::MAX, i32::MAX as u32] {
            assert_eq!(Process::open(pid).unwrap_err().kind(), io::ErrorKind::NotFound, "{pid}");
        }
    }

    #[test]
    fn the_time_of_start_is_now() {
        let before = SystemTime::now();
        let mut child = sleeper();
        let process = Process::open(child.id()).unwrap();
        let start = time_of_start(process.start_ticks().unwrap());
        let slack = Duration::from_millis(30);
        assert!(start + slack >= before && start <= SystemTime::now() + slack);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_command_may_look_like_the_end_of_the_field() {
        let stat = "7 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 12345 20";
        assert_eq!(start_ticks_of(stat), Some(12345));
        assert_eq!(start_ticks_of("7 (a) S 1"), None);
        assert_eq!(start_ticks_of(""), None);
    }
}
