//! `portsplice events`.

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::operator::{Daemon, print_line};
use super::output;
use portsplice_control::api::{Event, Lagged, Subscription, Topic};
use portsplice_control::client::Failure;
use portsplice_control::wire::Notification;
use portsplice_model::Timestamp;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Wanted {
    /// Ports that open and close
    Ports,
    /// Containers that start and stop
    Containers,
    /// Connections that open, change their target and close
    Connections,
}

impl Wanted {
    fn topic(self) -> Topic {
        match self {
            Self::Ports => Topic::Ports,
            Self::Containers => Topic::Containers,
            Self::Connections => Topic::Connections,
        }
    }
}

/// What `portsplice events` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints events from now on, until interrupted or until the daemon stops.

Examples:
  portsplice events
  portsplice events containers ports
  portsplice events connections --json | jq -r 'select(.event == \"connection_opened\").peer'")]
pub(super) struct EventsArgs {
    /// Which events to print; all if none is given
    topics: Vec<Wanted>,
    #[command(flatten)]
    daemon: Daemon,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &EventsArgs) -> Result<()> {
    let mut daemon = args.daemon.connect()?;
    let topics: Vec<Topic> = args.topics.iter().map(|wanted| wanted.topic()).collect();
    let topics = if topics.is_empty() { Topic::ALL.to_vec() } else { topics };
    let _: Subscription = daemon.call("events.subscribe", &Subscription { topics })?;
    daemon.set_timeout(None)?;
    while let Some(notification) = daemon.notification()? {
        let line = if args.json { json_line(notification) } else { line(notification)? };
        if let Some(line) = line
            && !print_line(&line)?
        {
            return Ok(());
        }
    }
    Err(Failure::NoDaemon { path: args.daemon.path().to_owned() }).context("the daemon has stopped")
}

fn json_line(notification: Notification) -> Option<String> {
    match notification.method.as_str() {
        "event" => Some(notification.params.to_string()),
        // Told apart from events by its name alone, as a program wants it.
        "lagged" => {
            let mut object = json!({ "event": "lagged" });
            if let (Value::Object(object), Value::Object(params)) = (&mut object, notification.params) {
                object.extend(params);
            }
            Some(object.to_string())
        }
        // A later version's.
        _ => None,
    }
}

fn line(notification: Notification) -> Result<Option<String>> {
    match notification.method.as_str() {
        "event" => {
            let event: Event = match serde_json::from_value(notification.params) {
                Ok(event) => event,
                // A later version's.
                Err(_) => return Ok(None),
            };
            Ok(Some(format!("{} {}", Timestamp::now(), sentence(event))))
        }
        "lagged" => {
            let Lagged { lost, .. } = serde_json::from_value(notification.params)?;
            output::error(&format!("{lost} events lost: the reader is too slow"));
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn sentence(event: Event) -> String {
    let text = match event {
        Event::ContainerAdded { container } => {
            format!("container {} added ({})", container.name, container.source)
        }
        Event::ContainerRemoved { name, .. } => format!("container {name} removed"),
        Event::PortOpened { port } => {
            let process = port.listening.process.map(|process| format!(" by {process}")).unwrap_or_default();
            format!("port {} of {} opened on {}{process}", port.listening.port, port.container, port.listening.address)
        }
        Event::PortClosed { port } => {
            format!("port {} of {} closed on {}", port.listening.port, port.container, port.listening.address)
        }
        Event::ConnectionOpened { id, peer } => format!("connection {id} opened by {peer}"),
        Event::ConnectionRouted { id, target } => {
            format!("connection {id} routed to port {} of {}", target.port, target.container)
        }
        Event::ConnectionClosed { id } => format!("connection {id} closed"),
    };
    // Names are their owners' choice, and must not steer a terminal.
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
