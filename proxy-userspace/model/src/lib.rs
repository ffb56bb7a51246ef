//! The vocabulary that all of Portsplice shares: names, records, ports, timestamps. No I/O, no clock but
//! [`Timestamp::now`], nothing asynchronous.

mod container_name;
mod direction;
mod policy;
mod record;
mod timestamp;
mod traffic;
pub mod url;

pub use container_name::ContainerName;
pub use direction::Direction;
pub use policy::{Denied, Scope};
pub use record::{
    Access, ConnectionCounts, Hostname, HostnameError, Link, ListeningPort, PublishedPort, Record, State,
};
pub use timestamp::Timestamp;
pub use traffic::Traffic;
