//! A process held by pidfd: its namespaces can be opened without mistaking another process for it, and its end is seen.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::netns::Netns;

/// The unit of times in /proc, in Hz: `USER_HZ`, part of the kernel's interface (include/asm-generic/param.h).
const USER_HZ: u64 = 100;

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
            Ok(pidfd) => Ok(Self { pid, pidfd }),
            Err(rustix::io::Errno::SRCH) => Err(ended()),
            Err(e) => Err(e.into()),
        }
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
            tracing::error!(pid, %error, "cannot watch a container's process, so the container is given up");
        }
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the process has ended")
}

/// The second field is the command in parentheses, which may itself hold spaces and parentheses.
fn start_ticks_of(stat: &str) -> Option<u64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The time of day at which a process with these [`Process::start_ticks`] started, as today's clock would have shown it.
pub(super) fn time_of_start(ticks: u64) -> SystemTime {
    let since_boot = clock_gettime(ClockId::Boottime);
    let since_boot = Duration::new(since_boot.tv_sec.unsigned_abs(), since_boot.tv_nsec.unsigned_abs() as u32);
    let start = Duration::from_millis(ticks.saturating_mul(1000 / USER_HZ));
    SystemTime::now().checked_sub(since_boot).and_then(|boot| boot.checked_add(start)).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
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
