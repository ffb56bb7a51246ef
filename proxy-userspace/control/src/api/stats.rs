//! What the node has done so far.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use portsplice_model::Timestamp;

/// The result of `stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub since: Timestamp,
    /// Whether it is ready for traffic; if not, `waiting` says what for.
    pub ready: bool,
    /// What readiness waits for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<String>,
    /// Containers that run.
    pub containers: u64,
    /// Open client connections.
    pub connections: u64,
    /// Requests that have ended.
    pub requests: u64,
    /// Bytes of requests and responses that have ended, by the way they took.
    pub bytes: Vec<Bytes>,
    /// The fast path.
    pub fast: FastPath,
    /// Where containers are known from.
    pub sources: Vec<Source>,
}

/// Bytes that took one way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bytes {
    /// `copy`, `splice`, `fast` or `tls`.
    pub path: String,
    /// To containers.
    pub up: u64,
    /// To controllers.
    pub down: u64,
}

/// The state of the fast path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FastPath {
    /// Why there is none, where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    /// Responses that are on it now.
    pub flows: u64,
    /// How many can be at a time.
    pub capacity: u64,
    /// Responses that took it so far.
    pub attached: u64,
    /// Bytes that the kernel has carried past the daemon so far, running responses included.
    pub bytes: u64,
}

/// A source of containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// `docker`, `directory` or `control`.
    pub name: String,
    /// What is wrong with it, where something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
