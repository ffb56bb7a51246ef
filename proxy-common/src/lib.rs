//! What Portsplice's programs in the kernel and the daemon must agree on: the layout of map values, the meaning of the
//! kernel's socket events, and the byte order of the fields that the kernel shows.
//!
//! The crate is `no_std`, allocates nothing and depends on nothing, so that it compiles for `bpfel-unknown-none`; its
//! rules are tested on the host, where a mistake is cheaper to find than in front of the verifier.
//!
//! Rules for a type that lives in a map: `repr(C)`, only integers (never `bool`, `char` or an enum: the other side may
//! write any bit pattern), no padding that is not a named field, and its size and alignment asserted below at compile
//! time, since the two sides are compiled apart from each other.
#![cfg_attr(not(test), no_std)]

pub mod byte_order;
mod counters;
mod event;

pub use counters::Counters;
pub use event::{SocketEvent, op, state};

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
}

/// How many network namespaces can be registered at once.
///
/// The map grows with its entries (`BPF_F_NO_PREALLOC`), so a high bound costs nothing; a node runs far fewer containers.
pub const MAX_NAMESPACES: u32 = 65_536;

/// What the daemon may change while the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Not 0: write a log record for each event. A record costs far more than the counting, so it is off by default.
    pub log_events: u32,
}

const _: () = assert!(size_of::<Settings>() == 4 && align_of::<Settings>() == 4);
