//! What the programs for developers begin and end with: the daemon's binary, and an exit code.
#![allow(clippy::print_stderr, reason = "a command line tool says what went wrong")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use crate::{command, workspace};

/// How the daemon is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As quickly as it can be: cargo's `dev`.
    Dev,
    /// As it is shipped.
    Release,
}

/// The daemon's binary: the one given by `--binary`, else one built from the source as it stands, with the programs in the
/// kernel brought up to date before.
///
/// # Errors
/// When there is no such file, or it cannot be built.
pub fn portsplice(given: Option<&Path>, profile: Profile) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return path.canonicalize().with_context(|| format!("--binary {}", path.display()));
    }
    command::run(command::xtask().arg("build-ebpf"))?;
    let mut build = command::cargo();
    build.args(["build", "--package", "portsplice", "--bins"]);
    let folder = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            build.arg("--release");
            "release"
        }
    };
    command::run(&mut build)?;
    Ok(workspace::target_dir().join(folder).join("portsplice"))
}

/// What `main` returns; an error is said on standard error.
#[must_use]
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What goes wrong is a tool that is missing or a test that fails; where in this program it was noticed helps
            // nobody.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
