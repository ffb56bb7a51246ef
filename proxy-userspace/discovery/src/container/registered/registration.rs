//! What a runtime says over the control socket to register a container; also how it is kept.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::ZeroizeOnDrop;

use super::description::{Description, Target, check_name};
use crate::container::policy::{Policy, PortSet, Publication, SourceAddress};
use portsplice_auth::ContainerKey;
use portsplice_model::Denied;
use portsplice_model::PublishedPort;

/// How long a registration may go unused where it does not say itself, in seconds.
const EXPIRES: u64 = 600;

/// A container to be registered: a name, a process or a namespace, and what may be done with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The name that requests carry: 1 to 255 letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// The name under which the cluster knows it, where that is another; requests may carry it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// A process of the container; it is registered as long as this lives. This, or `netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When the process started: field 22 of `/proc/PID/stat`. With it a process that has got the pid meanwhile is not taken
    /// for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<u64>,
    /// Where its network namespace is mounted, such as `/run/netns/NAME`; it is registered as long as that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// The ports that may be reached, beside published ones; all of them where this is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortRange>>,
    /// The ports whose servers speak TLS.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub https_ports: Vec<PortRange>,
    /// The ports that are published, and to whom.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, PublishedPort>")]
    pub publish: BTreeMap<NonZeroU16, PublishedPort>,
    /// Whether it is a service, meant to be used over the network for as long as it runs.
    #[serde(default)]
    pub service: bool,
    /// The container request that it runs for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Whether no connection is allowed at all.
    #[serde(default)]
    pub deny: bool,
    /// How many connections may be open at a time; 0 allows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<u32>,
    /// Whether its responses may take the fast path.
    #[serde(default = "yes")]
    pub fast: bool,
    /// Whether its servers see connections come from loopback, or from the container's own address.
    #[serde(default, skip_serializing_if = "is_default")]
    pub source: SourceAddress,
    /// The key that requests for it are signed with: 64 lower-case hexadecimal digits. For nodes that do not hold the root
    /// secret; it goes before a key that the node has otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyText>,
    /// The registration goes when nobody connects to the container within so many seconds; 0 lets it stay.
    #[serde(default = "some_minutes")]
    pub expires: u64,
}

fn yes() -> bool {
    true
}

fn is_default(source: &SourceAddress) -> bool {
    *source == SourceAddress::default()
}

fn some_minutes() -> u64 {
    EXPIRES
}

/// A port, or a range of them such as `"8000-8010"`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PortRange {
    /// One port.
    Port(NonZeroU16),
    /// From the first to the last.
    Range(String),
}

/// A container's key as it is handed over. Masked when shown, wiped when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct KeyText(String);

impl fmt::Debug for KeyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyText(***)")
    }
}

impl KeyText {
    fn key(&self) -> Result<ContainerKey, String> {
        // The text itself is not repeated: it may be a key with a slip of the pen in it.
        ContainerKey::from_hex(&self.0).map_err(|error| format!("key: {error}"))
    }
}

impl From<&str> for KeyText {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl Registration {
    /// All names that requests may carry.
    pub(super) fn names(&self) -> Vec<String> {
        let uuid = self.uuid.iter().filter(|uuid| **uuid != self.name);
        std::iter::once(&self.name).chain(uuid).cloned().collect()
    }

    /// The key, if it has one of its own.
    ///
    /// # Errors
    /// When the text is no key.
    pub(super) fn container_key(&self) -> Result<Option<ContainerKey>, String> {
        self.key.as_ref().map(KeyText::key).transpose()
    }

