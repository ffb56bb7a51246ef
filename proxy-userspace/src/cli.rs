//! The command line: what a person types, and what each command does with it.
//!
//! Exit codes: 0 done, 1 failed, 2 the command line itself is wrong.

mod check;
mod docs;
mod edge;
mod node;
mod output;
mod sign;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::build_info;

/// Reach the ports that containers listen on: authenticated per request, at the speed of the network.
#[derive(Debug, Parser)]
#[command(
    name = "portsplice",
    version = build_info::VERSION,
    long_version = build_info::LONG_VERSION,
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 100,
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon of a worker node
    Node(Box<node::NodeArgs>),
    /// Run the cluster's front, which keeps the record of what nodes run
    Edge(edge::EdgeArgs),
    /// Tell what this machine offers the daemon, and whether the fast path holds on its kernel
    Check(check::CheckArgs),
    /// Print the headers of a signed request, for curl
    Sign(sign::SignArgs),
    /// Print a completion script for a shell
    Completions(docs::CompletionsArgs),
    /// Print or write the manual pages
    Man(docs::ManArgs),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Prints help and version to standard output, anything else to standard error; a reader that has gone away
            // is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let done = match cli.command {
        Command::Node(args) => node::run(*args),
        Command::Edge(args) => edge::run(args),
        Command::Check(args) => check::run(args),
        Command::Sign(args) => sign::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => docs::completions(&args, &mut Cli::command()).map(|()| ExitCode::SUCCESS),
        Command::Man(args) => docs::man(&args, Cli::command()).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        output::error(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
