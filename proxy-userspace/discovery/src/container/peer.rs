//! Who is at the other end of a Unix socket, and what the pids mean that it speaks of.
//!
//! A pid is a number of one pid namespace (pid_namespaces(7)). The same number means another process, of another
//! container perhaps, in every other one. So the namespace of whoever names a pid is asked of the kernel: with `SO_PEERPIDFD`
//! (Linux 6.5), else with `SO_PEERCRED`, both of which speak of the process that connected, or that listened.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd};
use std::sync::Arc;

use super::process::{PidNamespace, Process};

/// The process at the other end of a Unix socket.
#[derive(Clone, Debug)]
pub struct Peer(Result<Arc<Process>, Arc<str>>);

impl Peer {
    /// Asks the kernel about the other end of `socket`. One that cannot be told is one that no pid is believed.
    pub fn of(socket: impl AsFd) -> Self {
        Self(process_behind(socket).map(Arc::new).map_err(|error| error.to_string().into()))
    }

    /// This process itself.
    pub fn this_process() -> Self {
        let process = Process::open(std::process::id());
        Self(process.map(Arc::new).map_err(|error| error.to_string().into()))
    }

    /// Whether the pids that it speaks of are those of this process's own pid namespace.
    ///
    /// # Errors
    /// It cannot be told, for this reason.
    pub(super) fn shares_pids(&self) -> Result<bool, String> {
        let theirs = self.process()?.pid_namespace().map_err(|error| error.to_string())?;
        Ok(theirs == PidNamespace::own().map_err(|error| error.to_string())?)
    }

    /// The process that it calls `pid`.
    ///
    /// # Errors
    /// A sentence for the peer: there is no such process, or it cannot be told which one is meant.
    pub(super) fn process_called(&self, pid: u32) -> Result<Process, String> {
        let untold = |reason: String| {
            format!(
                "cannot tell which process pid {pid} refers to, since it comes from another pid namespace ({reason}): register from the daemon's pid namespace, or give netns instead of pid"
            )
        };
        if self.shares_pids().map_err(untold)? {
            return Process::open(pid).map_err(|error| format!("process {pid}: {error}"));
        }
        let peer = self.process()?;
        let theirs = peer.pid_namespace().map_err(|error| untold(error.to_string()))?;
        let pids = peer.pids().map_err(|error| untold(error.to_string()))?;
        let depth = pids.len().checked_sub(1).filter(|&depth| depth > 0);
        let depth = depth.ok_or_else(|| untold("yours is not a descendant of the daemon's".to_owned()))?;
        let found = Process::all().map_err(|error| untold(error.to_string()))?.find(|process| {
            let is_meant =
                || Ok::<_, io::Error>(process.pids()?.get(depth) == Some(&pid) && process.is_in(&theirs, depth)?);
            is_meant().unwrap_or(false)
        });
        found
            .ok_or_else(|| format!("process {pid} does not exist in your pid namespace: give the pid of a running one"))
    }

    fn process(&self) -> Result<&Arc<Process>, String> {
        self.0.as_ref().map_err(ToString::to_string)
    }
}

fn process_behind(socket: impl AsFd) -> io::Result<Process> {
    let socket = socket.as_fd().as_raw_fd();
    let mut pidfd: libc::c_int = -1;
    match socket_option(socket, libc::SO_PEERPIDFD, &mut pidfd) {
        Ok(()) => {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
            return Process::of_pidfd(unsafe { OwnedFd::from_raw_fd(pidfd) });
        }
        // Before Linux 6.5 there is none.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {}
        Err(error) => return Err(io::Error::new(error.kind(), format!("cannot identify the process: {error}"))),
    }
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    socket_option(socket, libc::SO_PEERCRED, &mut peer)?;
    match u32::try_from(peer.pid) {
        Ok(pid) if pid > 0 => Process::open(pid),
        _ => Err(io::Error::other("the process is in a pid namespace that is not a descendant of the daemon's")),
    }
}

/// getsockopt(2) for options of this plain type.
fn socket_option<T: Plain>(socket: libc::c_int, name: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the value, and any bytes are a value of it.
    let result =
        unsafe { libc::getsockopt(socket, libc::SOL_SOCKET, name, std::ptr::from_mut(value).cast(), &raw mut length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Types of which any bytes are a value.
trait Plain {}
impl Plain for libc::c_int {}
impl Plain for libc::ucred {}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_other_end_is_a_process_with_our_pids() {
        let (one, _other) = UnixStream::pair().unwrap();
        for peer in [Peer::of(&one), Peer::this_process()] {
            assert_eq!(peer.shares_pids(), Ok(true));
            assert_eq!(peer.process_called(std::process::id()).unwrap().pid(), std::process::id());
            assert!(peer.process_called(u32::MAX).unwrap_err().contains("has exited"));
        }
    }

    #[test]
    fn what_is_no_connection_has_no_other_end() {
        let peer = Peer::of(std::fs::File::open("/dev/null").unwrap());
        let error = peer.process_called(1).unwrap_err();
        assert!(error.contains("another pid namespace") && error.contains("netns"), "{error}");
    }
}
