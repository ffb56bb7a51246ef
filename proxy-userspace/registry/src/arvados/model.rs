//! Arvados's objects, as far as they say what a record or a link says: `doc/api/methods/containers`, `container_requests`,
//! `links` and `users` of Arvados.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use portsplice_model::{Access, ConnectionCounts, Link, PublishedPort, Record, State};

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Items<T> {
    pub(super) items: Vec<T>,
    /// How many the server would have given.
    pub(super) limit: Option<usize>,
}

/// What can be listed.
pub(super) trait HasUuid {
    /// Its uuid.
    fn uuid(&self) -> &str;
}

/// Of a container.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Container {
    pub(super) uuid: String,
    pub(super) state: String,
    pub(super) gateway_address: Option<String>,
    #[serde(default)]
    interactive_session_started: Option<bool>,
    #[serde(default)]
    service: Option<bool>,
    #[serde(default)]
    published_ports: Option<Map<String, Value>>,
}

impl Container {
    /// What of it is read.
    pub(super) const SELECT: [&str; 6] =
        ["uuid", "state", "gateway_address", "interactive_session_started", "service", "published_ports"];

    /// Whether it runs: then and only then its gateway can be written.
    pub(super) fn is_running(&self) -> bool {
        self.state == "Running"
    }

    /// Whether it may run yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.state == "Queued" || self.state == "Locked"
    }

    /// What the registry knows of it; nothing before a node has said that it is there.
    ///
    /// A gateway at the other end of a tunnel (`tunnel URL`) is none that anybody else can reach.
    pub(super) fn record(self, request: Option<String>) -> Option<Record> {
        let address = self.gateway_address.clone().filter(|address| host_of(address).is_some())?;
        let ports = self.published_ports.iter().flatten();
        Some(Record {
            container_request_uuid: request,
            node: host_of(&address)?.to_owned(),
            address,
            state: if self.is_running() { State::Running } else { State::Gone },
            service: self.service.unwrap_or(false),
            published_ports: ports.filter_map(|(port, value)| Some((port.parse().ok()?, published(value)))).collect(),
            listening: Vec::new(),
            accepted_any_connection: self.interactive_session_started.unwrap_or(false),
            connections: ConnectionCounts::default(),
            last_activity: None,
            uuid: self.uuid,
        })
    }
}

/// Whatever is not plainly public is private.
fn published(value: &Value) -> PublishedPort {
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    PublishedPort {
        access: if value["access"] == "public" { Access::Public } else { Access::Private },
        label: text("label"),
        initial_path: text("initial_path").trim_start_matches('/').to_owned(),
    }
}

/// The host of `HOST:PORT`.
fn host_of(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|&port| port > 0)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (!host.is_empty() && !host.contains([' ', '/'])).then_some(host)
}

/// Of a container request.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ContainerRequest {
    pub(super) uuid: String,
    pub(super) container_uuid: Option<String>,
    created_at: Option<String>,
}

impl ContainerRequest {
    /// What of it is read.
    pub(super) const SELECT: [&str; 3] = ["uuid", "container_uuid", "created_at"];
}

/// The request that each container runs for: the one that was made first, since several can share a container.
pub(super) fn requests_of(requests: Vec<ContainerRequest>) -> BTreeMap<String, String> {
    let mut requests = requests;
    requests.sort_by(|a, b| (&a.created_at, &a.uuid).cmp(&(&b.created_at, &b.uuid)));
    let mut of = BTreeMap::new();
    for request in requests {
        if let Some(container) = request.container_uuid {
            of.entry(container).or_insert(request.uuid);
        }
    }
    of
}

/// A link of class `published_port`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct PortLink {
    pub(super) uuid: String,
    owner_uuid: String,
    name: Option<String>,
    head_uuid: Option<String>,
    #[serde(default)]
    properties: Value,
}

impl PortLink {
    /// What of it is read.
    pub(super) const SELECT: [&str; 5] = ["uuid", "owner_uuid", "name", "head_uuid", "properties"];

    /// The condition that a link is one.
    pub(super) fn filter() -> Value {
        json!(["link_class", "=", "published_port"])
    }

    /// What the registry knows of it; nothing if its name cannot be a host's, or its port none.
    pub(super) fn link(&self) -> Option<Link> {
        Some(Link {
            hostname: self.name.as_ref()?.parse().ok()?,
            container_request_uuid: self.head_uuid.clone()?,
            port: self.properties["port"]
                .as_u64()
                .and_then(|port| u16::try_from(port).ok())
                .filter(|&port| port > 0)?,
            owner: self.owner_uuid.clone(),
        })
    }
}

