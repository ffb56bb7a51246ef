//! Containers, ports and connections as the control socket's clients are shown them.

use portsplice_control::api::{self, ConnectionActivity, ContainerInfo, ContainerPort, Endpoint, Target};
use portsplice_model::{Direction, ListeningPort, Timestamp};

use crate::node::connections::{Activity, Connection};
use portsplice_discovery::container::{Container, Publication};

/// The container, without what is under way.
pub(super) fn container(container: &Container) -> ContainerInfo {
    let policy = &container.policy;
    let Publication { request, service, ports: publish, .. } = policy.publication.clone();
    ContainerInfo {
        id: container.id.clone(),
        name: container.name.clone(),
        uuid: container.uuid().to_owned(),
        source: container.source().to_owned(),
        netns: container.netns.id().to_string(),
        denied: policy.deny.map(|denied| denied.label().to_owned()),
        ports: policy.ports.as_ref().map(ToString::to_string),
        https_ports: (!policy.https.is_empty()).then(|| policy.https.to_string()),
        max_connections: policy.max_connections,
        fast: !policy.no_fast_path,
        request,
        service,
        publish,
        connections: container.connection_counts(),
        traffic: container.traffic(),
        last_activity: container.last_activity().map(Timestamp::from),
    }
}

/// A port that something listens on in `container`.
pub(super) fn port(container: &Container, listening: &ListeningPort) -> ContainerPort {
    ContainerPort {
        container: container.name.clone(),
        uuid: container.uuid().to_owned(),
        reachable: container.policy.check(listening.port).is_ok(),
        published: container.policy.publication.ports.get(&listening.port).cloned(),
        listening: listening.clone(),
    }
}

/// A client connection, and where it leads to.
pub(super) fn connection(connection: &Connection) -> api::Connection {
    let meter = connection.meter();
    // Asked for first: what is counted meanwhile must not be more than there is in all.
    let bytes_fast = meter.fast_bytes();
    api::Connection {
        id: connection.id(),
        peer: connection.peer().to_string(),
        listener: if connection.tls() { Endpoint::Tls } else { Endpoint::Tcp },
        since: connection.since().into(),
        state: activity(connection.activity()),
        target: connection.target().map(|(container, port)| Target {
            container: container.name.clone(),
            uuid: container.uuid().to_owned(),
            port,
        }),
        requests: connection.requests(),
        bytes_up: meter.bytes(Direction::Up),
        bytes_down: meter.bytes(Direction::Down),
        bytes_fast,
        quiet_ms: u64::try_from(meter.idle_for().as_millis()).unwrap_or(u64::MAX),
    }
}

fn activity(activity: Activity) -> ConnectionActivity {
    match activity {
        Activity::Handshake => ConnectionActivity::Handshake,
        Activity::Idle => ConnectionActivity::Idle,
        Activity::Request => ConnectionActivity::Request,
        Activity::Tunnel => ConnectionActivity::Tunnel,
        Activity::Closing => ConnectionActivity::Closing,
    }
}