    /// What it comes down to.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write instead.
    pub(super) fn describe(&self) -> Result<Description, String> {
        if let Some(uuid) = &self.uuid {
            check_name("uuid", uuid)?;
        }
        self.container_key()?;
        let target = Target::of(self.pid, self.start_time, self.netns.clone(), "start_time")?;
        let policy = Policy {
            deny: self.deny.then_some(Denied::Denied),
            ports: self.ports.as_deref().map(|ports| set("ports", ports)).transpose()?,
            max_connections: self.max_connections,
            https: set("https_ports", &self.https_ports)?,
            no_fast_path: !self.fast,
            source: self.source,
            publication: Publication {
                uuid: self.uuid.clone(),
                request: self.request.clone(),
                service: self.service,
                ports: self.publish.iter().map(|(port, published)| (port.get(), published.clone())).collect(),
            },
        };
        Description::new(self.name.clone(), target, policy)
    }
}

fn set(key: &str, ranges: &[PortRange]) -> Result<PortSet, String> {
    let ranges = ranges.iter().map(|range| match range {
        PortRange::Port(port) => Ok((port.get(), port.get())),
        PortRange::Range(text) => PortSet::parse_item(text).map_err(|error| format!("{key}: {error}")),
    });
    Ok(PortSet::from_ranges(ranges.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Result<Description, String> {
        serde_json::from_value::<Registration>(value).map_err(|error| error.to_string())?.describe()
    }

    #[test]
    fn everything_that_can_be_said() {
        let value = json!({
            "name": "web", "uuid": "u", "pid": 7, "start_time": 9, "ports": [80, "8000-8010"], "https_ports": [8443],
            "publish": { "80": { "access": "public", "label": "x", "initial_path": "" } }, "service": true, "request": "r", "deny": false,
            "max_connections": 3, "fast": false, "source": "address", "key": "a".repeat(64), "expires": 5,
        });
        let registration: Registration = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&registration).unwrap(), value, "it is kept as it was said");
        assert_eq!(registration.names(), ["web", "u"]);
        assert!(!format!("{registration:?}").contains("aaaa"), "the key is not shown");
        let Description { name, target, policy } = registration.describe().unwrap();
        assert_eq!((name.as_str(), target), ("web", Target::Process { pid: 7, start_time: Some(9) }));
        assert_eq!(
            (policy.ports.unwrap().to_string(), policy.https.to_string()),
            ("80,8000-8010".into(), "8443".into())
        );
        assert!(policy.no_fast_path && policy.deny.is_none() && policy.publication.service);
        assert_eq!(policy.source, SourceAddress::Address);
        assert_eq!(policy.publication.ports[&80].label, "x");
    }

    #[test]
    fn the_least() {
        let registration: Registration =
            serde_json::from_value(json!({ "name": "x", "netns": "/run/netns/x" })).unwrap();
        assert_eq!((registration.expires, registration.fast), (EXPIRES, true));
        assert_eq!(registration.describe().unwrap().policy, Policy::default());
    }

    #[test]
    fn mistakes_are_named_and_open_nothing() {
        for (value, word) in [
            (json!({ "name": "x" }), "either pid"),
            (json!({ "name": "x", "pid": 0 }), "pid = 0"),
            (json!({ "name": "x", "pid": 1, "netns": "/run/netns/x" }), "either pid"),
            (json!({ "name": "x", "netns": "/run/x", "start_time": 1 }), "start_time belongs to pid"),
            (json!({ "name": "x", "netns": "/proc/1/ns/net" }), "pid = NUMBER"),
            (json!({ "name": "a b", "pid": 1 }), "name ="),
            (json!({ "name": "x", "uuid": "", "pid": 1 }), "uuid ="),
            (json!({ "name": "x", "pid": 1, "port": [80] }), "unknown field"),
            (json!({ "name": "x", "pid": 1, "ports": [0] }), "PortRange"),
            (json!({ "name": "x", "pid": 1, "ports": ["9-1"] }), "ports: \"9-1\""),
            (json!({ "name": "x", "pid": 1, "publish": { "0": {} } }), "nonzero"),
            (json!({ "name": "x", "pid": 1, "source": "eth0" }), "`loopback` or `address`"),
            (json!({ "name": "x", "pid": 1, "key": "secret" }), "64 lower-case"),
        ] {
            let error = read(value.clone()).unwrap_err();
            assert!(error.contains(word) && !error.contains("secret"), "{value}: {error}");
        }
    }
}
