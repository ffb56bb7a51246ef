//! The fast path: responses that the kernel carries from the server's socket to the controller's.
//!
//! - [`flows`]: the programs, the maps, and the flow table that all flows share.
//! - [`kernel_flow`]: one flow, from attaching to draining; [`in_namespace`]: how the relay gets one.
//! - [`table`] and [`turn`]: the memory that the daemon and the programs share, and whose turn it is to write.
//! - [`socket_map`], [`buffers`]: what happens to the sockets.
//! - [`proof`]: that all of this holds on the very kernel that runs.

mod buffers;
mod flows;
mod in_namespace;
mod kernel_flow;
pub(crate) mod proof;
mod socket_map;
mod table;
mod turn;

pub use flows::{Counts, Flows, Quirks};
pub use in_namespace::InNamespace;
pub use kernel_flow::{AttachFailure, KernelFlow, Request};
pub use proof::{Finding, Item, Proof};
