//! A container image without a registry: this program, the shared libraries that it needs, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::engine::Engine;
use crate::workspace;

/// Where this program is in the image.
const PROGRAM: &str = "/demo-server";

/// Makes the image `tag`; `folder` takes its files before they are packed.
pub(crate) fn make(engine: &Engine, tag: &str, folder: &Path) -> anyhow::Result<()> {
    let program = workspace::program()?;
    copy(&program, folder, Path::new(PROGRAM))?;
    for library in libraries(&program)? {
        copy(&library, folder, &library)?;
    }
    let mut tar = Command::new("tar")
        .arg("-C")
        .arg(folder)
        .args(["--owner=0", "--group=0", "-c", "."])
        .stdout(Stdio::piped())
        .spawn()
        .context("start tar")?;
    let archive = tar.stdout.take().context("tar has no standard output")?;
    let start = format!("ENTRYPOINT [\"{PROGRAM}\", \"demo\", \"origin\"]");
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

/// The shared libraries and the loader that `program` asks for; none when it is static.
fn libraries(program: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("run ldd")?;
    Ok(paths(&String::from_utf8_lossy(&output.stdout)))
}

/// The paths in what ldd prints: `name => /path (address)` or `/path (address)`.
fn paths(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_understood() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(paths(text), ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from));
        assert_eq!(paths("\tnot a dynamic executable\n"), Vec::<PathBuf>::new());
    }
}
