//! What a client can ask for.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::describe;
use super::subscriptions::Subscriptions;
use super::{Control, Parts};
use crate::build_info;
use crate::node::connections::Connections;
use portsplice_control::api::{
    Close, Closed, ConnectionList, ContainerDetail, ContainerInfo, ContainerList, Draining, Empty, Filter, Hello,
    LogSet, Named, PROTOCOL, PortList, Subscription, Topic,
};
use portsplice_control::wire::{Call, Fault, code};
use portsplice_discovery::container::{Container, Peer, Registration, ResolveError};
use portsplice_model::Traffic;

pub(super) mod log;
mod register;
mod stats;

/// What happens once a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    /// The daemon ends.
    Drain,
}

impl Control {
    /// Does what `call` of `caller` asks for.
    pub(super) async fn call(
        &self,
        call: Call,
        subscriptions: &mut Subscriptions,
        caller: &Peer,
    ) -> (Result<Value, Fault>, After) {
        let Call { method, params, .. } = call;
        tracing::debug!(method, "control");
        let parts = &self.parts;
        let result = match method.as_str() {
            "hello" => with(params, |_: Empty| Ok(hello())),
            "container.register" => match read::<Registration>(params) {
                Ok(registration) => parts.register(registration, caller).await.and_then(result),
                Err(fault) => Err(fault),
            },
            "container.unregister" => match read::<Named>(params) {
                Ok(named) => parts.unregister(named.container).await.and_then(result),
                Err(fault) => Err(fault),
            },
            "container.list" => with(params, |_: Empty| Ok(parts.container_list())),
            "container.get" => match read::<Named>(params) {
                Ok(named) => parts.find(&named.container).await.and_then(|container| result(parts.detail(&container))),
                Err(fault) => Err(fault),
            },
            "ports.list" => match read::<Filter>(params) {
                Ok(filter) => parts.chosen(filter).await.and_then(|chosen| result(parts.port_list(chosen.as_deref()))),
                Err(fault) => Err(fault),
            },
            "connections.list" => match read::<Filter>(params) {
                Ok(filter) => {
                    parts.chosen(filter).await.and_then(|chosen| result(parts.connection_list(chosen.as_deref())))
                }
                Err(fault) => Err(fault),
            },
            "connections.close" => with(params, |close: Close| Ok(parts.close(&close.ids))),
            "log.set" => match read::<LogSet>(params) {
                Ok(wanted) => self.set_log(wanted).await.and_then(result),
                Err(fault) => Err(fault),
            },
            "events.subscribe" => with(params, |wanted: Subscription| {
                subscriptions.subscribe(parts, &wanted.topics);
                Ok(Subscription { topics: subscriptions.topics().to_vec() })
            }),
            "drain" => {
                let answer = with(params, |_: Empty| Ok(self.draining()));
                let after = if answer.is_ok() { After::Drain } else { After::Nothing };
                return (answer, after);
            }
            "stats" => with(params, |_: Empty| Ok(self.stats())),
            _ => {
                Err(Fault::new(code::NO_METHOD, format!("unknown method {method:?}; `hello` lists the available ones")))
            }
        };
        (result, After::Nothing)
    }

    fn draining(&self) -> Draining {
        tracing::info!("control client requested a drain");
        Draining {
            connections: self.parts.connections.list().len() as u64,
            drain_timeout: self.parts.drain_timeout.as_secs(),
        }
    }
}

fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: build_info::VERSION.to_owned(),
        commit: build_info::COMMIT.to_owned(),
        methods: portsplice_control::api::METHODS.iter().map(|&method| method.to_owned()).collect(),
        topics: Topic::ALL.to_vec(),
    }
}

/// Reads the parameters of a method.
fn read<P: DeserializeOwned>(params: Value) -> Result<P, Fault> {
    serde_json::from_value(params).map_err(|error| Fault::new(code::INVALID_PARAMS, format!("parameters: {error}")))
}

fn result(value: impl Serialize) -> Result<Value, Fault> {
    serde_json::to_value(value).map_err(|error| Fault::new(code::INTERNAL, error.to_string()))
}

/// A method that waits for nothing.
fn with<P: DeserializeOwned, R: Serialize>(
    params: Value,
    method: impl FnOnce(P) -> Result<R, Fault>,
) -> Result<Value, Fault> {
    read(params).and_then(method).and_then(result)
}

impl Parts {
    /// The running container that goes by `name`.
    pub(super) async fn find(&self, name: &str) -> Result<Arc<Container>, Fault> {
        self.containers.resolve(name).await.map_err(|error| match error {
            ResolveError::Ambiguous => Fault::new(code::AMBIGUOUS, format!("{name:?}: {error}; use an ID")),
            ResolveError::NotOnThisNode => Fault::new(code::NO_CONTAINER, format!("{name:?}: {error}")),
            ResolveError::EngineUnavailable => {
                Fault::new(code::NO_CONTAINER, format!("{name:?} is not known, but {error}: try again later"))
            }
        })
    }

    /// The container that a list is to be about; none: all.
    async fn chosen(&self, filter: Filter) -> Result<Option<Arc<Container>>, Fault> {
        match filter.container {
            Some(name) => self.find(&name).await.map(Some),
            None => Ok(None),
        }
    }

    fn container_list(&self) -> ContainerList {
        let under_way = under_way(&self.connections);
        let info = |container: &Arc<Container>| info(container, &under_way);
        ContainerList { containers: self.containers.list().iter().map(info).collect() }
    }

    fn detail(&self, container: &Container) -> ContainerDetail {
        let listening = self.ports.of(container.netns.id()).to_vec();
        ContainerDetail { container: info(container, &under_way(&self.connections)), listening }
    }

    fn port_list(&self, only: Option<&Container>) -> PortList {
        let containers = self.containers.list();
        let chosen = containers.iter().filter(|container| only.is_none_or(|only| only.is_same_as(container)));
        let ports = chosen.flat_map(|container| {
            let listening = self.ports.of(container.netns.id());
            listening.iter().map(|listening| describe::port(container, listening)).collect::<Vec<_>>()
        });
        PortList { ports: ports.collect() }
    }

    fn connection_list(&self, only: Option<&Container>) -> ConnectionList {
        let connections = self.connections.list();
        let chosen = connections.iter().filter(|connection| {
            only.is_none_or(|only| connection.target().is_some_and(|(container, _)| container.is_same_as(only)))
        });
        ConnectionList { connections: chosen.map(|connection| describe::connection(connection)).collect() }
    }

    fn close(&self, ids: &[u64]) -> Closed {
        let (mut closed, mut unknown) = (Vec::new(), Vec::new());
        for &id in ids {
            match self.connections.get(id) {
                Some(connection) => {
                    connection.close();
                    closed.push(id);
                }
                None => unknown.push(id),
            }
        }
        Closed { closed, unknown }
    }
}

/// What requests that are not over have moved, by the container's id; in one go over the connections, which may be many.
fn under_way(connections: &Connections) -> HashMap<String, Traffic> {
    let mut under_way: HashMap<String, Traffic> = HashMap::new();
    for connection in connections.list() {
        if let Some((container, _)) = connection.target() {
            let traffic = under_way.entry(container.id.clone()).or_default();
            *traffic = *traffic + connection.uncounted();
        }
    }
    under_way
}

fn info(container: &Container, under_way: &HashMap<String, Traffic>) -> ContainerInfo {
    let info = describe::container(container);
    let traffic = info.traffic + under_way.get(&container.id).copied().unwrap_or_default();
    ContainerInfo { traffic, ..info }
}