/// The link to be made.
pub(super) fn new_link(link: &Link) -> Value {
    json!({
        "link_class": "published_port",
        "name": link.hostname,
        "head_uuid": link.container_request_uuid,
        "owner_uuid": link.owner,
        "properties": { "port": link.port },
    })
}

/// Who a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct User {
    /// The user's uuid, which is what a link's owner is called.
    pub uuid: String,
    /// Whether it is an administrator.
    #[serde(default)]
    pub is_admin: bool,
    /// Whether it may do anything.
    #[serde(default)]
    pub is_active: bool,
}

/// Whether this can be the uuid of a container in Arvados: five letters and digits, `dz642`, and fifteen more.
pub(super) fn is_container(uuid: &str) -> bool {
    let mut parts = uuid.split('-');
    let mut is = |length: usize| {
        parts.next().is_some_and(|part| {
            part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
    };
    is(5) && is(5) && is(15) && parts.next().is_none() && &uuid[6..11] == "dz642"
}

impl HasUuid for Container {
    fn uuid(&self) -> &str {
        &self.uuid
    }
}

impl HasUuid for ContainerRequest {
    fn uuid(&self) -> &str {
        &self.uuid
    }
}

impl HasUuid for PortLink {
    fn uuid(&self) -> &str {
        &self.uuid
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(value: Value) -> Container {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_container_that_runs_behind_a_gateway_is_a_record() {
        let record = container(json!({
            "uuid": "zzzzz-dz642-0123456789abcde", "state": "Running", "gateway_address": "node7.example:7450",
            "interactive_session_started": true, "service": true,
            "published_ports": {
                "80": { "access": "public", "label": "App", "initial_path": "/lab", "external_port": null },
                "81": { "access": "whatever" }, "x": {}, "82": null,
            },
        }));
        let record = record.record(Some("zzzzz-xvhdp-0123456789abcde".into())).unwrap();
        assert_eq!((&*record.node, record.state), ("node7.example", State::Running));
        assert!(record.service && record.accepted_any_connection);
        assert_eq!(record.published_ports.keys().copied().collect::<Vec<_>>(), [80, 81, 82]);
        assert_eq!(record.published_ports[&80].access, Access::Public);
        assert_eq!(record.published_ports[&80].initial_path, "lab");
        assert_eq!(record.published_ports[&81].access, Access::Private);
    }

    #[test]
    fn without_a_gateway_that_can_be_reached_there_is_no_record() {
        for address in [Value::Null, json!(""), json!("tunnel https://c.example:443"), json!("host"), json!("host:0")] {
            let value = json!({ "uuid": "u", "state": "Running", "gateway_address": address });
            assert_eq!(container(value).record(None), None, "{address}");
        }
        let ended = json!({ "uuid": "u", "state": "Complete", "gateway_address": "[::1]:7" });
        let ended = container(ended).record(None).unwrap();
        assert_eq!((ended.state, &*ended.node), (State::Gone, "::1"));
    }

    #[test]
    fn only_the_uuids_of_containers_are_asked_for() {
        assert!(is_container("zzzzz-dz642-0123456789abcde"));
        for other in
            ["", "zzzzz-xvhdp-0123456789abcde", "zzzzz-dz642-0123456789abcdE", "zzzzz-dz642-../../users/x", "a-dz642-b"]
        {
            assert!(!is_container(other), "{other}");
        }
    }

    #[test]
    fn of_several_requests_the_first_counts() {
        let request = |uuid: &str, container: Option<&str>, at: &str| ContainerRequest {
            uuid: uuid.into(),
            container_uuid: container.map(Into::into),
            created_at: Some(at.into()),
        };
        let requests =
            vec![request("b", Some("c"), "2026-01-02"), request("a", Some("c"), "2026-01-03"), request("d", None, "x")];
        assert_eq!(requests_of(requests), [("c".to_owned(), "b".to_owned())].into());
    }

    #[test]
    fn a_link_without_a_port_or_with_another_name_is_none_of_ours() {
        let link = |name: &str, port: Value| {
            let value = json!({ "uuid": "u", "owner_uuid": "o", "name": name, "head_uuid": "r", "properties": { "port": port } });
            serde_json::from_value::<PortLink>(value).unwrap().link()
        };
        assert!(link("app", json!(80)).is_some_and(|link| link.port == 80 && link.owner == "o"));
        for (name, port) in
            [("App", json!(80)), ("app", json!("80")), ("app", json!(0)), ("app", json!(65_536)), ("app", Value::Null)]
        {
            assert_eq!(link(name, port.clone()), None, "{name} {port}");
        }
    }
}
