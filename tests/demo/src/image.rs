//! A container image without a registry: this program, the shared libraries that it needs, and nothing else.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use portsplice_tooling::{libraries, workspace};

use crate::engine::Engine;

/// Where this program is in the image.
const PROGRAM: &str = "/demo-server";

/// Makes the image `tag`; `folder` takes its files before they are packed.
pub(crate) fn make(engine: &Engine, tag: &str, folder: &Path) -> anyhow::Result<()> {
    let program = workspace::program()?;
    copy(&program, folder, Path::new(PROGRAM))?;
    for library in libraries::of(&program)? {
        copy(&library.path, folder, &library.path)?;
    }
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(folder)
        .args(["--owner=0", "--group=0", "-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("start tar")?;
    let archive = tar.stdout.take().context("tar has no standard output")?;
    let start = format!("ENTRYPOINT [\"{PROGRAM}\", \"origin\"]");
    engine.run_with(&["import", "--change", &start, "-", tag], archive.into())?;
    ensure!(tar.wait()?.success(), "tar failed");
    Ok(())
}

/// Copies `from`, the file itself where it is a link, to the place that `path` names inside `folder`.
fn copy(from: &Path, folder: &Path, path: &Path) -> anyhow::Result<()> {
    let to = folder.join(path.strip_prefix("/").unwrap_or(path));
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(from, &to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
