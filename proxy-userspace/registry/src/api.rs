//! The record API of an edge: what both ends say. `docs/record-api.md` describes it for people.
//!
//! Without input or output: a [`Call`] is read from a request's method and target, and written to one.

use std::fmt;
use std::str::FromStr;

use hyper::Method;
use hyper::header::HeaderName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use portsplice_model::ContainerName;

/// Whose key signs: a container's uuid, or `@` and a node's name.
pub const IDENTITY: HeaderName = HeaderName::from_static("x-arvados-container-gateway-uuid");
/// Always `0`, which is no port: a credential for this API is none for a container, and the other way round.
pub const PORT: HeaderName = HeaderName::from_static("x-arvados-container-target-port");
/// The `bound` credential.
pub const AUTHORIZATION: HeaderName = HeaderName::from_static("x-arvados-authorization");
/// The edge's proof.
pub const PROOF: HeaderName = HeaderName::from_static("x-arvados-authorization-response");
/// Longest body, in bytes, either way.
pub const BODY_BYTES: usize = 1024 * 1024;
/// Longest time that a record may be wanted to outlive its node, in seconds: a day.
const TTL: u32 = 24 * 3600;

/// One request of the API. All names are [`ContainerName`]s, so that a target needs no escapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// Writes the record that is in the body.
    Put {
        /// The container's UUID.
        uuid: String,
        /// The name of the node that it runs on.
        node: String,
        /// Seconds that the record outlives the node's silence.
        ttl: u32,
        /// Of the body, in lower-case hexadecimal.
        sha256: String,
    },
    /// Removes a record, if it is this node's.
    Remove {
        /// The container's UUID.
        uuid: String,
        /// The node that it has gone from.
        node: String,
    },
    /// Reads a record.
    Get {
        /// The container's UUID.
        uuid: String,
    },
    /// A node lives, and [`Alive`] in the body runs there.
    Alive {
        /// The node's name.
        node: String,
        /// Seconds that its records outlive its silence.
        ttl: u32,
        /// Of the body, in lower-case hexadecimal.
        sha256: String,
    },
}

/// Why a request is no call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCall {
    /// There is nothing at this path.
    Path,
    /// The path has other methods; the text lists them.
    Method(&'static str),
    /// The query is not the method's; the text says what to write.
    Query(&'static str),
}

/// What a living node runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alive {
    /// The uuids of all records that it has written and that still hold. Others of this node are removed.
    pub running: Vec<String>,
}

/// The answer to [`Call::Alive`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliveAnswer {
    /// Seconds until the records go, unless the node says again that it lives.
    pub ttl: u32,
    /// Of those that run, what the edge does not have: write it again.
    #[serde(default)]
    pub missing: Vec<String>,
    /// Of those that run, what another node has written since.
    #[serde(default)]
    pub elsewhere: Vec<String>,
}

/// The answer to [`Call::Put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutAnswer {
    /// As in [`AliveAnswer`].
    pub ttl: u32,
}

/// The SHA-256 of a body, as it stands in a target.
pub fn digest(body: &[u8]) -> String {
    hex::encode(Sha256::digest(body))
}

impl Call {
    /// Reads a call.
    ///
    /// # Errors
    /// See [`NoCall`].
    pub fn parse(method: &Method, target: &str) -> Result<Self, NoCall> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if let Some(uuid) = path.strip_prefix("/v1/records/").and_then(name) {
            match *method {
                Method::PUT => {
                    let [node, ttl, sha256] = parameters(query, ["node", "ttl", "sha256"])
                        .ok_or(NoCall::Query("node=NAME&ttl=SECONDS&sha256=DIGEST-OF-THE-BODY"))?;
                    Ok(Self::Put { uuid, node: node_name(node)?, ttl: seconds(ttl)?, sha256: sha256_of(sha256)? })
                }
                Method::DELETE => {
                    let [node] = parameters(query, ["node"]).ok_or(NoCall::Query("node=NAME"))?;
                    Ok(Self::Remove { uuid, node: node_name(node)? })
                }
                Method::GET if query.is_empty() => Ok(Self::Get { uuid }),
                Method::GET => Err(NoCall::Query("nothing")),
                _ => Err(NoCall::Method("GET, PUT, DELETE")),
            }
        } else if let Some(node) = path.strip_prefix("/v1/nodes/").and_then(|p| name(p.strip_suffix("/alive")?)) {
            if method != Method::POST {
                return Err(NoCall::Method("POST"));
            }
            let [ttl, sha256] =
                parameters(query, ["ttl", "sha256"]).ok_or(NoCall::Query("ttl=SECONDS&sha256=DIGEST-OF-THE-BODY"))?;
            Ok(Self::Alive { node, ttl: seconds(ttl)?, sha256: sha256_of(sha256)? })
        } else {
            Err(NoCall::Path)
        }
    }

    /// Its method.
    pub fn method(&self) -> Method {
        match self {
            Self::Put { .. } => Method::PUT,
            Self::Remove { .. } => Method::DELETE,
            Self::Get { .. } => Method::GET,
            Self::Alive { .. } => Method::POST,
        }
    }

    /// Whose key signs it.
    pub fn identity(&self) -> String {
        match self {
            Self::Put { uuid, .. } | Self::Remove { uuid, .. } | Self::Get { uuid } => uuid.clone(),
            Self::Alive { node, .. } => format!("{}{node}", portsplice_auth::NODE),
        }
    }

    /// The digest that its body must have; `None` when it has no body.
    pub fn sha256(&self) -> Option<&str> {
        match self {
            Self::Put { sha256, .. } | Self::Alive { sha256, .. } => Some(sha256),
            Self::Remove { .. } | Self::Get { .. } => None,
        }
    }
}

