//! Writing for whoever started the command. The other end may be gone, which must not become a panic.

use std::io::{self, Write};

use anyhow::{Context, Result};

/// Writes to standard output; a reader that has gone away (`| head`) wants no more, which is no failure.
///
/// # Errors
/// Any other failure, a full disk for example.
pub(super) fn print(text: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context("cannot write to standard output"),
    }
}

/// Writes a line to standard error, if anybody takes it.
pub(super) fn error(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
