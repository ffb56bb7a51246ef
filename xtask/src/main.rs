//! `cargo xtask`: what a person types to set up, build, show, test and measure Portsplice.
//!
//! It works from any folder inside the workspace, prints each command before running it, and needs nothing but a Rust
//! toolchain to start with.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks on its standard streams")]

mod bench;
mod child;
mod demo;
mod interrupt;
mod workspace;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version, disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show a running system: a container, the node, signed requests, and what happened
    Demo(demo::Args),
    /// Measure the data paths beside the direct connection and other proxies
    Bench(bench::Args),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    workspace::enter()?;
    match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Bench(args) => bench::run(args),
    }
}
