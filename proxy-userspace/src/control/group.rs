//! Groups, by name and of a peer: what the standard library does not ask the system for.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;

use anyhow::{Context, Result};

/// The number of a group; none if there is no such group. Asks whatever the system is set up to ask (nsswitch.conf(5)).
///
/// # Errors
/// When that cannot be asked.
pub(super) fn id(name: &str) -> Result<Option<u32>> {
    let name = CString::new(name).context("a group's name has no NUL in it")?;
    let mut buffer = vec![0_u8; 4096];
    loop {
        let mut group = MaybeUninit::<libc::group>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: the name ends in NUL, the buffer is as long as is said, and the two places are written to only.
        let error = unsafe {
            libc::getgrnam_r(name.as_ptr(), group.as_mut_ptr(), buffer.as_mut_ptr().cast(), buffer.len(), &mut found)
        };
        match error {
            // SAFETY: not null means that it points to `group`, which is filled then (getgrnam_r(3)).
            0 => return Ok((!found.is_null()).then(|| unsafe { (*found).gr_gid })),
            libc::ERANGE if buffer.len() < 1 << 24 => buffer.resize(buffer.len() * 4, 0),
            // What some systems say of a group that is not there (getgrnam_r(3)).
            libc::ENOENT | libc::ESRCH => return Ok(None),
            error => return Err(io::Error::from_raw_os_error(error)).context("cannot look up groups"),
        }
    }
}

/// The supplementary groups that the peer of a Unix socket had when it connected (`SO_PEERGROUPS`, since Linux 4.13).
///
/// # Errors
/// The error of `getsockopt(2)`.
pub(super) fn of_peer(socket: RawFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut length = libc::socklen_t::try_from(size_of_val(&groups[..])).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the kernel writes at most `length` bytes, which is the size of the vector, and numbers are all it writes.
        let result = unsafe {
            libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut length)
        };
        let count = length as usize / size_of::<u32>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too small: the kernel says what it takes (net/core/sock.c, sk_getsockopt).
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn groups_are_found_by_name() {
        assert_eq!(id("root").unwrap(), Some(0));
        assert_eq!(id("no-such-group-here").unwrap(), None);
        assert!(id("a\0b").is_err());
    }

    #[test]
    fn a_peers_groups_are_those_of_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let mut peer = of_peer(one.as_raw_fd()).unwrap();
        let mut own: Vec<u32> = rustix::process::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        peer.sort_unstable();
        own.sort_unstable();
        assert_eq!(peer, own);
    }
}
