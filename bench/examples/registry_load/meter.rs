//! What etcd and this process spend.

use std::time::{Duration, Instant};

use portsplice_tests::etcd::Etcd;
use portsplice_tests::process::cpu_time;

/// Reads counters.
pub(crate) struct Meter<'a> {
    etcd: &'a Etcd,
}

/// Counters at a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    at: Instant,
    etcd_cpu: Duration,
    own_cpu: Duration,
    syncs: f64,
    sync_seconds: f64,
    commit_seconds: f64,
}

/// What was spent, and what is held at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spent {
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// CPU time of etcd.
    pub(crate) etcd_cpu: Duration,
    /// CPU time of all nodes and the edge.
    pub(crate) own_cpu: Duration,
    /// How often etcd has synced its log, and how long that took in all.
    pub(crate) syncs: f64,
    /// The latter.
    pub(crate) sync_time: Duration,
    /// How long etcd has written its database, in all.
    pub(crate) commit_time: Duration,
    /// etcd's resident memory, in bytes.
    pub(crate) resident: f64,
    /// The database's size, in bytes.
    pub(crate) database: f64,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(etcd: &'a Etcd) -> Self {
        Self { etcd }
    }

    /// The counters now.
    pub(crate) fn read(&self) -> Counters {
        let metrics = self.etcd.metrics();
        let value = |name: &str| metrics.get(name).copied().unwrap_or_default();
        Counters {
            at: Instant::now(),
            etcd_cpu: cpu_time(self.etcd.pid()),
            own_cpu: cpu_time(std::process::id()),
            syncs: value("etcd_disk_wal_fsync_duration_seconds_count"),
            sync_seconds: value("etcd_disk_wal_fsync_duration_seconds_sum"),
            commit_seconds: value("etcd_disk_backend_commit_duration_seconds_sum"),
        }
    }

    /// What was spent since `before`.
    pub(crate) fn since(&self, before: &Counters) -> Spent {
        let elapsed = before.at.elapsed();
        let now = self.read();
        let metrics = self.etcd.metrics();
        let value = |name: &str| metrics.get(name).copied().unwrap_or_default();
        Spent {
            elapsed,
            etcd_cpu: now.etcd_cpu - before.etcd_cpu,
            own_cpu: now.own_cpu - before.own_cpu,
            syncs: now.syncs - before.syncs,
            sync_time: Duration::from_secs_f64((now.sync_seconds - before.sync_seconds).max(0.0)),
            commit_time: Duration::from_secs_f64((now.commit_seconds - before.commit_seconds).max(0.0)),
            resident: value("process_resident_memory_bytes"),
            database: value("etcd_mvcc_db_total_size_in_bytes"),
        }
    }
}
