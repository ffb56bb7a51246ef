//! Mount and pid namespaces around a command. When its first process ends, the kernel ends every other one and takes
//! the mounts away: nothing can stay behind on the host, however it ends.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portsplice_tooling::child::contain;
use portsplice_tooling::{command, interrupt};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long a command may take to clean up after SIGTERM before everything in its namespaces is killed. It covers
/// `inside`'s own patience.
const GRACE: Duration = Duration::from_secs(40);
const POLL: Duration = Duration::from_millis(50);

/// Prints and runs the command in new mount and pid namespaces; anything but success is an error, and so is a signal
/// that asks this process to end, which the command is told.
pub(super) fn run(inner: &Command) -> anyhow::Result<()> {
    let mut unshare = command::command("unshare");
    // unshare(1) makes all mounts private; the first process inside dies with it.
    unshare.args(["--mount", "--mount-proc", "--pid", "--fork", "--kill-child=KILL", "--"]);
    unshare.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => unshare.env(name, value),
            None => unshare.env_remove(name),
        };
    }
    // A group of its own, so that all inside can be told to end at once. A terminal's keys reach this process alone.
    unshare.stdin(Stdio::null()).process_group(0);
    // Should this process be killed, all inside is.
    contain(&mut unshare, None, Some(Signal::KILL));
    command::say(inner);
    let mut child = unshare.spawn().context("start unshare (Debian package util-linux)")?;
    let group = Pid::from_child(&child);
    let mut deadline = None;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        match deadline {
            None if interrupt::pending() => {
                println!("fresh: interrupted; what runs inside is being ended");
                // It can only fail when all have just ended by themselves.
                let _ = kill_process_group(group, Signal::TERM);
                deadline = Some(Instant::now() + GRACE);
            }
            Some(deadline) if Instant::now() > deadline => drop(kill_process_group(group, Signal::KILL)),
            _ => {}
        }
        thread::sleep(POLL);
    };
    interrupt::check()?;
    ensure!(status.success(), "`{}` failed: {status}", command::shown(inner));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_the_first_process_and_its_failure_an_error() {
        if !rustix::process::geteuid().is_root() && std::env::var_os("PORTSPLICE_SKIP_PRIVILEGED").is_some() {
            return;
        }
        let shell = |script: &str| run(Command::new("sh").args(["-c", script]));
        shell("test $$ = 1 && test $(ls -d /proc/[0-9]* | wc -l) -lt 5").unwrap();
        let error = shell("exit 3").unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
    }
}
