//! The kernel's side of the fast path: its programs, its maps, and the flow table that all flows share.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use aya::Ebpf;
use aya::maps::{Array, Map, MapData, SockMap};
use aya::programs::{SchedClassifier, SkMsg, TestRun, TestRunOptions};
use parking_lot::Mutex;
use proxy_common::{AttachRequest, AttachStatus, DrainRequest, FallbackReason, Settings, names};
use socket2::Socket;

use super::in_namespace::InNamespace;
use super::kernel_flow::{AttachFailure, KernelFlow, Request};
use super::socket_map::Sockets;
use super::table::{Entry, Table};
use crate::btf::Layout;
use crate::calls;
use crate::object::{lacks, take};
use crate::unavailable::Unavailable;
use crate::value::Value;
use portsplice_model::error_line;
use portsplice_net::netns::Netns;

/// The kernel wants an Ethernet header before the argument, and something behind it.
const ARGUMENT: usize = 16;
const PACKET: usize = ARGUMENT + size_of::<AttachRequest>();

/// What is different on some kernels; found out by the proof at start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quirks {
    /// `FIONREAD` of a socket in a socket map says 0 whatever there is to read. Servers trust it, so a socket must not be
    /// in a map while it has something to read.
    pub fionread: bool,
}

/// The fast path of this kernel.
pub struct Flows {
    /// Holds the programs.
    programs: Ebpf,
    pub(super) table: Table,
    quirks: OnceLock<Quirks>,
    pub(super) totals: Totals,
    clients: Sockets,
    generation: AtomicU32,
    servers: Sockets,
}

impl std::fmt::Debug for Flows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Flows").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Flows {
    /// Loads the programs of the fast path from an object whose maps are made, and takes the object with it.
    pub(crate) fn load(
        mut programs: Ebpf,
        layout: &Layout,
        settings: &mut Array<MapData, Value<Settings>>,
    ) -> Result<Self, Unavailable> {
        let flows = programs.take_map(names::FLOWS).ok_or_else(|| lacks(names::FLOWS))?;
        let Map::Array(flows) = flows else { return Err(lacks(names::FLOWS)) };
        let entries = flows
            .info()
            .map_err(|error| Unavailable::Refused(format!("the flow table: {}", error_line(&error))))?
            .max_entries();
        let table = Table::map(flows.fd().as_fd(), entries)
            .map_err(|error| Unavailable::Refused(format!("the flow table cannot be mapped: {error}")))?;
        let clients = take(&mut programs, names::CLIENTS)?;
        let servers: SockMap<MapData> = take(&mut programs, names::SERVERS)?;
        for name in [names::ATTACH, names::DRAIN, names::PROCESS, names::CALL] {
            let program = programs.program_mut(name).ok_or_else(|| lacks(name))?;
            let program: &mut SchedClassifier = program.try_into()?;
            program.load()?;
        }
        let verdict = programs.program_mut(names::VERDICT).ok_or_else(|| lacks(names::VERDICT))?;
        let verdict: &mut SkMsg = verdict.try_into()?;
        verdict.load()?;
        verdict.attach(servers.fd())?;
        let flows = Self {
            programs,
            table,
            quirks: OnceLock::new(),
            totals: Totals::default(),
            clients: Sockets::new(clients),
            generation: AtomicU32::new(1),
            servers: Sockets::new(servers),
        };
        let registers = flows.find_registers(layout)?;
        settings
            .set(0, Value(Settings { registers, ..Settings::default() }), 0)
            .map_err(|error| Unavailable::Refused(format!("the map {}: {}", names::SETTINGS, error_line(&error))))?;
        Ok(flows)
    }

    /// Where a task's registers are in its kernel stack: where the number of this very call is found.
    fn find_registers(&self, layout: &Layout) -> Result<u32, Unavailable> {
        calls::places(layout.registers)
            .find(|place| self.run(names::CALL, &place.to_ne_bytes()).is_ok_and(|call| call == calls::BPF))
            .ok_or_else(|| Unavailable::Unproven("cannot locate the registers of a system call".to_owned()))
    }

    /// Attaches a flow.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn open(self: &Arc<Self>, request: &Request<'_>) -> Result<KernelFlow, AttachFailure> {
        KernelFlow::attach(self, request)
    }

    /// The fast path for the servers of one network namespace.
    pub const fn within<'a>(self: &'a Arc<Self>, netns: &'a Netns) -> InNamespace<'a> {
        InNamespace { flows: self, netns }
    }

    /// What this kernel does differently.
    pub fn quirks(&self) -> Quirks {
        self.quirks.get().copied().unwrap_or_default()
    }

    /// Says once, after the proof, what it has found; what the proof itself did does not count.
    pub(crate) fn proven(&self, quirks: Quirks) {
        // There is one proof, so it is set once.
        let _ = self.quirks.set(quirks);
        self.totals.clear();
    }

    /// How many flows are attached, and how many can be.
    pub fn used(&self) -> (u32, u32) {
        (self.table.used(), self.table.entries())
    }

    /// Bytes of memory that the flow table and the maps of sockets take, used or not.
    pub fn memory(&self) -> usize {
        // A socket map keeps a pointer for each entry.
        self.table.entries() as usize * (size_of::<Entry>() + 2 * size_of::<u64>())
    }

    /// What has been counted so far, running flows included.
    pub fn counts(&self) -> Counts {
        // With the lock held, no flow can end in between and be counted twice, or not at all.
        let ended = self.totals.ended.lock();
        let mut counts = ended.clone();
        self.table.touched().for_each(|entry| counts.add(entry));
        drop(ended);
        counts.attached = self.totals.attached.load(Relaxed);
        counts.refused.clone_from(&self.totals.refused.lock());
        counts
    }

    /// The process id of this process in the initial pid namespace.
    pub(crate) fn process(&self) -> io::Result<u32> {
        self.run(names::PROCESS, &[])
    }

    /// A number that no flow which may still be known to a server's socket has.
    pub(super) fn next_generation(&self) -> u32 {
        loop {
            let generation = self.generation.fetch_add(1, Relaxed);
            if generation != 0 {
                return generation;
            }
        }
    }

    pub(super) fn insert_client(&self, slot: u32, client: &Socket) -> io::Result<()> {
        self.clients.insert(slot, client)
    }

    pub(super) fn remove_client(&self, slot: u32) {
        // It may be gone already: settled, or closed.
        let _ = self.clients.remove(slot);
    }

    pub(super) fn remove_server(&self, slot: u32) {
        // It may be gone already, as above.
        let _ = self.servers.remove(slot);
    }

    pub(super) fn attach(&self, netns: &Netns, argument: &AttachRequest) -> io::Result<AttachStatus> {
        let value = netns.run(|| self.run(names::ATTACH, bytes_of(&Value(*argument))))??;
        Ok(AttachStatus::from_value(value).unwrap_or(AttachStatus::Argument))
    }

    /// Runs the program `drain`; its value is one of [`proxy_common::drained`].
    pub(super) fn drain(&self, request: DrainRequest) -> io::Result<u32> {
        self.run(names::DRAIN, bytes_of(&Value(request)))
    }

    fn run(&self, name: &'static str, argument: &[u8]) -> io::Result<u32> {
        let mut packet = [0_u8; PACKET];
        packet[ARGUMENT..ARGUMENT + argument.len()].copy_from_slice(argument);
        let program = self.programs.program(name).ok_or(io::ErrorKind::NotFound)?;
        let program: &SchedClassifier = program.try_into().map_err(io::Error::other)?;
        let options = TestRunOptions { data_in: Some(&packet), ..TestRunOptions::new() };
        program.test_run(options).map(|result| result.return_value).map_err(io::Error::other)
    }
}

