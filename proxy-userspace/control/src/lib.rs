//! The control socket's protocol: JSON-RPC 2.0, one JSON document per line; docs/control.md describes it.
//!
//! - [`api`]: the types of parameters, results and events;
//! - [`wire`]: lines and messages, without I/O;
//! - [`client`]: the side of commands and tools. The daemon's side is in `portsplice` itself.

pub mod api;
pub mod client;
pub mod wire;
