//! A file whose lock tells other processes that something is taken, for as long as this one lives.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::replace_file::beside;

/// Takes the lock of `path`: of the file beside it with `.lock` behind its name, which is made if it is missing. The kernel
/// gives it back with the descriptor (flock(2)), so a crash leaves none.
///
/// # Errors
/// `WouldBlock` if another process has it; that of open(2).
pub fn lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    let file = options.open(beside(path, ".lock"))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}
