//! What goes over the control socket: the parameters and results of each method, and the events.
//!
//! docs/control.schema.json is made from these types. Within one version of the protocol members and methods are only added.

mod container;
mod log;
mod stats;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use container::{
    Connection, ConnectionActivity, ConnectionList, ContainerDetail, ContainerInfo, ContainerList, ContainerPort,
    Endpoint, PortList, Target,
};
pub use log::{Level, LogScope, LogSet, LogState};
pub use stats::{Bytes, FastPath, Source, Stats};

/// The version of the protocol that is spoken.
pub const PROTOCOL: u32 = 1;

/// The names of all methods.
pub const METHODS: &[&str] = &[
    "hello",
    "container.register",
    "container.unregister",
    "container.list",
    "container.get",
    "ports.list",
    "connections.list",
    "connections.close",
    "log.set",
    "events.subscribe",
    "drain",
    "stats",
];

/// Nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// The result of `hello`: who speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    /// The version of the protocol.
    pub protocol: u32,
    /// The daemon's version.
    pub version: String,
    /// The commit that it was built from.
    pub commit: String,
    /// The methods that there are.
    pub methods: Vec<String>,
    /// The topics that can be subscribed to.
    pub topics: Vec<Topic>,
}

/// The parameters of methods about one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// A name of it: as requests carry it, or the beginning of Docker's id from 12 digits on.
    pub container: String,
}

/// The parameters of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Only what concerns this container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// The parameters of `connections.close`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// The numbers of the connections.
    pub ids: Vec<u64>,
}

/// The result of `connections.close`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Closed {
    /// Those that are reset.
    pub closed: Vec<u64>,
    /// Those that are not, or no longer, there.
    pub unknown: Vec<u64>,
}

/// The result of `drain`, which comes before the drain begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Draining {
    /// Connections that are open now.
    pub connections: u64,
    /// How long they may go on, in seconds.
    pub drain_timeout: u64,
}

/// What can be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// Ports that open and close.
    Ports,
    /// Containers that start and stop.
    Containers,
    /// Connections that open, change their target and close.
    Connections,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ports, Self::Containers, Self::Connections];
}

/// The parameters of `events.subscribe`, and its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Subscription {
    /// What is to be told of from now on, in place of what was; nothing ends it.
    pub topics: Vec<Topic>,
}

/// The parameters of the notification `event`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A container runs, or has another name or other rules now.
    ContainerAdded {
        /// The container as it is now.
        container: ContainerInfo,
    },
    /// A container has gone.
    ContainerRemoved {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// A port listens.
    PortOpened {
        /// The port. Several containers that share a network are told of one by one.
        port: ContainerPort,
    },
    /// A port listens no more.
    PortClosed {
        /// The port as it was.
        port: ContainerPort,
    },
    /// A connection was accepted.
    ConnectionOpened {
        /// Its number.
        id: u64,
        /// The controller's address.
        peer: String,
    },
    /// A connection leads to this port now.
    ConnectionRouted {
        /// Its number.
        id: u64,
        /// Where to.
        target: Target,
    },
    /// A connection has ended.
    ConnectionClosed {
        /// Its number.
        id: u64,
    },
}

/// The parameters of the notification `lagged`: the client has read too slowly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lagged {
    /// The topics that events of were lost; ask for the lists again.
    pub topics: Vec<Topic>,
    /// How many events of the node were lost, those of other topics of the same kind included.
    pub lost: u64,
}
