//! The shared libraries of a program, for a place that has no other program: a container image, an initramfs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A file that a program needs to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// Where it is on this machine.
    pub path: PathBuf,
    /// Whether it is looked for by its name, in whatever folders the dynamic linker searches. The dynamic linker itself is
    /// not: the program names its path.
    pub searched: bool,
}

/// The libraries and the dynamic linker that `program` needs; none when it is static.
///
/// # Errors
/// When `ldd` is missing, or cannot read the program.
pub fn of(program: &Path) -> anyhow::Result<Vec<Library>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    let listed = String::from_utf8_lossy(&output.stdout);
    // Of a static program it says so on standard error, and fails.
    let complaint = String::from_utf8_lossy(&output.stderr);
    let is_static = complaint.contains("not a dynamic executable");
    ensure!(output.status.success() || is_static, "`ldd {}` fails: {}", program.display(), complaint.trim());
    Ok(listed.lines().filter_map(library).collect())
}

/// What is in one of ldd's lines: `name => /path (address)` or `/path (address)`.
fn library(line: &str) -> Option<Library> {
    let path = line.split_whitespace().find(|word| word.starts_with('/'))?;
    Some(Library { path: path.into(), searched: line.contains("=>") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_understood() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = listed.lines().filter_map(library).collect();
        let expected = [("/lib/x86_64-linux-gnu/libc.so.6", true), ("/lib64/ld-linux-x86-64.so.2", false)];
        assert_eq!(found, expected.map(|(path, searched)| Library { path: path.into(), searched }));
        assert_eq!(library("\tstatically linked"), None);
    }
}
