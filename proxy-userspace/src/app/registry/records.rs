//! Records of the containers that run on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::accepted::Accepted;
use portsplice_discovery::container::{Container, Containers};
use portsplice_discovery::ports::Ports;
use portsplice_model::ContainerName;
use portsplice_model::{Record, State};
use portsplice_registry::publisher::Source;

/// What every record says of its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Its name.
    pub(super) node: String,
    /// Where it is reached: `HOST:PORT`.
    pub(super) address: String,
}

/// The node's own records, made from what its parts know.
pub(super) struct NodeRecords {
    identity: Identity,
    containers: Arc<Containers>,
    ports: Arc<Ports>,
    first: Arc<Notify>,
    state: Mutex<Memory>,
}

struct Memory {
    accepted: Accepted,
    /// Names that were warned about.
    unusable: BTreeSet<String>,
}

impl NodeRecords {
    /// `accepted` is the file in which it is noted which containers have accepted connections.
    pub(super) fn new(
        identity: Identity,
        containers: Arc<Containers>,
        ports: Arc<Ports>,
        accepted: Option<PathBuf>,
    ) -> Arc<Self> {
        let state = Mutex::new(Memory { accepted: Accepted::load(accepted), unusable: BTreeSet::new() });
        Arc::new(Self { identity, containers, ports, first: Arc::default(), state })
    }

    /// Woken by the first connection into any of the containers that were looked at.
    pub(super) fn first(&self) -> Arc<Notify> {
        Arc::clone(&self.first)
    }

    fn record(&self, container: &Container, accepted: &mut Accepted) -> Record {
        container.notify_on_first(&self.first);
        let connections = container.connection_counts();
        if connections.total > 0 {
            accepted.insert(&container.id);
        }
        let publication = &container.policy.publication;
        Record {
            uuid: container.uuid().to_owned(),
            container_request_uuid: publication.request.clone(),
            node: self.identity.node.clone(),
            address: self.identity.address.clone(),
            state: State::Running,
            service: publication.service,
            published_ports: publication.ports.clone(),
            listening: self.ports.of(container.netns.id()).to_vec(),
            accepted_any_connection: accepted.contains(&container.id),
            connections,
            last_activity: container.last_activity().map(Into::into),
        }
    }
}

impl Source for NodeRecords {
    /// A container whose name no request could carry has no record. Of two that claim one name the one that requests for it
    /// reach has.
    fn records(&self) -> Vec<Record> {
        let containers = self.containers.list();
        let mut state = self.state.lock();
        let Memory { accepted, unusable } = &mut *state;
        let mut named: BTreeMap<&str, &Container> = BTreeMap::new();
        let mut warnings = BTreeSet::new();
        for container in &containers {
            let uuid = container.uuid();
            if ContainerName::parse(uuid).is_none() {
                warnings.insert(uuid.to_owned());
            } else if self.containers.holder(uuid).is_some_and(|holder| holder.is_same_as(container)) {
                named.insert(uuid, container);
            } else if !container.is_gone() {
                warnings.insert(uuid.to_owned());
            }
        }
        for uuid in warnings.difference(unusable) {
            tracing::warn!(
                container = ?uuid,
                "not reporting this container to the registry: its name is already taken, or contains characters other than letters, digits, '.', '_' and '-'; set the label portsplice.uuid"
            );
        }
        *unusable = warnings;
        let records = named.into_values().map(|container| self.record(container, accepted)).collect();
        accepted.save();
        records
    }
}
