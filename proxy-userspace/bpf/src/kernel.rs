//! Loads the programs, attaches them, and talks to them through their maps.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::EbpfLoader;
use aya::maps::{Array, MapData};
use aya::programs::sock_ops::SockOpsLink;
use aya::programs::{CgroupAttachMode, SockOps};
use aya::util::KernelVersion;
use caps::{CapSet, Capability};
use parking_lot::Mutex;
use proxy_common::{Settings, names};
use tokio::task::AbortHandle;

use crate::counters::Namespaces;
use crate::fast::{Flows, Proof, proof};
use crate::listeners::{ListenEvents, Unread};
use crate::logs::{self, Records};
use crate::object::{into_io, lacks, take};
use crate::settings::BpfSettings;
use crate::unavailable::Unavailable;
use crate::value::Value;
use crate::{btf, calls, cgroup, object};
use portsplice_model::error_line;
use portsplice_relay::bypass::SLOW_BYTES;

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
    namespaces: Namespaces,
    listeners: Mutex<Option<Unread>>,
    settings: Mutex<Array<MapData, Value<Settings>>>,
    logs: Mutex<Logs>,
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
        let records = logs::records(&mut ebpf).map_err(|error| Unavailable::Refused(error_line(&error)))?;
        let namespaces = Namespaces::take(&mut ebpf)?;
        let listeners = Unread::take(&mut ebpf)?;
        let mut settings = take(&mut ebpf, names::SETTINGS)?;

        let program = ebpf.program_mut(names::SOCKET_EVENTS).ok_or_else(|| lacks(names::SOCKET_EVENTS))?;
        let program: &mut SockOps = program.try_into()?;
        program.load()?;
        let program_id = program.info()?.id();
        // `Single` means no flags, which is what bpf_link_create demands; a link always shares (BPF_F_ALLOW_MULTI).
        let link = program
            .attach(&cgroup, CgroupAttachMode::Single)
            .and_then(|link| program.take_link(link))
            .map_err(|error| Unavailable::Attach { path: path.clone(), error: error_line(&error) })?;

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
            namespaces,
            listeners: Mutex::new(Some(listeners)),
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

    /// The network namespaces whose sockets are counted, and what was counted.
    pub const fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// The events of listening sockets, for the first who asks; called from within a tokio runtime.
    ///
    /// # Errors
    /// The reactor's.
    pub fn listen_events(&self) -> io::Result<Option<ListenEvents>> {
        self.listeners.lock().take().map(Unread::open).transpose()
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
            settings.server_sndbuf = SLOW_BYTES;
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
