//! What Portsplice's programs in the kernel and the daemon must agree on: the layout of map values, the meaning of the
//! kernel's socket events, and the byte order of the fields that the kernel shows.
//!
//! The crate is `no_std`, allocates nothing and depends on nothing, so that it compiles for `bpfel-unknown-none`; its
//! rules are tested on the host, where a mistake is cheaper to find than in front of the verifier.
//!
//! Rules for a type that lives in a map: `repr(C)`, only integers (never `bool`, `char` or an enum: the other side may
//! write any bit pattern), no padding that is not a named field, and its layout asserted field by field at compile time
//! (`layout!`), since the two sides are compiled apart from each other.
#![cfg_attr(not(test), no_std)]

pub mod byte_order;
pub mod chunk;
mod counters;
mod event;
mod flow;
mod layout;
mod listen;
pub mod turn;

pub use counters::Counters;
pub use event::{SocketEvent, op, state};
pub use flow::{
    ATTACH_NONBLOCKING, ATTACH_QUIET, AttachRequest, AttachStatus, Calls, DrainRequest, FallbackReason, Flow, FlowOf,
    Framing, Offsets, Server, TUPLE_V4, TUPLE_V6, drained,
};
use layout::layout;
pub use listen::{LISTEN_BURST, LISTEN_RING_BYTES, ListenEvent, Pace};

/// Names by which the loader finds the program and its maps in the object.
pub mod names {
    /// The sock_ops program.
    pub const SOCKET_EVENTS: &str = "socket_events";
    /// Hash map from the cookie of a registered network namespace (`u64`) to its [`Counters`](crate::Counters).
    pub const NAMESPACES: &str = "NAMESPACES";
    /// Per-CPU array with one entry: the [`Counters`](crate::Counters) of all registered namespaces together.
    pub const TOTAL: &str = "TOTAL";
    /// Array with one entry: the [`Settings`](crate::Settings).
    pub const SETTINGS: &str = "SETTINGS";
    /// Ring buffer of [`ListenEvent`](crate::ListenEvent)s.
    pub const LISTENERS: &str = "LISTENERS";
    /// Hash map from the cookie of a registered network namespace (`u64`) to its [`Pace`](crate::Pace).
    pub const PACES: &str = "PACES";
    /// Array with one entry: how many [`ListenEvent`](crate::ListenEvent)s were lost in all (`u64`).
    pub const LISTENERS_LOST: &str = "LISTENERS_LOST";

    /// The sk_msg program that decides on each message of an attached server.
    pub const VERDICT: &str = "verdict";
    /// The program that arms a flow, run by the daemon inside the container's namespace.
    pub const ATTACH: &str = "attach";
    /// The program that takes a flow's arms away again.
    pub const DRAIN: &str = "drain";
    /// Array of [`Flow`](crate::Flow)s, mapped into the daemon's memory.
    pub const FLOWS: &str = "FLOWS";
    /// Socket map of servers' sockets, with the verdict, by slot.
    pub const SERVERS: &str = "SERVERS";
    /// Socket map of clients' connections, without any program, by slot.
    pub const CLIENTS: &str = "CLIENTS";
    /// Constant: the [`Offsets`](crate::Offsets).
    pub const OFFSETS: &str = "OFFSETS";
    /// Constant: the [`Calls`](crate::Calls).
    pub const CALLS: &str = "CALLS";
    /// The program that returns the process id of whoever runs it.
    pub const PROCESS: &str = "process";
    /// The program that returns the number of the system call that runs it, if the argument says where a task's
    /// registers are.
    pub const CALL: &str = "call";
}

/// How many network namespaces can be registered at once.
///
/// The map grows with its entries (`BPF_F_NO_PREALLOC`), so a high bound costs nothing; a node runs far fewer containers.
pub const MAX_NAMESPACES: u32 = 65_536;

/// How many flows can be attached at once if the configuration says nothing else.
pub const MAX_FLOWS: u32 = 16_384;

/// What the daemon may change while the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Not 0: write a log record for each event. A record costs far more than the counting, so it is off by default.
    pub log_events: u32,
    /// The daemon's process id as the initial pid namespace has it (what the program `process` found); 0: no socket's
    /// buffer is touched.
    pub daemon: u32,
    /// Where the registers with which a task entered the kernel are, from the beginning of its stack there; 0: unknown, and
    /// nothing is redirected. It depends on how the kernel was built, and the daemon finds it out with the program `call`.
    pub registers: u32,
    /// Bytes of send buffer (`SO_SNDBUF`) that a server's socket gets when the daemon has connected to it.
    pub server_sndbuf: u32,
}

layout!(Settings: 16 bytes, align 4 {
    log_events @ 0, daemon @ 4, registers @ 8, server_sndbuf @ 12,
});