/// A program's argument as the bytes that it reads.
fn bytes_of<T>(argument: &Value<T>) -> &[u8]
where
    Value<T>: aya::Pod,
{
    // SAFETY: what is `Pod` consists of initialized bytes; for these types that is said where the trait is implemented.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(argument).cast(), size_of::<T>()) }
}

/// What all flows have done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Flows that were attached.
    pub attached: u64,
    /// Flows that were not, by reason.
    pub refused: Vec<(&'static str, u64)>,
    /// Bytes redirected.
    pub fast_bytes: u64,
    /// Messages redirected.
    pub fast_messages: u64,
    /// How often a flow came back to the fast path after messages had passed.
    pub resumed: u64,
    /// Messages of attached servers that passed, by [`FallbackReason`].
    pub fallbacks: [u64; FallbackReason::COUNT],
}

impl Counts {
    fn add(&mut self, entry: &Entry) {
        self.fast_bytes += entry.fast_bytes.load(Relaxed);
        self.fast_messages += entry.fast_messages.load(Relaxed);
        self.resumed += entry.resumed.load(Relaxed);
        for (sum, count) in self.fallbacks.iter_mut().zip(&entry.fallbacks) {
            *sum += count.load(Relaxed);
        }
    }
}

/// The counts of flows that have ended, and of how attaching went.
#[derive(Debug, Default)]
pub(super) struct Totals {
    attached: AtomicU64,
    refused: Mutex<Vec<(&'static str, u64)>>,
    ended: Mutex<Counts>,
}

impl Totals {
    pub(super) fn attached(&self, attached: Result<(), AttachFailure>) {
        let Err(reason) = attached else {
            self.attached.fetch_add(1, Relaxed);
            return;
        };
        let mut refused = self.refused.lock();
        match refused.iter_mut().find(|(label, _)| *label == reason.label()) {
            Some((_, count)) => *count += 1,
            None => refused.push((reason.label(), 1)),
        }
    }

    fn clear(&self) {
        self.attached.store(0, Relaxed);
        self.refused.lock().clear();
        *self.ended.lock() = Counts::default();
    }

    /// Takes over what a flow has counted.
    pub(super) fn ended(&self, entry: &Entry) {
        let mut ended = self.ended.lock();
        ended.add(entry);
        entry.reset_counts();
    }
}
