//! Moves bytes between the client's connection and the server's: the paths and the choice between them.
//!
//! It knows neither programs in the kernel nor network namespaces nor containers; what needs no more than two connections,
//! such as `portsplice forward`, links nothing else.
//!
//! - [`stream`]: a plain connection or one with TLS, driven through shared references.
//! - [`flow`]: one direction, by splice(2) where both ends are plain sockets and the bytes come in bulk, else by copy.
//! - [`fast`]: responses that the kernel carries past this process, and the choice which those are.
//! - [`tunnel`]: both directions of an opaque connection.
//! - [`bypass`]: what can carry a response past this process, as the relay sees it; who brings it is no concern of the relay.
//! - [`pipe`], [`buffer`]: what holds bytes on their way, borrowed only while there are any.
//! - [`meter`]: counts and the time of the last activity.

pub mod buffer;
pub mod bypass;
pub mod fast;
pub mod flow;
pub mod meter;
pub mod pipe;
mod step_hook;
pub mod stream;
#[cfg(test)]
mod tests;
mod tunnel;

pub use flow::{Flow, FlowError, UNTIL_END};
pub use meter::Meter;
pub use step_hook::TunnelGuard;
pub use stream::Stream;
pub use tunnel::tunnel;
