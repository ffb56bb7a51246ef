//! What the guest tells the host: one JSON value a line, on the second serial port.
//!
//! `cargo xtask vm` compiles this file too, so both ends mean the same.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Record {
    /// What was booted.
    Booted(Booted),
    /// What `portsplice check` says.
    Check(Check),
    /// What a node says of the kernel's help when it starts.
    Load(Load),
    /// What came of a bounded set of requests.
    Soak(Soak),
    /// Kernel TLS beside TLS in userspace.
    Tls(Vec<Sealed>),
    /// A step that could not be taken to its end.
    Failed {
        /// Which.
        step: String,
        /// Why.
        reason: String,
    },
    /// The last line.
    Done,
}

/// What was booted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Booted {
    /// `uname -r`.
    pub(crate) release: String,
    /// `uname -v`.
    pub(crate) version: String,
    /// Whether the kernel describes its own types.
    pub(crate) btf: bool,
    /// Which of the processor's flags that matter for ciphers are there.
    pub(crate) cpu: Vec<String>,
    /// Modules that could not be loaded, with the reason.
    pub(crate) modules: Vec<String>,
}

/// What `portsplice check` says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Check {
    /// Its exit code; none when it had to be killed.
    pub(crate) code: Option<i32>,
    /// What it prints.
    pub(crate) text: String,
}

/// What a node says of the kernel's help.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Whether the programs are loaded and attached.
    pub(crate) up: bool,
    /// Log lines of its start that speak of it, and all warnings.
    pub(crate) log: Vec<String>,
}

/// What came of a bounded set of requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Soak {
    /// The relay's setting, or `tls`.
    pub(crate) way: String,
    /// Requests whose answers were checked.
    pub(crate) exchanges: u64,
    /// Seconds that it took.
    pub(crate) seconds: f64,
    /// Bytes by the path that they took, as the node counts them.
    pub(crate) relayed: BTreeMap<String, u64>,
    /// What was not as it must be.
    pub(crate) failures: Vec<String>,
}

/// One way to relay a stream from a socket into another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Sealed {
    /// Which way.
    pub(crate) way: String,
    /// Megabytes (10^6) a second.
    pub(crate) rate: f64,
    /// CPU seconds of the whole machine for each GB (10^9).
    pub(crate) cpu: f64,
    /// CPU seconds of the relaying thread alone for each GB.
    pub(crate) relay_cpu: f64,
}
