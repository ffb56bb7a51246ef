//! An initramfs: programs with the libraries that they need, and modules.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use portsplice_tooling::command;
use portsplice_tooling::libraries::{self, Library};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// An archive in the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst), being written.
#[derive(Default)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Initramfs {
    /// Adds a program at `place`, without what only a debugger needs, and its libraries in `/lib`.
    pub(crate) fn program(&mut self, place: &str, file: &Path) -> anyhow::Result<()> {
        self.add(place, PROGRAM, &stripped(file)?);
        for library in libraries::of(file)? {
            let image = fs::read(&library.path).with_context(|| format!("read {}", library.path.display()))?;
            self.add(&place_of(&library)?, PROGRAM, &image);
        }
        Ok(())
    }

    /// Adds a module as the one to be loaded at place `at`.
    pub(crate) fn module(&mut self, at: usize, file: &Path) -> anyhow::Result<()> {
        let name = file.file_name().and_then(|name| name.to_str()).context("a module without a name")?;
        self.add(&format!("modules/{at:02}-{name}"), FILE, &fs::read(file)?);
        Ok(())
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        for name in ["modules", "var"] {
            self.entry(name, DIRECTORY, &[]);
        }
        self.names.clear();
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    /// Adds a file after the folders above it.
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        for (at, _) in name.match_indices('/') {
            self.entry(&name[..at], DIRECTORY, &[]);
        }
        self.entry(name, mode, content);
    }

    /// Writes one entry, unless that name has been written.
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        if !self.names.insert(name.to_owned()) {
            return;
        }
        let inode = self.names.len();
        let (links, size, length) = (1, content.len(), name.len() + 1);
        // Magic, inode, mode, owner, group, links, time, size, device of it, device that it is, length of the name, sum.
        let head = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}\
             {0:08x}{0:08x}{0:08x}{0:08x}{length:08x}{0:08x}{name}\0",
            0
        );
        for part in [head.as_bytes(), content] {
            self.bytes.extend_from_slice(part);
            self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        }
    }
}

/// A program without symbols: they are most of it, and the guest has to read it all.
fn stripped(file: &Path) -> anyhow::Result<Vec<u8>> {
    if command::find("strip").is_none() {
        return fs::read(file).with_context(|| format!("read {}", file.display()));
    }
    let out = tempfile::NamedTempFile::new()?;
    let status = command::command("strip").arg("-o").arg(out.path()).arg(file).status().context("run strip")?;
    ensure!(status.success(), "strip cannot read {}", file.display());
    Ok(fs::read(out.path())?)
}

/// Where a library is in the archive: those that are searched for in `/lib`, the dynamic linker where it must be.
fn place_of(library: &Library) -> anyhow::Result<String> {
    let path = library.path.to_str().context("a library whose path is not UTF-8")?;
    let name = path.rsplit('/').next().unwrap_or(path);
    Ok(if library.searched { format!("lib/{name}") } else { path.trim_start_matches('/').to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_go_where_the_linker_looks() {
        let place = |path: &str, searched| place_of(&Library { path: path.into(), searched }).unwrap();
        assert_eq!(place("/lib/x86_64-linux-gnu/libc.so.6", true), "lib/libc.so.6");
        assert_eq!(place("/lib64/ld-linux-x86-64.so.2", false), "lib64/ld-linux-x86-64.so.2");
    }

    #[test]
    fn entries_are_aligned_and_folders_come_once() {
        let mut archive = Initramfs::default();
        archive.add("bin/a", PROGRAM, b"12345");
        archive.add("bin/b", FILE, b"");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let names = ["bin\0", "bin/a\0", "bin/b\0", "modules\0", "var\0", "TRAILER!!!\0"];
        assert_eq!(text.matches("070701").count(), names.len());
        let places: Vec<_> = names.iter().map(|name| text.find(name).unwrap()).collect();
        assert!(places.is_sorted(), "{places:?}");
    }
}
