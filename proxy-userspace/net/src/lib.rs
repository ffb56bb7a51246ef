//! Sockets, network namespaces, and what listens in them.
//!
//! - [`sock`]: a non-blocking TCP socket that every path of the relay can use.
//! - [`netns`]: network namespaces, and connections inside them.
//! - [`listen`]: listening sockets, opened here or passed by the service manager, and the loop that accepts.
//! - [`sock_diag`] and [`proc_net`]: two ways to read what listens in a namespace.
//! - [`deadline`]: timeouts whose zero means "off"; [`backoff`]: pauses that grow.
//! - [`tls`]: certificates, and what binds a credential to a connection; [`client`]: an HTTP client of one server.
//! - [`drain`]: an end that breaks nothing of what runs; [`limits`]: how much of something one holder may have under way.

pub mod backoff;
pub mod client;
pub mod deadline;
pub mod drain;
pub mod limits;
pub mod listen;
pub mod netns;
pub mod proc_net;
pub mod sock;
pub mod sock_diag;
pub mod tls;
