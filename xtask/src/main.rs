//! `cargo xtask`: what a person types to set up, build, show, test and measure Portsplice.
//!
//! It works from any folder inside the workspace, prints each command before running it, and needs nothing but a Rust
//! toolchain to start with.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks on its standard streams")]

mod bench;
mod build_ebpf;
mod child;
mod command;
mod conn;
mod demo;
mod fresh;
mod interrupt;
mod package;
mod setup;
mod test;
mod toolchain;
mod vm;
mod wire;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Make the Debian package
    Package(package::Args),
    /// Run all tests, or parts of them
    Test(test::Args),
    /// Show a running system: a container, the node, signed requests, and what happened
    Demo(demo::Args),
    /// Measure the data paths beside the direct connection and other proxies
    Bench(bench::Args),
    /// Run the README's commands on a bare Debian, made for it, to see that they work there
    Fresh(fresh::Args),
    /// Try the daemon on Debian's kernels, in virtual machines
    Vm(vm::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // What goes wrong here is a tool that is missing or a test that fails; where in xtask it was noticed helps
            // nobody.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    // A server that xtask starts itself as, inside a container say, has no workspace around it.
    if !cli.command.is_server() {
        workspace::enter()?;
    }
    match cli.command {
        Command::Setup(args) => setup::run(args),
        Command::BuildEbpf(args) => build_ebpf::run(args),
        Command::Package(args) => package::run(args),
        Command::Test(args) => test::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Fresh(args) => fresh::run(args),
        Command::Vm(args) => vm::run(args),
    }
}

impl Command {
    fn is_server(&self) -> bool {
        match self {
            Self::Demo(args) => args.is_server(),
            Self::Bench(args) => args.is_server(),
            Self::Fresh(args) => args.is_server(),
            Self::Setup(_) | Self::BuildEbpf(_) | Self::Package(_) | Self::Test(_) | Self::Vm(_) => false,
        }
    }
}
