//! Which run of the machine this is.

use std::io;

/// A text that is another after each start of the machine (random(4)): pids and start times, say, are of one run only.
///
/// # Errors
/// When the kernel does not tell it.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
