//! `cargo xtask docs`: the documents that are made from the source.

use std::fs;

use anyhow::{Context, ensure};
use portsplice_tooling::{command, workspace};

/// The documents, as `portsplice docs` knows them; each is `docs/NAME.md`.
const DOCUMENTS: &[&str] = &["configuration", "metrics"];

/// Arguments of `cargo xtask docs`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Builds the program and has it write its documents.
pub(crate) fn run(_: Args) -> anyhow::Result<()> {
    command::run(command::cargo().args(["build", "-p", "portsplice", "--bins"]))?;
    let program = workspace::target_dir().join("debug/portsplice");
    for document in DOCUMENTS {
        let mut print = command::command(&program);
        print.args(["docs", document]);
        command::say(&print);
        let output = print.output().with_context(|| format!("run {}", program.display()))?;
        ensure!(output.status.success(), "`portsplice docs {document}` failed: {}", output.status);
        let path = workspace::root().join("docs").join(document).with_extension("md");
        fs::write(&path, output.stdout).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}
