//! `--only registry`: the load of a large cluster on etcd. It is no data path and has no direct way to compare with, so it has
//! a table of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context, ensure};
use portsplice_tooling::{command, workspace};

use crate::machine;

/// The file that a full run writes, below the folder of results.
const FILE: &str = "registry.md";
/// Everything up to this line of the file stays: what it says is written by people.
const MARK: &str = "<!-- Everything below is written by `cargo xtask bench --only registry`. -->";

/// Runs the load and prints what it finds. `binary` is the built load, if there is one; `out` is where a table is to go.
pub(super) fn run(binary: Option<&Path>, quick: bool, out: Option<&Path>) -> anyhow::Result<()> {
    ensure!(command::find("etcd").is_some(), "`etcd` is missing: cargo xtask setup installs it");
    let program = match binary {
        Some(path) => path.canonicalize().with_context(|| format!("--binary {}", path.display()))?,
        None => build()?,
    };
    // /tmp may be memory.
    let disk = workspace::target_dir().join("tmp");
    fs::create_dir_all(&disk).with_context(|| format!("create {}", disk.display()))?;
    let mut load = command::command(program);
    load.arg(format!("--folder={}", disk.display()));
    if quick {
        load.arg("--quick");
    }
    // Progress is shown as it comes; the table comes at the end.
    let done = load.stdout(Stdio::piped()).spawn().and_then(Child::wait_with_output).context("run registry_load")?;
    ensure!(done.status.success(), "registry_load failed");
    let table = String::from_utf8_lossy(&done.stdout);
    let facts = format!("{} CPUs ({}), Linux {}", machine::cpus(), machine::cpu_model(), machine::kernel());
    let text = format!("{}\n- {facts}\n", table.trim_end());
    print!("{text}");
    let default = (!quick).then(|| workspace::root().join("docs/bench"));
    match out.map(Path::to_owned).or(default) {
        Some(folder) => write(&folder.join(FILE), &text),
        None => Ok(()),
    }
}

fn build() -> anyhow::Result<PathBuf> {
    let args = ["build", "--release", "--package", "portsplice-bench", "--example", "registry_load"];
    command::run(command::cargo().args(args))?;
    Ok(workspace::target_dir().join("release/examples/registry_load"))
}

/// Replaces what is below the mark.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let before = fs::read_to_string(path).unwrap_or_default();
    let said = before.split_once(MARK).map_or(before.as_str(), |(said, _)| said).trim_end();
    fs::write(path, format!("{said}\n\n{MARK}\n\n{text}").trim_start())
        .with_context(|| format!("write {}", path.display()))
}
