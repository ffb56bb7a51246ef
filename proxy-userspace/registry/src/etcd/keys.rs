//! What stands where in etcd: `PREFIX/records/UUID`, `PREFIX/links/HOSTNAME` and `PREFIX/nodes/NAME`, each with a JSON value.

use etcd_client::KeyValue;
use serde::{Deserialize, Serialize};

use crate::StoreError;
use portsplice_model::{Hostname, Link, Record};

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// All of it.
    pub(super) root: String,
    /// The records'.
    pub(super) records: String,
    /// The links'.
    pub(super) links: String,
    nodes: String,
}

/// What a key is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key<'a> {
    /// The record of this uuid.
    Record(&'a str),
    /// The link of this name.
    Link(&'a str),
    /// Anything else, which is not for those who read records and links.
    Other,
}

/// A node's claim to its name: it is there for as long as the node's lease is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// Where the node is reached.
    pub(super) address: String,
    /// A number that each start of a daemon draws anew.
    pub(super) instance: String,
    /// The lease of the node's records, in hexadecimal as etcdctl writes it.
    pub(super) lease: String,
}

impl Keys {
    /// `prefix` may end with a slash or not.
    pub(super) fn new(prefix: &str) -> Self {
        let root = format!("{}/", prefix.trim_end_matches('/'));
        let below = |what: &str| format!("{root}{what}/");
        Self { records: below("records"), links: below("links"), nodes: below("nodes"), root }
    }

    /// The key of a record.
    pub(super) fn record(&self, uuid: &str) -> String {
        format!("{}{uuid}", self.records)
    }

    /// The key of a link.
    pub(super) fn link(&self, hostname: &Hostname) -> String {
        format!("{}{hostname}", self.links)
    }

    /// The key of a node's claim.
    pub(super) fn node(&self, name: &str) -> String {
        format!("{}{name}", self.nodes)
    }

    /// What `key` is of.
    pub(super) fn read<'a>(&self, key: &'a [u8]) -> Key<'a> {
        let Ok(key) = std::str::from_utf8(key) else { return Key::Other };
        if let Some(uuid) = key.strip_prefix(&self.records) {
            Key::Record(uuid)
        } else if let Some(hostname) = key.strip_prefix(&self.links) {
            Key::Link(hostname)
        } else {
            Key::Other
        }
    }
}

/// The lease's number as it is written in a [`Claim`].
pub(super) fn lease_text(lease: i64) -> String {
    format!("{lease:x}")
}

impl Claim {
    /// The lease, if it is one.
    pub(super) fn lease(&self) -> Option<i64> {
        i64::from_str_radix(&self.lease, 16).ok().filter(|&lease| lease != 0)
    }
}

/// Reads a record that is stored under `uuid`.
///
/// # Errors
/// Where it is none, or one of another container: whoever may write one record may not answer for others by it.
pub(super) fn record(uuid: &str, kv: &KeyValue) -> Result<Record, StoreError> {
    let record: Record = parse(kv)?;
    if record.uuid == uuid { Ok(record) } else { Err(misplaced(kv, &record.uuid)) }
}

/// Reads a link that is stored under `hostname`.
///
/// # Errors
/// Where it is none, or another's.
pub(super) fn link(hostname: &str, kv: &KeyValue) -> Result<Link, StoreError> {
    let link: Link = parse(kv)?;
    if link.hostname.as_str() == hostname { Ok(link) } else { Err(misplaced(kv, link.hostname.as_str())) }
}

fn parse<T: for<'de> Deserialize<'de>>(kv: &KeyValue) -> Result<T, StoreError> {
    serde_json::from_slice(kv.value()).map_err(|e| {
        StoreError::corrupt(format!("the value of {:?} is wrong: {e}", String::from_utf8_lossy(kv.key()))).because(e)
    })
}

fn misplaced(kv: &KeyValue, says: &str) -> StoreError {
    StoreError::corrupt(format!("the value of {:?} says that it is of {says:?}", String::from_utf8_lossy(kv.key())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_lead_back_to_what_they_are_of() {
        for prefix in ["/portsplice/", "/portsplice"] {
            let keys = Keys::new(prefix);
            assert_eq!(keys.root, "/portsplice/");
            assert_eq!(keys.record("zzzzz-dz642-a/b"), "/portsplice/records/zzzzz-dz642-a/b");
            assert_eq!(keys.read(keys.record("zzzzz-dz642-a/b").as_bytes()), Key::Record("zzzzz-dz642-a/b"));
            assert_eq!(keys.read(keys.link(&"notes".parse().unwrap()).as_bytes()), Key::Link("notes"));
            assert_eq!(keys.read(keys.node("n1").as_bytes()), Key::Other);
            assert_eq!(keys.read(b"/portsplice/records/\xff"), Key::Other);
            assert_eq!(keys.read(b"/portsplices/records/x"), Key::Other);
        }
    }

    #[test]
    fn a_claim_remembers_its_lease() {
        let claim = |lease: &str| Claim { address: String::new(), instance: String::new(), lease: lease.into() };
        assert_eq!(claim(&lease_text(0x7587_0000_0000_000a)).lease(), Some(0x7587_0000_0000_000a));
        for none in ["", "0", "x", "ffffffffffffffffff"] {
            assert_eq!(claim(none).lease(), None, "{none}");
        }
    }
}
