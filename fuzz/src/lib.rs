//! The modules of `portsplice` that work on bytes in memory, compiled on their own from their sources in
//! `proxy-userspace/src`: without the runtime, TLS and eBPF libraries that the rest of the crate needs.
#![allow(dead_code, missing_docs)]

#[path = "../../proxy-userspace/src"]
mod sans_io {
    pub mod auth;
    pub mod http;
    pub mod proc_net;
    pub mod refusal;
    pub mod regular_file;
    pub mod sock_diag;
}

#[path = "../../proxy-userspace/src/control"]
mod control {
    pub mod wire;
}

pub use control::wire;
pub use sans_io::{auth, http, proc_net, refusal, regular_file, sock_diag};
