//! What the targets reach of Portsplice: the crates without input and output as they are, and modules of `portsplice` itself
//! compiled on their own from their sources, without the runtime, TLS and eBPF libraries that the rest of it needs.
#![allow(dead_code, missing_docs)]

#[path = "../../proxy-userspace/net/src"]
mod net {
    pub mod proc_net;
    pub mod sock_diag;
}

pub use net::{proc_net, sock_diag};
pub use portsplice_auth as auth;
pub use portsplice_control::wire;
pub use portsplice_h1 as h1;
