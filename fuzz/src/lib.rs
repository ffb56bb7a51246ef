//! The modules of `portsplice` that work on bytes in memory, compiled on their own from their sources in
//! `proxy-userspace/src`: without the runtime, TLS and eBPF libraries that the rest of the crate needs.
#![allow(dead_code, missing_docs)]

#[path = "../../proxy-userspace/src"]
mod sans_io {
    pub mod auth;
    pub mod http;
    pub mod refusal;
    pub mod sock_diag;
}

pub use sans_io::{auth, http, refusal, sock_diag};
