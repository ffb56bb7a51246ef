//! Processes that end with this one.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{command, interrupt};

/// How long a process may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How often a process is looked after that is being waited for.
const POLL: Duration = Duration::from_millis(5);

/// A running process that is stopped when dropped, and by the kernel when the thread that started it ends without
/// dropping it. Start it from the main thread.
pub struct Guarded {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where standard output goes: a file, so that it can still be written to when nobody reads it any more.
    output: PathBuf,
    lines_read: usize,
}

impl Guarded {
    /// Starts `command` inside the network namespace `netns` (or in this one). Standard error goes to the file `log`,
    /// standard output to one beside it, see [`Guarded::line`].
    pub fn spawn(name: &str, command: &mut Command, log: &Path, netns: Option<BorrowedFd<'_>>) -> anyhow::Result<Self> {
        contain(command, netns, Some(Signal::TERM));
        Self::start(name, command, log)
    }

    /// Starts `command` in a process group of its own and without the kernel's watch, so that [`Guarded::detach`] can
    /// leave it running.
    pub fn spawn_to_keep(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        Self::start(name, command.process_group(0), log)
    }

    fn start(name: &str, command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let output = log.with_extension("out");
        let create = |path: &Path| File::create(path).with_context(|| format!("create {}", path.display()));
        command.stdin(Stdio::null()).stdout(create(&output)?).stderr(create(log)?);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("start {name} ({program})"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned(), output, lines_read: 0 })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of standard output, or an error that carries the process's last words.
    pub fn line(&mut self, timeout: Duration) -> anyhow::Result<String> {
        let deadline = Instant::now() + timeout;
        loop {
            let text = std::fs::read_to_string(&self.output).with_context(|| format!("read {}'s output", self.name))?;
            let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = whole.into_iter().nth(self.lines_read) {
                self.lines_read += 1;
                return Ok(line.trim_end().to_owned());
            }
            interrupt::check()?;
            self.ensure_running()?;
            let silent = Instant::now() > deadline;
            ensure!(!silent, "{} said nothing within {timeout:?}\n{}", self.name, self.last_words());
            thread::sleep(POLL);
        }
    }

    /// Fails with the process's last words if it has ended.
    pub fn ensure_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().with_context(|| format!("look after {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}\n{}", self.name, self.last_words()),
        }
    }

    /// Whether the process has ended, in whatever way.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait().with_context(|| format!("look after {}", self.name))?.is_some())
    }

    /// The end of what the process wrote to standard error.
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Lets the process run on after this one has ended.
    pub fn detach(self) {
        std::mem::forget(self);
    }

    fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let pid = Pid::from_child(&self.child);
        // It can only fail when the process has just ended by itself.
        let _ = kill_process(pid, Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            thread::sleep(POLL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Makes `command` start inside `netns`, and die by `signal` when this thread ends.
pub fn contain(command: &mut Command, netns: Option<BorrowedFd<'_>>, signal: Option<Signal>) {
    let netns = netns.map(|fd| fd.try_clone_to_owned());
    // SAFETY: between fork and exec the closure makes only the system calls setns and prctl on an owned descriptor and
    // reads what was moved into it; it does not allocate, lock or touch this process's other state.
    unsafe {
        command.pre_exec(move || {
            match &netns {
                Some(Ok(fd)) => {
                    use std::os::fd::AsFd;
                    move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))?;
                }
                Some(Err(error)) => return Err(std::io::Error::from(error.kind())),
                None => {}
            }
            set_parent_process_death_signal(signal)?;
            Ok(())
        });
    }
}

/// Where the program `name` is; its name when it is nowhere, so that starting it says so.
pub fn program(name: &str) -> PathBuf {
    command::find(name).unwrap_or_else(|| PathBuf::from(name))
}
