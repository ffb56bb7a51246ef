//! What the daemon has running inside the kernel.//!
//! A sock_ops program counts the sockets that are established and that listen in the network namespaces of containers, and
//! tells which begin and cease to listen. And the fast path carries responses past the daemon: see ARCHITECTURE.md, and
//! [`Flows`] and [`InNamespace`] here.
//!
//! The daemon works without any of this, only with less to tell; so the rest of the program talks to [`Fastpath`], which
//! is there in any case and knows why the kernel's help is missing, if it is.
//!
//! Everything lives exactly as long as the process: programs, maps and the attachment are held by file descriptors and
//! pinned nowhere, so nothing stays behind however the process ends.

mod btf;
mod calls;
mod cgroup;
mod counters;
mod facade;
mod fast;
mod kernel;
mod listeners;
mod logs;
mod object;
mod settings;
mod unavailable;
mod value;

pub use counters::Namespaces;
pub use facade::Fastpath;
pub use fast::{AttachFailure, Counts, Finding, Flows, InNamespace, Item, KernelFlow, Proof, Quirks, Request};
pub use kernel::Kernel;
pub use listeners::ListenEvents;
pub use logs::LOG_TARGET;
pub use proxy_common::{AttachStatus, Counters, FallbackReason, ListenEvent, MAX_FLOWS};
pub use settings::{BpfMode, BpfSettings};
pub use unavailable::Unavailable;
