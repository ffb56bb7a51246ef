//! The maps, by the names in `proxy_common::names`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf, SockMap};
use proxy_common::{Counters, Flow, LISTEN_RING_BYTES, MAX_FLOWS, MAX_NAMESPACES, Pace, Server, Settings};

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

/// What listening sockets of registered namespaces do, for the daemon to read.
#[map]
pub static LISTENERS: RingBuf = RingBuf::with_byte_size(LISTEN_RING_BYTES, 0);

/// How much of it each namespace may tell; with an entry for each registered one.
#[map]
pub static PACES: HashMap<u64, Pace> = HashMap::with_max_entries(MAX_NAMESPACES, BPF_F_NO_PREALLOC);

/// How much of it was lost in all.
#[map]
pub static LISTENERS_LOST: Array<u64> = Array::with_max_entries(1, 0);

/// `BPF_F_MMAPABLE` of `include/uapi/linux/bpf.h`, in Linux since 5.5.
const MMAPABLE: u32 = 1 << 10;

/// The flow table. The loader sets the number of entries of this and of the two maps of sockets.
#[map]
pub static FLOWS: Array<Flow> = Array::with_max_entries(MAX_FLOWS, MMAPABLE);

/// Servers' sockets that are attached, by slot of the flow table. The verdict is attached to this map.
#[map]
pub static SERVERS: SockMap = SockMap::with_max_entries(MAX_FLOWS, 0);

/// Clients' connections, by slot of the flow table. No program may be attached to this map: splice(2) from a
/// connection works only without.
#[map]
pub static CLIENTS: SockMap = SockMap::with_max_entries(MAX_FLOWS, 0);

/// What an attached server's socket keeps with it; it goes with the socket.
#[btf_map]
pub static SERVER: SkStorage<Server> = SkStorage::new();
