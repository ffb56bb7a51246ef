//! The vocabulary that all of Portsplice shares: names, records, ports, timestamps. No I/O, no clock but
//! [`unix_time`] and [`Timestamp::now`], nothing asynchronous.

mod container_name;
mod direction;
mod error_line;
mod policy;
mod record;
mod timestamp;
mod traffic;
pub mod url;

pub use container_name::ContainerName;
pub use direction::Direction;
pub use error_line::error_line;
pub use policy::{Denied, Scope};
pub use record::{
    Access, ConnectionCounts, Hostname, HostnameError, Link, ListeningPort, PublishedPort, Record, State,
};
pub use timestamp::{Timestamp, unix_time};
pub use traffic::Traffic;
