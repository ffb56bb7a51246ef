//! `portsplice ps` and `portsplice ports`.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::operator::{Daemon, Table, ago, print_json};
use portsplice_control::api::{ContainerInfo, ContainerList, ContainerPort, Filter, PortList};
use portsplice_model::{Access, PublishedPort};

/// What `portsplice ps` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
LISTENING lists the ports that are open now, PUBLISHED the ports that the container's owner
publishes, CONNS the open connections and the total so far.

Examples:
  portsplice ps
  portsplice ps --json | jq -r '.[] | select(.connections.active > 0).name'")]
pub(super) struct PsArgs {
    #[command(flatten)]
    daemon: Daemon,
    /// Print a JSON array with all details
    #[arg(long)]
    json: bool,
}

/// What `portsplice ports` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
REACHABLE shows whether the container's policy lets controllers in.

Examples:
  portsplice ports
  portsplice ports web --json")]
pub(super) struct PortsArgs {
    /// Only ports of this container
    container: Option<String>,
    #[command(flatten)]
    daemon: Daemon,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub(super) fn ps(args: &PsArgs) -> Result<()> {
    let mut daemon = args.daemon.connect()?;
    if args.json {
        return print_json(&daemon.call::<Value>("container.list", &json!({}))?["containers"]);
    }
    let containers: ContainerList = daemon.call("container.list", &json!({}))?;
    let ports: PortList = daemon.call("ports.list", &Filter::default())?;
    let mut listening: BTreeMap<&str, Vec<u16>> = BTreeMap::new();
    for port in &ports.ports {
        listening.entry(&port.container).or_default().push(port.listening.port);
    }
    let mut table = Table::new(&["CONTAINER", "SOURCE", "LISTENING", "PUBLISHED", ">CONNS", "USED", "ALLOWED"]);
    for container in &containers.containers {
        let ports = listening.get(container.name.as_str()).map(Vec::as_slice).unwrap_or_default();
        table.row(container_row(container, ports));
    }
    table.print()
}

fn container_row(container: &ContainerInfo, listening: &[u16]) -> Vec<String> {
    let mut listening = listening.to_vec();
    listening.sort_unstable();
    listening.dedup();
    let published = container.publish.iter().map(|(port, published)| shown(*port, published));
    let allowed = match (&container.denied, &container.ports) {
        (Some(why), _) => format!("none ({why})"),
        (None, Some(ports)) => ports.clone(),
        (None, None) => "all".to_owned(),
    };
    vec![
        container.name.clone(),
        container.source.clone(),
        or_dash(listening.iter().map(ToString::to_string).collect()),
        or_dash(published.collect()),
        format!("{}/{}", container.connections.active, container.connections.total),
        container.last_activity.map_or_else(|| "never".to_owned(), ago),
        allowed,
    ]
}

fn shown(port: u16, published: &PublishedPort) -> String {
    match published.access {
        Access::Public => format!("{port}*"),
        Access::Private => port.to_string(),
    }
}

fn or_dash(items: Vec<String>) -> String {
    if items.is_empty() { "-".to_owned() } else { items.join(",") }
}

pub(super) fn ports(args: &PortsArgs) -> Result<()> {
    let mut daemon = args.daemon.connect()?;
    let filter = Filter { container: args.container.clone() };
    if args.json {
        return print_json(&daemon.call::<Value>("ports.list", &filter)?["ports"]);
    }
    let list: PortList = daemon.call("ports.list", &filter)?;
    let mut table = Table::new(&["CONTAINER", ">PORT", "ADDRESS", "PROCESS", "REACHABLE", "PUBLISHED", "SINCE"]);
    list.ports.iter().for_each(|port| table.row(port_row(port)));
    table.print()
}

fn port_row(port: &ContainerPort) -> Vec<String> {
    let published = match &port.published {
        None => "-".to_owned(),
        Some(PublishedPort { access, label, .. }) => {
            let access = if *access == Access::Public { "public" } else { "private" };
            if label.is_empty() { access.to_owned() } else { format!("{access} ({label})") }
        }
    };
    let listening = &port.listening;
    vec![
        port.container.clone(),
        listening.port.to_string(),
        listening.address.to_string(),
        listening.process.clone().unwrap_or_else(|| "-".to_owned()),
        if port.reachable { "yes" } else { "no" }.to_owned(),
        published,
        ago(listening.since),
    ]
}
