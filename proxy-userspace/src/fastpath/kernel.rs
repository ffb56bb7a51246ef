//! Loads the programs, attaches them, and talks to them through their maps.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::EbpfLoader;
use aya::maps::{Array, HashMap as BpfHashMap, MapData, MapError, PerCpuArray};
use aya::programs::sock_ops::SockOpsLink;
use aya::programs::{CgroupAttachMode, SockOps};
use aya::util::KernelVersion;
use caps::{CapSet, Capability};
use parking_lot::Mutex;
use proxy_common::{ArmRequest, Calls, Counters, Offsets, Pace, Settings, SettleRequest, names};
use tokio::task::AbortHandle;

use super::flows::Flows;
use super::listeners::{ListenEvents, Unread};
use super::logs::{self, Records};
use super::object::{lacks, take};
use super::proof::{self, Proof};
use super::unavailable::one_line;
use super::{BpfSettings, Unavailable, btf, buffers, calls, cgroup, object};

/// The first kernel whose sock_ops programs may ask for their network namespace's cookie (`bpf_get_netns_cookie`).
const OLDEST_KERNEL: KernelVersion = KernelVersion::new(5, 15, 0);

/// The programs, loaded and attached. Dropping it detaches and removes them.
pub struct Kernel {
    /// Holds the attachment, and through it the program.
    _link: SockOpsLink,
    flows: Result<Arc<Flows>, Unavailable>,
    proof: Proof,
    program_id: u32,
    cgroup: PathBuf,
    namespaces: Mutex<Namespaces>,
    listeners: Mutex<Option<Unread>>,
    total: PerCpuArray<MapData, Value<Counters>>,
    settings: Mutex<Array<MapData, Value<Settings>>>,
    logs: Mutex<Logs>,
}

/// Registered namespaces: the kernel's tables, and how often each was registered.
struct Namespaces {
    map: BpfHashMap<MapData, u64, Value<Counters>>,
    paces: BpfHashMap<MapData, u64, Value<Pace>>,
    registrations: HashMap<u64, usize>,
}

/// Where the programs' log records go.
enum Logs {
    /// Nowhere yet.
    Kept(Records),
    /// To a task.
    Forwarded(AbortHandle),
    /// Nowhere any more.
    Gone,
}

/// A value of `proxy-common` in a map.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Value<T>(pub(super) T);

// SAFETY: `Counters` is `repr(C)` and made of u64 alone, without padding (asserted beside it); any bit pattern is valid.
unsafe impl aya::Pod for Value<Counters> {}
// SAFETY: `Pace` is `repr(C)` and made of u64 alone; any bit pattern is valid.
unsafe impl aya::Pod for Value<Pace> {}
// SAFETY: `Settings` is `repr(C)` and made of u32 alone; any bit pattern is valid.
unsafe impl aya::Pod for Value<Settings> {}
// SAFETY: `Offsets` is `repr(C)` and made of u32 alone; any bit pattern is valid.
unsafe impl aya::Pod for Value<Offsets> {}
// SAFETY: `Calls` is `repr(C)` and made of u32 alone; any bit pattern is valid.
unsafe impl aya::Pod for Value<Calls> {}
// SAFETY: `ArmRequest` is `repr(C)` and made of integers and arrays of bytes, without padding: its size, asserted beside it, is
// the sum of its fields. Any bit pattern is valid.
unsafe impl aya::Pod for Value<ArmRequest> {}
// SAFETY: `SettleRequest` is `repr(C)` and made of u32 alone; any bit pattern is valid.
unsafe impl aya::Pod for Value<SettleRequest> {}

