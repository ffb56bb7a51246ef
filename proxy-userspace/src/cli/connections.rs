//! `portsplice connections`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::operator::{Daemon, Table, ago, bytes, percent, print_json};
use super::output;
use portsplice_control::api::{Close, Closed, Connection, ConnectionActivity, ConnectionList, Endpoint, Filter};

/// What `portsplice connections` takes.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
FAST is the share of the bytes down that the kernel carried past the daemon.

Examples:
  portsplice connections
  portsplice connections --container web --json
  portsplice connections close 17 18"
)]
pub(super) struct ConnectionsArgs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    daemon: Daemon,
    /// Only connections to this container
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Close connections with a reset on both sides
    Close(CloseArgs),
}

#[derive(Debug, Args)]
struct CloseArgs {
    /// Connection IDs
    #[arg(required = true)]
    ids: Vec<u64>,
    #[command(flatten)]
    daemon: Daemon,
    /// Print the result as a JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ConnectionsArgs) -> Result<ExitCode> {
    match &args.command {
        Some(Command::Close(close)) => return self::close(close),
        None => list(args)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(args: &ConnectionsArgs) -> Result<()> {
    let mut daemon = args.daemon.connect()?;
    let filter = Filter { container: args.container.clone() };
    if args.json {
        return print_json(&daemon.call::<Value>("connections.list", &filter)?["connections"]);
    }
    let list: ConnectionList = daemon.call("connections.list", &filter)?;
    let titles = [">ID", "PEER", "VIA", "STATE", "CONTAINER", ">PORT", ">REQS", ">UP", ">DOWN", ">FAST", "AGE"];
    let mut table = Table::new(&titles);
    list.connections.iter().for_each(|connection| table.row(row(connection)));
    table.print()
}

fn row(connection: &Connection) -> Vec<String> {
    let target = connection.target.as_ref();
    vec![
        connection.id.to_string(),
        connection.peer.clone(),
        if connection.listener == Endpoint::Tls { "tls" } else { "tcp" }.to_owned(),
        state(connection.state).to_owned(),
        target.map_or_else(|| "-".to_owned(), |target| target.container.clone()),
        target.map_or_else(|| "-".to_owned(), |target| target.port.to_string()),
        connection.requests.to_string(),
        bytes(connection.bytes_up),
        bytes(connection.bytes_down),
        percent(connection.bytes_fast, connection.bytes_down),
        ago(connection.since),
    ]
}

pub(super) fn state(state: ConnectionActivity) -> &'static str {
    match state {
        ConnectionActivity::Handshake => "handshake",
        ConnectionActivity::Idle => "idle",
        ConnectionActivity::Request => "request",
        ConnectionActivity::Tunnel => "tunnel",
        ConnectionActivity::Closing => "closing",
    }
}

/// Fails when one of them is not there, after the others are reset.
fn close(args: &CloseArgs) -> Result<ExitCode> {
    let mut daemon = args.daemon.connect()?;
    let done: Closed = daemon.call("connections.close", &Close { ids: args.ids.clone() })?;
    if args.json {
        print_json(&serde_json::to_value(&done)?)?;
    } else {
        output::print(done.closed.iter().map(|id| format!("{id}\n")).collect::<String>().as_bytes())?;
        done.unknown.iter().for_each(|id| output::error(&format!("error: no connection {id}")));
    }
    Ok(if done.unknown.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
