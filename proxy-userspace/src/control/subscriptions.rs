//! The events that one client has subscribed to.

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::{Parts, describe};
use portsplice_control::api::{ContainerPort, Event, Lagged, Target, Topic};
use portsplice_control::wire::Notification;
use portsplice_discovery::events::{ConnectionEvent, StateEvent};
use portsplice_model::ListeningPort;
use portsplice_net::netns::NetnsId;

/// How many events go out in one write at most.
const BATCH: usize = 128;

/// A client's subscriptions. Without any, nothing is ever told.
#[derive(Default)]
pub(super) struct Subscriptions {
    topics: Vec<Topic>,
    state: Option<Receiver<StateEvent>>,
    connections: Option<Receiver<ConnectionEvent>>,
}

enum Item {
    State(StateEvent),
    Connection(ConnectionEvent),
}

impl Subscriptions {
    /// Tells of `topics` from now on, and of nothing else.
    pub(super) fn subscribe(&mut self, parts: &Parts, topics: &[Topic]) {
        self.topics = Topic::ALL.into_iter().filter(|topic| topics.contains(topic)).collect();
        // A channel that is followed already goes on where it is: nothing between the two subscriptions is lost.
        let keep = |wanted: bool| wanted.then_some(());
        let state = self.wants(Topic::Ports) || self.wants(Topic::Containers);
        self.state = keep(state).map(|()| self.state.take().unwrap_or_else(|| parts.events.state()));
        let connections = self.wants(Topic::Connections);
        self.connections =
            keep(connections).map(|()| self.connections.take().unwrap_or_else(|| parts.events.connections()));
    }

    /// What is subscribed to.
    pub(super) fn topics(&self) -> &[Topic] {
        &self.topics
    }

    fn wants(&self, topic: Topic) -> bool {
        self.topics.contains(&topic)
    }

    /// Lines to be written, at least one. Dropping the future loses nothing.
    pub(super) async fn next(&mut self, parts: &Parts) -> Vec<u8> {
        loop {
            let first = tokio::select! {
                event = recv(self.state.as_mut()) => event.map(Item::State),
                event = recv(self.connections.as_mut()) => event.map(Item::Connection),
            };
            let mut lines = Vec::new();
            self.push(parts, first, &mut lines);
            for _ in 1..BATCH {
                let Some(more) = self.try_next() else { break };
                self.push(parts, more, &mut lines);
            }
            if !lines.is_empty() {
                return lines;
            }
        }
    }

    fn try_next(&mut self) -> Option<Result<Item, Lost>> {
        let state = try_recv(self.state.as_mut()).map(|event| event.map(Item::State));
        state.or_else(|| try_recv(self.connections.as_mut()).map(|event| event.map(Item::Connection)))
    }

    fn push(&self, parts: &Parts, item: Result<Item, Lost>, lines: &mut Vec<u8>) {
        match item {
            Ok(Item::State(event)) => self.state_event(parts, event, lines),
            Ok(Item::Connection(event)) => write(lines, &connection_event(event)),
            Err(Lost { events, of_state }) => {
                let lost = |topic: &&Topic| (**topic != Topic::Connections) == of_state;
                let topics = self.topics.iter().filter(lost).copied().collect();
                let params = serde_json::to_value(Lagged { topics, lost: events }).unwrap_or_default();
                lines.extend(Notification::new("lagged", params).line());
            }
        }
    }

    fn state_event(&self, parts: &Parts, event: StateEvent, lines: &mut Vec<u8>) {
        match event {
            StateEvent::ContainerAdded { id } if self.wants(Topic::Containers) => {
                if let Some(container) = parts.containers.with_id(&id) {
                    write(lines, &Event::ContainerAdded { container: describe::container(&container) });
                }
            }
            StateEvent::ContainerRemoved { id, name } if self.wants(Topic::Containers) => {
                write(lines, &Event::ContainerRemoved { id, name });
            }
            StateEvent::PortOpened(netns, listening) if self.wants(Topic::Ports) => {
                let opened = ports(parts, netns, &listening).map(|port| Event::PortOpened { port });
                opened.for_each(|event| write(lines, &event));
            }
            StateEvent::PortClosed(netns, listening) if self.wants(Topic::Ports) => {
                let closed = ports(parts, netns, &listening).map(|port| Event::PortClosed { port });
                closed.for_each(|event| write(lines, &event));
            }
            StateEvent::ContainerAdded { .. }
            | StateEvent::ContainerRemoved { .. }
            | StateEvent::PortOpened(..)
            | StateEvent::PortClosed(..) => {}
        }
    }
}

/// The port as each of the containers in the namespace has it.
fn ports(parts: &Parts, netns: NetnsId, listening: &ListeningPort) -> impl Iterator<Item = ContainerPort> {
    let containers = parts.containers.list().into_iter().filter(move |container| container.netns.id() == netns);
    containers.map(move |container| describe::port(&container, listening))
}

fn connection_event(event: ConnectionEvent) -> Event {
    match event {
        ConnectionEvent::Opened { id, peer } => Event::ConnectionOpened { id, peer: peer.to_string() },
        ConnectionEvent::Routed { id, container, uuid, port } => {
            Event::ConnectionRouted { id, target: Target { container, uuid, port } }
        }
        ConnectionEvent::Closed { id } => Event::ConnectionClosed { id },
    }
}

fn write(lines: &mut Vec<u8>, event: &Event) {
    let params = serde_json::to_value(event).unwrap_or_default();
    lines.extend(Notification::new("event", params).line());
}

/// So many events are gone.
struct Lost {
    events: u64,
    of_state: bool,
}

/// Tells the two channels apart where events of them were lost.
trait Kind {
    const STATE: bool;
}

impl Kind for StateEvent {
    const STATE: bool = true;
}

impl Kind for ConnectionEvent {
    const STATE: bool = false;
}

async fn recv<T: Kind + Clone>(channel: Option<&mut Receiver<T>>) -> Result<T, Lost> {
    let Some(channel) = channel else { return std::future::pending().await };
    match channel.recv().await {
        Ok(event) => Ok(event),
        Err(RecvError::Lagged(events)) => Err(Lost { events, of_state: T::STATE }),
        // The node ends, and with it this client.
        Err(RecvError::Closed) => std::future::pending().await,
    }
}

fn try_recv<T: Kind + Clone>(channel: Option<&mut Receiver<T>>) -> Option<Result<T, Lost>> {
    match channel?.try_recv() {
        Ok(event) => Some(Ok(event)),
        Err(TryRecvError::Lagged(events)) => Some(Err(Lost { events, of_state: T::STATE })),
        Err(TryRecvError::Empty | TryRecvError::Closed) => None,
    }
}
