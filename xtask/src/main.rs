//! `cargo xtask`: what a person types to set up, build, show, test and measure Portsplice.
//!
//! It works from any folder inside the workspace, prints each command before running it, and needs nothing but a Rust
//! toolchain to start with.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks on its standard streams")]

mod build_ebpf;
mod docs;
mod fresh;
mod package;
mod setup;
mod test;
mod tool;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use portsplice_tooling::{program, workspace};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version, disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find what build, tests, bench and demo need, and install what is missing
    Setup(setup::Args),
    /// Build the programs in the kernel, if they are older than their source
    BuildEbpf(build_ebpf::Args),
    /// Renew docs/configuration.md and whatever else is made from the source
    Docs(docs::Args),
    /// Make the Debian package
    Package(package::Args),
    /// Run all tests, or parts of them
    Test(test::Args),
    /// Show a running system: a container, the node, signed requests, and what happened
    #[command(disable_help_flag = true)]
    Demo(tool::Args),
    /// Measure the data paths beside the direct connection and other proxies
    #[command(disable_help_flag = true)]
    Bench(tool::Args),
    /// Run the README's commands on a bare Debian, made for it, to see that they work there
    Fresh(fresh::Args),
    /// Try the daemon on Debian's kernels, in virtual machines
    #[command(disable_help_flag = true)]
    Vm(tool::Args),
}

fn main() -> ExitCode {
    program::exit(run(Cli::parse()))
}

fn run(cli: Cli) -> anyhow::Result<()> {
    // The first process of a bare machine has no workspace around it.
    if !matches!(&cli.command, Command::Fresh(args) if args.is_server()) {
        workspace::enter()?;
    }
    match cli.command {
        Command::Setup(args) => setup::run(args),
        Command::BuildEbpf(args) => build_ebpf::run(args),
        Command::Docs(args) => docs::run(args),
        Command::Package(args) => package::run(args),
        Command::Test(args) => test::run(args),
        Command::Demo(args) => tool::run("portsplice-demo", args),
        Command::Bench(args) => tool::run("portsplice-bench", args),
        Command::Fresh(args) => fresh::run(args),
        Command::Vm(args) => tool::run("portsplice-vm", args),
    }
}
