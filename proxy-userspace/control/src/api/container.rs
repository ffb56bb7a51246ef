//! Containers, their ports and connections.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use portsplice_model::{ConnectionCounts, ListeningPort, PublishedPort, Timestamp, Traffic};

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerInfo {
    /// Docker's 64 digits, `registered/FILE` or `control/NAME`.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The name under which the cluster knows it.
    pub uuid: String,
    /// Where it was found: `docker`, `directory` or `control`.
    pub source: String,
    /// Its network namespace, as `/proc/PID/ns/net` shows it.
    pub netns: String,
    /// Why no connection is allowed, where none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<String>,
    /// The ports that may be reached beside the published ones, such as `80,8000-8010`; all of them where this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// The ports that speak HTTPS, in the same form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https_ports: Option<String>,
    /// How many connections may be open at a time, where the container has a limit of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Whether its responses may take the fast path.
    pub fast: bool,
    /// The container request that it runs for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Whether it is a service.
    pub service: bool,
    /// The ports that its owner publishes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub publish: BTreeMap<u16, PublishedPort>,
    /// Connections of the node into it.
    pub connections: ConnectionCounts,
    /// What was moved for it so far, by requests under way too.
    #[serde(default)]
    pub traffic: Traffic,
    /// When the last one was made, used or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity: Option<Timestamp>,
}

/// The result of `container.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerList {
    /// All that run, in the order of their ids.
    pub containers: Vec<ContainerInfo>,
}

/// The result of `container.get` and of `container.register`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerDetail {
    /// The container.
    pub container: ContainerInfo,
    /// The ports that something listens on.
    pub listening: Vec<ListeningPort>,
}

/// A port that something listens on in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerPort {
    /// The container's name.
    pub container: String,
    /// The name under which the cluster knows it.
    pub uuid: String,
    /// Whether the container's rules let controllers reach the port.
    pub reachable: bool,
    /// How it is published, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishedPort>,
    /// The port itself.
    #[serde(flatten)]
    pub listening: ListeningPort,
}

/// The result of `ports.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortList {
    /// By container, then by port.
    pub ports: Vec<ContainerPort>,
}

/// Where a connection leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// The container's name.
    pub container: String,
    /// The name under which the cluster knows it.
    pub uuid: String,
    /// The port.
    pub port: u16,
}

/// The kind of listener that a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// TLS.
    Tls,
    /// Plain TCP.
    Tcp,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionActivity {
    /// TLS is being negotiated.
    Handshake,
    /// It waits for a request.
    Idle,
    /// A request or its response is under way.
    Request,
    /// It is a WebSocket or a raw tunnel.
    Tunnel,
    /// Its last response is on its way.
    Closing,
}

/// A client connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Connection {
    /// Its number, unique as long as the daemon runs.
    pub id: u64,
    /// The controller's address and port.
    pub peer: String,
    /// The listener's kind.
    pub listener: Endpoint,
    /// When it was accepted.
    pub since: Timestamp,
    /// What it is doing.
    pub state: ConnectionActivity,
    /// Where it leads to; missing before its first request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    /// Requests that have begun on it.
    pub requests: u64,
    /// Bytes sent on to containers, heads included.
    pub bytes_up: u64,
    /// Bytes sent to the controller, heads included.
    pub bytes_down: u64,
    /// Of `bytes_down`, those that the kernel carried past the daemon.
    pub bytes_fast: u64,
    /// For how long nothing has moved, in milliseconds.
    pub quiet_ms: u64,
}

/// The result of `connections.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionList {
    /// In the order in which they came.
    pub connections: Vec<Connection>,
}
