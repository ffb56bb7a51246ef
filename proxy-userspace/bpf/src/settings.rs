//! What the configuration says about programs in the kernel.

use std::fmt;
use std::path::PathBuf;

use proxy_common::MAX_FLOWS;
use serde::Deserialize;

/// Whether the kernel's help is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BpfMode {
    /// Used if this host allows it; if not, the reason is logged and the daemon goes on without.
    #[default]
    Auto,
    /// Not used.
    Off,
    /// The daemon does not start without.
    Required,
}

impl fmt::Display for BpfMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::Required => "required",
        })
    }
}

/// What the configuration says about programs in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpfSettings {
    /// Whether they are wanted.
    pub mode: BpfMode,
    /// The cgroup (version 2) whose sockets they see, with those of all groups below; none: the top of the hierarchy,
    /// wherever that is mounted.
    pub cgroup: Option<PathBuf>,
    /// How many flows can be on the fast path at once; at least 1.
    pub max_flows: u32,
}

impl Default for BpfSettings {
    fn default() -> Self {
        Self { mode: BpfMode::default(), cgroup: None, max_flows: MAX_FLOWS }
    }
}
