//! What is known of a container, and of a host name.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

/// What the cluster knows of one container. Unknown fields of a newer version are ignored when it is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Record {
    /// The name under which the container is asked for (`X-Arvados-Container-Gateway-Uuid`).
    pub uuid: String,
    /// The container request that it runs for; links refer to this, because a request may get another container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_request_uuid: Option<String>,
    /// The node that it runs on, by name.
    pub node: String,
    /// Where controllers and edges reach that node: `HOST:PORT`.
    pub address: String,
    /// Whether it runs.
    pub state: State,
    /// Whether it is a service, meant to be used over the network for as long as it runs, and may be culled when idle.
    #[serde(default)]
    pub service: bool,
    /// The ports that its owner publishes.
    #[serde(default)]
    pub published_ports: BTreeMap<u16, PublishedPort>,
    /// The ports that something listens on now. Listening publishes nothing.
    #[serde(default)]
    pub listening: Vec<ListeningPort>,
    /// Whether anybody was ever let in. A scheduler may refuse to use the results of such a container again.
    #[serde(default)]
    pub accepted_any_connection: bool,
    /// Connections into it.
    #[serde(default)]
    pub connections: ConnectionCounts,
    /// When the last connection into it was made, used or ended, to some seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity: Option<Timestamp>,
}

/// Whether a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It runs, and its node answers for it.
    Running,
    /// It has ended, or its node is gone; the record stays where its store keeps such.
    Gone,
}

/// A port that the container's owner publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublishedPort {
    /// Who may reach it.
    #[serde(default)]
    pub access: Access,
    /// What people are shown.
    #[serde(default)]
    pub label: String,
    /// Where a browser begins, relative to `/`.
    #[serde(default)]
    pub initial_path: String,
}

/// Who may reach a published port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Everybody, logged in or not.
    Public,
    /// Those who may read the container request.
    #[default]
    Private,
}

/// A port that something listens on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ListeningPort {
    /// The port.
    pub port: u16,
    /// The address it is bound to, inside the container: `::` and `0.0.0.0` are all of a family.
    pub address: IpAddr,
    /// Whether a socket on `::` also takes IPv4.
    #[serde(default)]
    pub dual_stack: bool,
    /// Since when, as far as this node knows.
    pub since: Timestamp,
    /// The process's name (`comm`), where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}

/// How many connections there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionCounts {
    /// Open now.
    pub active: u64,
    /// Ever opened, since the node's daemon has known the container.
    pub total: u64,
}

/// A name that leads to a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Link {
    /// The name, the first label of a host's name below the cluster's wildcard domain.
    pub hostname: Hostname,
    /// The container request whose container is meant.
    pub container_request_uuid: String,
    /// Its port.
    pub port: u16,
    /// The user that it belongs to.
    pub owner: String,
}

/// One DNS label in lower case (RFC 1123 2.1, RFC 1035 2.3.4): 1 to 63 letters, digits and hyphens, no hyphen at either
/// end. Names that begin with `xn--` are refused, since nobody would see what they stand for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Hostname(String);

/// Why a text is no [`Hostname`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a host name is 1 to 63 lower-case letters, digits and hyphens, begins and ends with none of the latter, and not with xn--"
)]
pub struct HostnameError;

impl Hostname {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Hostname {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, HostnameError> {
        let legal = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        let bare = text.starts_with('-') || text.ends_with('-') || text.starts_with("xn--");
        if legal && !bare && (1..=63).contains(&text.len()) { Ok(Self(text.to_owned())) } else { Err(HostnameError) }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Hostname {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_single_labels() {
        let long = "a".repeat(63);
        for good in ["a", "jupyter", "my-app-2", "0", &long] {
            assert_eq!(good.parse::<Hostname>().unwrap().as_str(), good);
        }
        let longer = "a".repeat(64);
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "xn--80ak6aa92e", "ä", "a b", &longer] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad}");
            assert!(serde_json::from_value::<Hostname>(bad.into()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_record_reads_what_it_writes_and_what_a_newer_version_writes() {
        let record = Record {
            uuid: "zzzzz-dz642-000000000000001".into(),
            container_request_uuid: None,
            node: "n1".into(),
            address: "192.0.2.1:7450".into(),
            state: State::Running,
            service: true,
            published_ports: [(8080, PublishedPort { access: Access::Public, ..PublishedPort::default() })].into(),
            listening: vec![ListeningPort {
                port: 8080,
                address: "::".parse().unwrap(),
                dual_stack: true,
                since: Timestamp::now(),
                process: Some("nginx".into()),
            }],
            accepted_any_connection: false,
            connections: ConnectionCounts::default(),
            last_activity: None,
        };
        let mut json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["published_ports"]["8080"]["access"], "public");
        json["of_the_future"] = 1.into();
        assert_eq!(serde_json::from_value::<Record>(json).unwrap(), record);
    }
}
