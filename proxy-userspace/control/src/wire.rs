//! The control socket's bytes: lines, and the JSON-RPC 2.0 messages on them. Does no I/O.

mod frame;
mod message;

pub use frame::{Frame, Frames, LIMIT};
pub use message::{Answer, Call, Fault, Id, Notification, VERSION, code};
