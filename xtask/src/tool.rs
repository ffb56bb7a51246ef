//! Commands that are programs of their own, in packages of their own: built, and then run in place of xtask.
//!
//! They need no more to be compiled than xtask does. What they need beyond that, the daemon above all, they get by
//! `cargo xtask setup`, `cargo xtask build-ebpf` and `cargo build`, when they know from their arguments what it is.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::Context;
use portsplice_tooling::{command, workspace};

/// Arguments that are passed on as they are.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// See `--help` of the command itself
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

/// Builds the program of `package`, and becomes it.
pub(crate) fn run(package: &str, args: Args) -> anyhow::Result<()> {
    command::run(command::cargo().args(["build", "--quiet", "--package", package, "--bin", package]))?;
    let program = workspace::target_dir().join("debug").join(package);
    // It comes back only if that fails.
    let error = command::command(&program).args(args.args).exec();
    Err(error).with_context(|| format!("run {}", program.display()))
}
