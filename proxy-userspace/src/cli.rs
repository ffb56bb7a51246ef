//! The command line: what a person types, and what each command does with it.
//!
//! Exit codes: 0 done, 1 failed, 2 the command line itself is wrong; of the commands that ask a daemon, 3 there is none, 4
//! the caller may not ask it.

mod check;
mod connections;
mod daemon;
mod docs;
mod events;
mod flags;
mod operations;
mod operator;
mod output;
mod ps;
mod sign;
#[cfg(feature = "tui")]
mod top;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::app::edge::EdgeRole;
use crate::app::node::NodeRole;
use crate::{build_info, config};

/// Reach the ports that containers listen on: authenticated per request, at the speed of the network.
#[derive(Debug, Parser)]
#[command(
    name = "portsplice",
    version = build_info::VERSION,
    long_version = build_info::LONG_VERSION,
    propagate_version = true,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "\
Exit codes: 0 success, 1 failure, 2 invalid command line, 3 no daemon running, 4 access to the daemon denied.",
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon of a worker node
    #[command(after_help = daemon::node_help())]
    Node(flags::DaemonArgs<config::Node>),
    /// Run the edge, which keeps the cluster's records
    #[command(after_help = daemon::edge_help())]
    Edge(flags::DaemonArgs<config::edge::Edge>),
    /// List the containers known to the daemon
    Ps(ps::PsArgs),
    /// List listening ports in containers
    Ports(ps::PortsArgs),
    /// Show containers, connections and rates live
    #[cfg(feature = "tui")]
    Top(top::TopArgs),
    /// List client connections, or close some
    Connections(connections::ConnectionsArgs),
    /// Stream container, port and connection events
    Events(events::EventsArgs),
    /// Drain connections and stop the daemon
    Drain(operations::DrainArgs),
    /// Change the daemon's log level temporarily
    LogLevel(operations::LogLevelArgs),
    /// Check whether this host is supported, and whether the fast path works on its kernel
    Check(check::CheckArgs),
    /// Print the headers of a signed request, for curl
    Sign(sign::SignArgs),
    /// Print a completion script for a shell
    Completions(docs::CompletionsArgs),
    /// Print or write the manual pages
    Man(docs::ManArgs),
    /// Print a document of docs/ that is made from the source
    #[command(hide = true)]
    Docs(docs::DocsArgs),
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
        Command::Node(args) => daemon::run::<NodeRole>(args),
        Command::Edge(args) => daemon::run::<EdgeRole>(args),
        Command::Ps(args) => ps::ps(&args).map(|()| ExitCode::SUCCESS),
        Command::Ports(args) => ps::ports(&args).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "tui")]
        Command::Top(args) => top::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Connections(args) => connections::run(&args),
        Command::Events(args) => events::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Drain(args) => operations::drain(&args).map(|()| ExitCode::SUCCESS),
        Command::LogLevel(args) => operations::log_level(&args).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => check::run(args),
        Command::Sign(args) => sign::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => docs::completions(&args, &mut Cli::command()).map(|()| ExitCode::SUCCESS),
        Command::Docs(args) => docs::docs(&args).map(|()| ExitCode::SUCCESS),
        Command::Man(args) => docs::man(&args, Cli::command()).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        output::error(&format!("error: {error:#}"));
        operator::exit_code(&error).map_or(ExitCode::FAILURE, ExitCode::from)
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
