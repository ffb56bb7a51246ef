//! Runs a command that tests something: shows what it prints, counts, and ends it when it takes too long.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use portsplice_tooling::command;

use super::tally::Tally;

/// Runs the command and sums up the lines in which test runners sum up. An exit with failure counts as one if no test did.
pub(crate) fn run(command: &mut Command, limit: Duration) -> anyhow::Result<Tally> {
    let (status, mut tally) = run_counting(command, limit)?;
    match status {
        None => {
            println!("ended after {} s: that is too long", limit.as_secs());
            tally = tally.plus(Tally::FAILURE);
        }
        Some(status) if !status.success() && tally.failed == 0 => {
            println!("`{}`: {status}", command::shown(command));
            tally = tally.plus(Tally::FAILURE);
        }
        Some(_) => {}
    }
    Ok(tally)
}

/// Runs a command that is a test itself.
pub(crate) fn run_one(command: &mut Command, limit: Duration) -> anyhow::Result<Tally> {
    let (status, _) = run_counting(command, limit)?;
    Ok(if status.is_some_and(|status| status.success()) { Tally::SUCCESS } else { Tally::FAILURE })
}

fn run_counting(command: &mut Command, limit: Duration) -> anyhow::Result<(Option<ExitStatus>, Tally)> {
    command::say(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {}", command.get_program().display()))?;
    let tally = Arc::new(Mutex::new(Tally::default()));
    let output = child.stdout.take().context("the child's output is a pipe")?;
    let errors = child.stderr.take().context("the child's error output is a pipe")?;
    let readers = [show(output, &tally), show(errors, &tally)];

    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() > deadline {
            end_with_descendants(child.id());
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    for reader in readers {
        // A process that it left behind can hold the pipe; then what it writes is not waited for.
        let patience = Instant::now() + Duration::from_secs(5);
        while !reader.is_finished() && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    let tally = *tally.lock().unwrap_or_else(PoisonError::into_inner);
    Ok((status, tally))
}

/// Prints a stream line by line as it comes, and counts.
fn show(stream: impl Read + Send + 'static, tally: &Arc<Mutex<Tally>>) -> JoinHandle<()> {
    let tally = Arc::clone(tally);
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line);
            println!("{}", text.trim_end_matches('\n'));
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            *tally = tally.plus(Tally::of_line(&text));
            line.clear();
        }
    })
}

/// Kills a process and all that it started: cargo's child is the test, and the test's are servers.
fn end_with_descendants(root: u32) {
    let mut ended = vec![root];
    let parents = parents();
    let mut at = 0;
    while at < ended.len() {
        let parent = ended[at];
        ended.extend(parents.iter().filter(|&(_, &p)| p == parent).map(|(&child, _)| child));
        at += 1;
    }
    for pid in ended {
        // Nothing is lost if one of them is gone already.
        let _ = command::command("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
    }
}

/// Each process's parent (proc_pid_stat(5)).
fn parents() -> HashMap<u32, u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain anything; behind it come the state and the parent.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
        Some((pid, parent))
    };
    pids.filter_map(parent).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn summaries_of_both_streams_are_added() {
        let script = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'; \
                      echo 'Summary [ 0.1s] 3 tests run: 3 passed, 0 skipped' >&2";
        assert_eq!(run(&mut shell(script), LONG).unwrap(), Tally { passed: 5, failed: 0 });
    }

    #[test]
    fn failure_without_a_failed_test_counts() {
        assert_eq!(run(&mut shell("exit 3"), LONG).unwrap(), Tally::FAILURE);
        let script = "echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored'; exit 101";
        assert_eq!(run(&mut shell(script), LONG).unwrap(), Tally { passed: 1, failed: 2 });
        assert_eq!(run_one(&mut shell("true"), LONG).unwrap(), Tally::SUCCESS);
        assert_eq!(run_one(&mut shell("false"), LONG).unwrap(), Tally::FAILURE);
    }

    #[test]
    fn what_takes_too_long_is_ended_with_its_children() {
        let started = Instant::now();
        let tally = run(&mut shell("sh -c 'sleep 61; true'; true"), Duration::from_millis(200)).unwrap();
        assert_eq!(tally, Tally::FAILURE);
        assert!(started.elapsed() < Duration::from_secs(30));
        let sleeping = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"sleep\x0061\0"));
        assert!(!sleeping, "the grandchild is gone as well");
    }
}
