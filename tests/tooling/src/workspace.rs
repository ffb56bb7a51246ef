//! Where things are in the workspace.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The workspace's top folder.
///
/// This crate is a member of the workspace, so its manifest's folder at build time is two levels below the top; a moved
/// checkout is rebuilt by cargo before it runs.
#[must_use]
pub fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_owned()
}

/// Cargo's target folder: `CARGO_TARGET_DIR` when set, else `target` at the top.
#[must_use]
pub fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Makes the workspace's top the current folder, so that commands run the same from wherever a tool was called.
///
/// # Errors
/// When the folder is not there any more.
pub fn enter() -> anyhow::Result<()> {
    let root = root();
    env::set_current_dir(&root).with_context(|| format!("enter {}", root.display()))
}

/// The path of this program. Building the workspace while it runs may replace the file; the kernel then calls the running
/// one "deleted" (proc_pid_exe(5)), and the new one, at the same path and made of the same source, serves as well.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn program() -> anyhow::Result<PathBuf> {
    let path = env::current_exe().context("find this program")?;
    let replaced = path.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(replaced.unwrap_or(path))
}
