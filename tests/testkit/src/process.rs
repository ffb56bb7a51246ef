//! Child processes that die with the test.

use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portsplice_tooling::child::contain;
use rustix::process::{Pid, Signal, kill_process};

use crate::net::Netns;
use crate::{HANG, wait};

/// A child process; killed by its own pid when dropped.
///
/// It also dies when the thread that spawned it does, so spawn from the test's own thread.
pub struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts `command`, inside `netns` when one is given. Its output is kept; stdout's lines can be waited for.
    #[track_caller]
    pub fn spawn(name: &str, command: &mut Command, netns: Option<&Netns>) -> Self {
        enter_on_exec(command, netns);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"));
        let log = Arc::new(Mutex::new(String::new()));
        let (to, lines) = channel();
        let out = child.stdout.take().expect("piped");
        let err = child.stderr.take().expect("piped");
        collect(out, log.clone(), move |line| drop(to.send(line)));
        collect(err, log.clone(), |_| ());
        Self { name: name.to_owned(), child, lines, log }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid")).expect("not zero");
        // It may have exited by itself; the test then sees that by `wait`.
        let _ = kill_process(pid, signal);
    }

    /// The next line on stdout; `None` at its end. Panics when neither comes.
    #[track_caller]
    pub fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(HANG) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("{} said nothing more on stdout:\n{}", self.name, self.log()),
        }
    }

    /// Waits for a line on stdout that begins with `prefix`, and gives what follows it.
    #[track_caller]
    pub fn line_with(&self, prefix: &str) -> String {
        while let Some(line) = self.line() {
            if let Some(rest) = line.strip_prefix(prefix) {
                return rest.trim().to_owned();
            }
        }
        panic!("{} ended before it said {prefix:?}:\n{}", self.name, self.log());
    }

    /// All it has written to stdout and stderr so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Waits until it has exited by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + HANG;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        panic!("{} did not exit:\n{}", self.name, self.log());
    }

    /// Kills it at once (SIGKILL) and reaps it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How many files it has open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, |dir| dir.count())
    }

    /// What it has open, as `/proc/PID/fd` names it.
    #[must_use]
    pub fn open_file_names(&self) -> Vec<String> {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).into_iter().flatten().flatten();
        open.filter_map(|entry| Some(std::fs::read_link(entry.path()).ok()?.display().to_string())).collect()
    }

    /// One value of `/proc/PID/status` in KiB, for example `RssAnon`.
    #[track_caller]
    #[must_use]
    pub fn status_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':')).expect("such a field");
        line.trim().trim_end_matches("kB").trim().parse().expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(60).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            #[expect(clippy::print_stderr, reason = "a failing test shows what its servers said")]
            {
                eprintln!("--- {} (last lines)\n{}\n---", self.name, tail.join("\n"));
            }
        }
    }
}

/// How long a process has computed, its threads together.
#[track_caller]
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    cpu_time_in(&PathBuf::from(format!("/proc/{pid}"))).expect("it runs")
}

/// How long the process, or the thread, that this folder of `/proc` is about has computed (proc_pid_stat(5): utime and
/// stime).
///
/// # Errors
/// When it has ended.
pub fn cpu_time_in(folder: &Path) -> io::Result<Duration> {
    let stat = std::fs::read_to_string(folder.join("stat"))?;
    // The name in parentheses may contain anything; behind it come the state and the numbers from the fourth on.
    let numbers = stat.rsplit_once(')').map(|(_, numbers)| numbers);
    let number = |nth: usize| numbers?.split_whitespace().nth(nth)?.parse::<u64>().ok();
    let ticks = number(11).zip(number(12)).ok_or_else(|| io::Error::other(format!("not understood: {stat}")))?;
    Ok(Duration::from_millis((ticks.0 + ticks.1) * 1000 / rustix::param::clock_ticks_per_second()))
}

/// Runs a command to its end and gives its stdout; panics when it fails.
#[track_caller]
pub fn run(command: &mut Command, netns: Option<&Netns>) -> String {
    let (ok, out, err) = try_run(command, netns);
    assert!(ok, "{command:?} failed:\n{out}{err}");
    out
}

/// Runs a command to its end: whether it succeeded, its stdout, its stderr.
#[track_caller]
pub fn try_run(command: &mut Command, netns: Option<&Netns>) -> (bool, String, String) {
    enter_on_exec(command, netns);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    let (out, err) = (Arc::new(Mutex::new(String::new())), Arc::new(Mutex::new(String::new())));
    let readers = [
        collect(child.stdout.take().expect("piped"), out.clone(), |_| ()),
        collect(child.stderr.take().expect("piped"), err.clone(), |_| ()),
    ];
    // Ten times the usual bound: some of these are whole test suites or benchmarks of others.
    let end = Instant::now() + 10 * HANG;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            panic!("{command:?} did not end:\n{}{}", out.lock().expect("log"), err.lock().expect("log"));
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    };
    wait::until_true("output read to its end", || readers.iter().all(std::thread::JoinHandle::is_finished));
    let text = |log: &Mutex<String>| log.lock().expect("log").clone();
    (status.success(), text(&out), text(&err))
}

/// Makes the child enter the namespace before it runs, and die with the thread that made it.
fn enter_on_exec(command: &mut Command, netns: Option<&Netns>) {
    contain(command, netns.map(Netns::fd), Some(Signal::KILL));
}

fn collect(
    from: impl Read + AsRawFd + Send + 'static,
    log: Arc<Mutex<String>>,
    mut each: impl FnMut(String) + Send + 'static,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).into_owned();
            log.lock().expect("log").push_str(&text);
            each(text.trim_end().to_owned());
            line.clear();
        }
    })
}
