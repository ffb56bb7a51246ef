//! A container as a runtime describes it, in a file or over the control socket.

use std::path::PathBuf;

use crate::container::policy::Policy;

/// The longest name that is accepted, in bytes; also what a request may carry.
const NAME: usize = 255;

/// What is to be reached under which name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Description {
    pub(super) name: String,
    pub(super) target: Target,
    pub(super) policy: Policy,
}

/// How its namespace is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The namespace that a process is in, for as long as the process lives.
    Process {
        pid: u32,
        /// Field 22 of /proc/PID/stat, which tells the process from a later one with the same pid.
        start_time: Option<u64>,
    },
    /// A bind mount of a namespace, until another one is there or nothing is left of it.
    Path(PathBuf),
}

impl Description {
    /// Checks the name.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write instead.
    pub(super) fn new(name: String, target: Target, policy: Policy) -> Result<Self, String> {
        check_name("name", &name)?;
        Ok(Self { name, target, policy })
    }
}

/// Whether requests can carry the name.
///
/// # Errors
/// What to write instead.
pub(super) fn check_name(key: &str, name: &str) -> Result<(), String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > NAME || !name.bytes().all(legal) {
        return Err(format!("{key} = {name:?}: use 1 to {NAME} letters, digits, '-', '_' and '.'"));
    }
    Ok(())
}

impl Target {
    /// What the keys `pid`, `start_time_key` and `netns` mean together.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write instead.
    pub(super) fn of(
        pid: Option<u32>,
        start_time: Option<u64>,
        netns: Option<PathBuf>,
        start_time_key: &str,
    ) -> Result<Self, String> {
        match (pid, netns) {
            (Some(pid), None) if pid > 0 => Ok(Self::Process { pid, start_time }),
            (None, Some(path)) if start_time.is_none() => Ok(Self::Path(checked_path(path)?)),
            (None, Some(_)) => Err(format!("{start_time_key} belongs to pid: remove it, or use pid instead of netns")),
            (Some(_), None) => Err("pid = 0: give the pid of a process in the container".into()),
            _ => Err("give either pid = NUMBER or netns = \"/run/netns/NAME\"".into()),
        }
    }
}

/// A path below /proc goes by pid, and a pid by itself may come to mean another process.
fn checked_path(path: PathBuf) -> Result<PathBuf, String> {
    if !path.is_absolute() {
        return Err(format!("netns = {path:?}: give the absolute path"));
    }
    if path.starts_with("/proc") {
        return Err(format!("netns = {path:?}: give pid = NUMBER instead, so that a reused pid is noticed"));
    }
    Ok(path)
}