impl Kernel {
    /// Loads the embedded object and attaches its program, whatever the settings' mode says.
    ///
    /// The attachment is a `bpf_link`: it adds to the programs of others at the same cgroup and to none of them does it
    /// matter, and it goes when the process does.
    ///
    /// # Errors
    ///
    /// The reason why this host, this kernel or this process cannot have the programs.
    pub fn load(settings: &BpfSettings) -> Result<Self, Unavailable> {
        let object = object::embedded().ok_or(Unavailable::NotBuilt)?;
        check_capabilities()?;
        check_kernel()?;
        let (path, cgroup) = open_cgroup(settings)?;

        let layout = btf::layout();
        let (offsets, calls) = (Value(layout.clone().unwrap_or_default().offsets), Value(calls::NUMBERS));
        let mut loader = EbpfLoader::new();
        loader.override_global(names::OFFSETS, &offsets, true).override_global(names::CALLS, &calls, true);
        for map in [names::FLOWS, names::SERVERS, names::CLIENTS] {
            loader.map_max_entries(map, settings.max_flows);
        }
        let mut ebpf = loader.load(object)?;
        let records = logs::records(&mut ebpf).map_err(|error| Unavailable::Refused(one_line(&error)))?;
        let (map, paces) = (take(&mut ebpf, names::NAMESPACES)?, take(&mut ebpf, names::PACES)?);
        let namespaces = Namespaces { map, paces, registrations: HashMap::new() };
        let listeners = Unread::take(&mut ebpf)?;
        let total = take(&mut ebpf, names::TOTAL)?;
        let mut settings = take(&mut ebpf, names::SETTINGS)?;

        let program = ebpf.program_mut(names::SOCKET_EVENTS).ok_or_else(|| lacks(names::SOCKET_EVENTS))?;
        let program: &mut SockOps = program.try_into()?;
        program.load()?;
        let program_id = program.info()?.id();
        // `Single` means no flags, which is what bpf_link_create demands; a link always shares (BPF_F_ALLOW_MULTI).
        let link = program
            .attach(&cgroup, CgroupAttachMode::Single)
            .and_then(|link| program.take_link(link))
            .map_err(|error| Unavailable::Attach { path: path.clone(), error: one_line(&error) })?;

        // A kernel may have what counting takes and lack what the fast path takes.
        let flows = match layout {
            Ok(layout) => {
                Flows::load(ebpf, &layout, &mut settings).map_err(|reason| (reason, Proof::default())).and_then(prove)
            }
            Err(error) => Err((Unavailable::Refused(error.to_string()), Proof::default())),
        };
        let (flows, proof) = match flows {
            Ok((flows, proof)) => (Ok(flows), proof),
            Err((reason, proof)) => (Err(reason), proof),
        };
        Ok(Self {
            _link: link,
            flows,
            proof,
            program_id,
            cgroup: path,
            namespaces: Mutex::new(namespaces),
            listeners: Mutex::new(Some(listeners)),
            total,
            settings: Mutex::new(settings),
            logs: Mutex::new(Logs::Kept(records)),
        })
    }

    /// The kernel's number of the program, as `bpftool prog` shows it.
    pub const fn program_id(&self) -> u32 {
        self.program_id
    }

    /// The cgroup that the program is attached to.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Begins to count the sockets of a namespace and to tell of those that listen, or adds one to the registrations that it has.
    ///
    /// Sockets that are listening or connected already are not counted, and neither is their end.
    ///
    /// # Errors
    ///
    /// `E2BIG` when [`proxy_common::MAX_NAMESPACES`] are registered, `ENOMEM`, or `EPERM` where a kernel older than 5.19
    /// wants CAP_BPF for this too.
    pub fn register(&self, cookie: u64) -> io::Result<()> {
        let mut namespaces = self.namespaces.lock();
        let Namespaces { map, paces, registrations } = &mut *namespaces;
        if let Some(count) = registrations.get_mut(&cookie) {
            *count += 1;
            return Ok(());
        }
        // First what only matters together with the other: a program that sees one of them sees both.
        paces.insert(cookie, Value(Pace::default()), 0).map_err(into_io)?;
        if let Err(error) = map.insert(cookie, Value(Counters::default()), 0) {
            let _ = paces.remove(&cookie); // alone it does nothing
            return Err(into_io(error));
        }
        registrations.insert(cookie, 1);
        Ok(())
    }

    /// Takes back one registration; after the last one the namespace is not counted any more, and its counts are gone.
    ///
    /// # Errors
    ///
    /// Those of the `bpf` system call; a namespace that is not registered is none.
    pub fn unregister(&self, cookie: u64) -> io::Result<()> {
        let mut namespaces = self.namespaces.lock();
        let Namespaces { map, paces, registrations } = &mut *namespaces;
        match registrations.get_mut(&cookie) {
            None => Ok(()),
            Some(count) if *count > 1 => {
                *count -= 1;
                Ok(())
            }
            Some(_) => {
                map.remove(&cookie).map_err(into_io)?;
                let _ = paces.remove(&cookie); // alone it does nothing
                registrations.remove(&cookie);
                Ok(())
            }
        }
    }

    /// The news of listening sockets, for the first who asks; called from within a tokio runtime.
    ///
    /// # Errors
    /// The reactor's.
    pub fn listen_events(&self) -> io::Result<Option<ListenEvents>> {
        self.listeners.lock().take().map(Unread::open).transpose()
    }

    /// How many of a namespace's [`listen_events`](Self::listen_events) were lost since its registration.
    pub fn lost_of(&self, cookie: u64) -> u64 {
        // The one error is that it is not registered.
        self.namespaces.lock().paces.get(&cookie, 0).map_or(0, |Value(pace)| pace.lost)
    }

    /// The counts of all registered namespaces together since the start; what a namespace counted stays when it goes.
    ///
    /// # Errors
    ///
    /// Those of the `bpf` system call.
    pub fn counters(&self) -> io::Result<Counters> {
        let per_cpu = self.total.get(&0, 0).map_err(into_io)?;
        Ok(per_cpu.iter().fold(Counters::default(), |sum, Value(counters)| sum.plus(counters)))
    }

