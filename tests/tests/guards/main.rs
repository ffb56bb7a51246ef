//! What the fast path must never do to others: to servers, to the host, to the next daemon.

mod coexistence;
mod crash;
mod crowds;
mod foreign;
mod injection;
mod raw;
mod used;

#[path = "../ebpf/bytecode.rs"]
#[allow(dead_code, reason = "written for the tests of the programs themselves, which use all of it")]
mod bytecode;

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use portsplice_tests::rig::Rig;
use portsplice_tests::wait;
use serde_json::{Map, Value};

/// Thousands of flows that wait fill the kernel's memory for sockets, and nothing goes fast while that is short. So nobody
/// asks how much went fast while there is a crowd.
static MEMORY: RwLock<()> = RwLock::new(());

/// Held by a crowd.
fn crowd() -> RwLockWriteGuard<'static, ()> {
    MEMORY.write().unwrap_or_else(PoisonError::into_inner)
}

/// Held by those who ask.
fn without_crowd() -> RwLockReadGuard<'static, ()> {
    MEMORY.read().unwrap_or_else(PoisonError::into_inner)
}

/// The access log's records, once there are at least `n`.
#[track_caller]
fn access(rig: &Rig, n: usize) -> Vec<Map<String, Value>> {
    wait::until("lines of the access log", || {
        let records = rig.node().log_records().into_iter();
        let lines: Vec<_> = records.filter(|record| record.contains_key("bytes_down")).collect();
        (lines.len() >= n).then_some(lines)
    })
}

/// How many of some records went a way, as the access log names it.
fn by_path(lines: &[Map<String, Value>], path: &str) -> usize {
    lines.iter().filter(|line| line.get("path").and_then(Value::as_str) == Some(path)).count()
}
