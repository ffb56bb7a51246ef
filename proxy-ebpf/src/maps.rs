//! The maps, by the names in `proxy_common::names`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use proxy_common::{Counters, MAX_NAMESPACES, Settings};

/// Registered network namespaces by cookie; the daemon inserts and removes, the programs only count.
///
/// Without preallocation a removed value is freed after a grace period and not handed to another key before, so a pointer
/// to it stays good for the rest of a program's run.
#[map]
pub static NAMESPACES: HashMap<u64, Counters> = HashMap::with_max_entries(MAX_NAMESPACES, BPF_F_NO_PREALLOC);

/// The count of all registered namespaces, per CPU because they all write here.
#[map]
pub static TOTAL: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// What the daemon may change while the programs run.
#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);