    /// The counts of one namespace; none if it is not registered.
    ///
    /// # Errors
    ///
    /// Those of the `bpf` system call.
    pub fn counters_of(&self, cookie: u64) -> io::Result<Option<Counters>> {
        match self.namespaces.lock().map.get(&cookie, 0) {
            Ok(Value(counters)) => Ok(Some(counters)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(into_io(error)),
        }
    }

    /// Whether the programs write a log record for each event.
    ///
    /// # Errors
    ///
    /// Those of the `bpf` system call.
    pub fn log_events(&self, on: bool) -> io::Result<()> {
        self.change(|settings| settings.log_events = u32::from(on))
    }

    /// The fast path, or why this kernel has none.
    pub const fn flows(&self) -> Result<&Arc<Flows>, &Unavailable> {
        self.flows.as_ref()
    }

    /// What was proved of the fast path when it was loaded; nothing if it could not be.
    pub const fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Makes the program tune servers' sockets, if the daemon has connected to them; see
    /// `proxy-ebpf/src/tune.rs`.
    ///
    /// # Errors
    /// Those of the `bpf` system call.
    pub fn tune_servers(&self) -> io::Result<()> {
        let Ok(flows) = &self.flows else { return Ok(()) };
        let daemon = flows.process()?;
        self.change(|settings| {
            settings.daemon = daemon;
            settings.server_sndbuf = buffers::SLOW_BYTES;
        })
    }

    fn change(&self, change: impl FnOnce(&mut Settings)) -> io::Result<()> {
        let mut map = self.settings.lock();
        let Value(mut settings) = map.get(&0, 0).map_err(into_io)?;
        change(&mut settings);
        map.set(0, Value(settings), 0).map_err(into_io)
    }

    /// Forwards the programs' log records to `tracing`, in a task of the tokio runtime that it is called in.
    pub fn forward_logs(&self) {
        let mut logs = self.logs.lock();
        match std::mem::replace(&mut *logs, Logs::Gone) {
            Logs::Kept(records) => *logs = Logs::Forwarded(tokio::spawn(logs::forward(records)).abort_handle()),
            forwarded => *logs = forwarded,
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Logs::Forwarded(task) = self.logs.get_mut() {
            task.abort();
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel")
            .field("program_id", &self.program_id)
            .field("cgroup", &self.cgroup)
            .finish_non_exhaustive()
    }
}

/// Tries the fast path out. It is given away only if all that must hold does.
fn prove(flows: Flows) -> Result<(Arc<Flows>, Proof), (Unavailable, Proof)> {
    let shared = Arc::new(flows);
    let (proof, quirks) = proof::run(&shared);
    if let Some(failure) = proof.failure() {
        return Err((Unavailable::Unproven(failure), proof));
    }
    shared.proven(quirks);
    Ok((shared, proof))
}

/// What loading takes: the first for maps and programs, the last for the type of program and its attachment. The middle
/// one is for the verifier, which otherwise refuses arithmetic that speculation could abuse to read the kernel's memory;
/// who has this capability may read it anyway, and the compiled log calls are full of such arithmetic.
const NEEDED: [(Capability, &str); 3] = [
    (Capability::CAP_BPF, "CAP_BPF"),
    (Capability::CAP_PERFMON, "CAP_PERFMON"),
    (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN"),
];

/// Fails with the names of the capabilities that are missing.
///
/// The kernel would answer EPERM, which can as well come from a security module; so it is better to ask first.
fn check_capabilities() -> Result<(), Unavailable> {
    // A process whose capabilities cannot be read shall try.
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true);
    if has(Capability::CAP_SYS_ADMIN) {
        return Ok(()); // includes the others, where bpf(2) is concerned (`bpf_capable` in include/linux/capability.h)
    }
    let missing: Vec<_> = NEEDED.iter().filter(|(capability, _)| !has(*capability)).map(|&(_, name)| name).collect();
    if missing.is_empty() { Ok(()) } else { Err(Unavailable::Capabilities(missing)) }
}

fn check_kernel() -> Result<(), Unavailable> {
    match KernelVersion::current() {
        Ok(version) if version < OLDEST_KERNEL => {
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
            Err(Unavailable::KernelTooOld(release.trim().to_owned()))
        }
        // A version that cannot be read shall try.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn open_cgroup(settings: &BpfSettings) -> Result<(PathBuf, File), Unavailable> {
    let path = match &settings.cgroup {
        Some(path) => path.clone(),
        None => {
            let mountinfo = PathBuf::from("/proc/self/mountinfo");
            let found = cgroup::find_root()
                .map_err(|error| Unavailable::Cgroup { path: mountinfo, error: error.to_string() })?;
            found.ok_or(Unavailable::NoCgroup)?
        }
    };
    match File::open(&path) {
        Ok(file) => Ok((path, file)),
        Err(error) => Err(Unavailable::Cgroup { path, error: error.to_string() }),
    }
}

/// The system call's own error where there is one.
fn into_io(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}