/// The request's target: path and query.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { uuid, node, ttl, sha256 } => {
                write!(f, "/v1/records/{uuid}?node={node}&ttl={ttl}&sha256={sha256}")
            }
            Self::Remove { uuid, node } => write!(f, "/v1/records/{uuid}?node={node}"),
            Self::Get { uuid } => write!(f, "/v1/records/{uuid}"),
            Self::Alive { node, ttl, sha256 } => write!(f, "/v1/nodes/{node}/alive?ttl={ttl}&sha256={sha256}"),
        }
    }
}

fn name(text: &str) -> Option<String> {
    ContainerName::parse(text).map(|name| name.as_str().to_owned())
}

fn node_name(text: &str) -> Result<String, NoCall> {
    name(text).ok_or(NoCall::Query("node=NAME, of letters, digits, '.', '_' and '-'"))
}

fn seconds(text: &str) -> Result<u32, NoCall> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let seconds = u32::from_str(text).ok().filter(|seconds| digits && (1..=TTL).contains(seconds));
    seconds.ok_or(NoCall::Query("ttl=SECONDS, from 1 to 86400"))
}

fn sha256_of(text: &str) -> Result<String, NoCall> {
    let legal = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if legal { Ok(text.to_owned()) } else { Err(NoCall::Query("sha256=DIGEST, 64 lower-case hexadecimal digits")) }
}

/// The values of exactly these parameters, each given once, in any order.
fn parameters<'q, const N: usize>(query: &'q str, names: [&str; N]) -> Option<[&'q str; N]> {
    let mut values = [None; N];
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=')?;
        let slot = &mut values[names.iter().position(|known| *known == name)?];
        if slot.replace(value).is_some() {
            return None;
        }
    }
    let mut found = [""; N];
    for (found, value) in found.iter_mut().zip(values) {
        *found = value?;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_read_what_they_write() {
        let sha256 = digest(b"");
        for call in [
            Call::Put { uuid: "c-1".into(), node: "n.example".into(), ttl: 15, sha256: sha256.clone() },
            Call::Remove { uuid: "c_1".into(), node: "n1".into() },
            Call::Get { uuid: "c.1".into() },
            Call::Alive { node: "n1".into(), ttl: 86400, sha256 },
        ] {
            assert_eq!(Call::parse(&call.method(), &call.to_string()), Ok(call));
        }
    }

    proptest::proptest! {
        /// Whatever is read as a call means the same when it is written again.
        #[test]
        fn what_is_read_is_what_was_written(target in "/v1/(records|nodes)/[a-z@.]{0,3}(/alive)?[?]?[a-z0-9=&]{0,30}") {
            for method in [Method::GET, Method::PUT, Method::DELETE, Method::POST] {
                if let Ok(call) = Call::parse(&method, &target) {
                    proptest::prop_assert_eq!(call.method(), method);
                    proptest::prop_assert_eq!(Call::parse(&call.method(), &call.to_string()), Ok(call));
                }
            }
        }
    }

    #[test]
    fn nothing_else_is_a_call() {
        let good = digest(b"");
        let put = |target: &str| Call::parse(&Method::PUT, target);
        for path in ["", "/", "/v1/records/", "/v1/records/@n1", "/v1/records/a/b", "/v1/records/a%20", "/v2/records/a"]
        {
            assert_eq!(put(path), Err(NoCall::Path), "{path}");
        }
        for path in ["/v1/nodes/n1", "/v1/nodes//alive", "/v1/nodes/n1/alive/", "/v1/nodes/@n1/alive"] {
            assert_eq!(Call::parse(&Method::POST, path), Err(NoCall::Path), "{path}");
        }
        assert_eq!(Call::parse(&Method::POST, "/v1/records/a"), Err(NoCall::Method("GET, PUT, DELETE")));
        assert_eq!(Call::parse(&Method::GET, "/v1/nodes/n1/alive"), Err(NoCall::Method("POST")));
        for query in [
            String::new(),
            "node=n1&ttl=15".into(),
            format!("node=n1&ttl=15&sha256={good}&x=1"),
            format!("node=n1&node=n1&ttl=15&sha256={good}"),
            format!("node=n1&ttl=+5&sha256={good}"),
            format!("node=n1&ttl=0&sha256={good}"),
            format!("node=n1&ttl=86401&sha256={good}"),
            format!("node=@n1&ttl=15&sha256={good}"),
            format!("node=n1&ttl=15&sha256={}", good.to_uppercase()),
            format!("node=n1&ttl=15&sha256={}", &good[1..]),
            format!("node=n1&ttl=15&sha256={good}&"),
        ] {
            assert!(matches!(put(&format!("/v1/records/a?{query}")), Err(NoCall::Query(_))), "{query}");
        }
        assert!(matches!(Call::parse(&Method::GET, "/v1/records/a?x=1"), Err(NoCall::Query(_))));
    }
}
