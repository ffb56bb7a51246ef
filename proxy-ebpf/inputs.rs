//! What the eBPF object is made of, as one digest. `cargo xtask build-ebpf` writes it beside the object, and
//! the build script of portsplice-bpf compares it: contents tell what a time stamp cannot (a checkout sets all of those anew).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Files and folders that the object is built from, below the workspace's top.
pub(crate) const PATHS: [&str; 5] =
    ["proxy-ebpf/Cargo.toml", "proxy-ebpf/Cargo.lock", "proxy-ebpf/src", "proxy-common/Cargo.toml", "proxy-common/src"];

/// The digest, in hex, of the names and contents of all the files.
pub(crate) fn digest(workspace: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for path in PATHS {
        collect(&workspace.join(path), &mut files)?;
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let contents = fs::read(&file)?;
        let name = file.strip_prefix(workspace).unwrap_or(&file);
        // Lengths keep one file's end apart from the next one's beginning.
        hash.update(format!("{} {}\n", name.display(), contents.len()));
        hash.update(&contents);
    }
    Ok(hex::encode(hash.finalize()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
