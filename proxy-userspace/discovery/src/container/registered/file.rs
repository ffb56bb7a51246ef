//! One file of the directory: what it may say.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

use super::description::{Description, Target};
use crate::container::policy::{Policy, PortSet, Publication, SourceAddress};
use portsplice_model::Denied;
use portsplice_model::PublishedPort;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Document {
    name: Option<String>,
    pid: Option<u32>,
    start_time: Option<u64>,
    netns: Option<PathBuf>,
    #[serde(default)]
    ports: Option<Ports>,
    #[serde(default)]
    deny: bool,
    fast: Option<bool>,
    #[serde(default)]
    source: SourceAddress,
    max_connections: Option<u32>,
    #[serde(default)]
    https_ports: Option<Ports>,
    request: Option<String>,
    #[serde(default)]
    service: bool,
    #[serde(default)]
    publish: BTreeMap<NonZeroU16, PublishedPort>,
}

struct Ports(PortSet);

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let items = Vec::<toml::Value>::deserialize(deserializer)?;
        let ranges = items.iter().map(|item| {
            let text = item.as_str().map_or_else(|| item.to_string(), str::to_owned);
            PortSet::parse_item(&text).map_err(D::Error::custom)
        });
        Ok(Self(PortSet::from_ranges(ranges.collect::<Result<_, _>>()?)))
    }
}

impl Description {
    /// Reads the text of the file at `path`, whose name without `.toml` is the container's unless the text has another.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write instead.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let document: Document = toml::from_str(text).map_err(|e| in_one_line(&e, text))?;
        let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let name = document.name.unwrap_or_else(stem);
        let target = Target::of(document.pid, document.start_time, document.netns, "start-time")?;
        let policy = Policy {
            deny: document.deny.then_some(Denied::Denied),
            ports: document.ports.map(|Ports(set)| set),
            max_connections: document.max_connections,
            https: document.https_ports.map(|Ports(set)| set).unwrap_or_default(),
            no_fast_path: !document.fast.unwrap_or(true),
            source: document.source,
            publication: Publication {
                uuid: None,
                request: document.request,
                service: document.service,
                ports: document.publish.into_iter().map(|(port, published)| (port.get(), published)).collect(),
            },
        };
        Self::new(name, target, policy)
    }
}

/// The parser's own text draws a picture of several lines, which is no good in a log.
fn in_one_line(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().replace('\n', "; ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return message };
    let number = before.matches('\n').count();
    let line: String = text.lines().nth(number).unwrap_or_default().trim().chars().take(80).collect();
    format!("line {} ({line}): {message}", number + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Description, String> {
        Description::parse(Path::new("/run/x/zzzzz-dz642-abcdefghijklmno.toml"), text)
    }

    #[test]
    fn all_keys() {
        let description = parse(
            "name = 'web'\npid = 77\nstart-time = 1234\nports = [80, '8000-8010']\ndeny = true\nfast = false\nsource = 'address'\nmax-connections = 9\nhttps-ports = [8443]\nservice = true\nrequest = 'r'\n[publish.8888]\naccess = 'public'\nlabel = 'x'",
        )
        .unwrap();
        assert_eq!(description.name, "web");
        assert_eq!(description.target, Target::Process { pid: 77, start_time: Some(1234) });
        let Policy { deny, ports, max_connections, https, no_fast_path, source, publication } = description.policy;
        assert!(no_fast_path && publication.service);
        assert_eq!(source, SourceAddress::Address);
        assert_eq!((publication.request.as_deref(), &*publication.ports[&8888].label), (Some("r"), "x"));
        assert_eq!((deny, max_connections), (Some(Denied::Denied), Some(9)));
        assert_eq!((ports.unwrap().to_string(), https.to_string()), ("80,8000-8010".into(), "8443".into()));
    }

    #[test]
    fn the_least() {
        let description = parse("netns = '/run/netns/x'").unwrap();
        assert_eq!(description.name, "zzzzz-dz642-abcdefghijklmno");
        assert_eq!(description.target, Target::Path("/run/netns/x".into()));
        assert_eq!(description.policy, Policy::default());
        assert_eq!(parse("pid = 1\nports = []").unwrap().policy.check(80), Err(Denied::Port));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, word) in [
            ("", "either pid"),
            ("pid = 1\nnetns = '/run/netns/x'", "either pid"),
            ("pid = 0", "pid = 0"),
            ("pid = -1", "pid"),
            ("pid = 1\nport = [80]", "line 2 (port = [80]): unknown field"),
            ("pid = 1\nports = [0]", "port"),
            ("pid = 1\nports = [70000]", "70000"),
            ("pid = 1\nports = 80", "sequence"),
            ("pid = 1\nports = [true]", "true"),
            ("pid = 1\nhttps-ports = ['9-1']", "9-1"),
            ("pid = 1\ndeny = 'yes'", "deny"),
            ("pid = 1\nsource = 'eth0'", "`loopback` or `address`"),
            ("pid = 1\n[publish.0]", "publish"),
            ("pid = 1\nname = ''", "name"),
            ("pid = 1\nname = 'a b'", "name"),
            ("netns = 'x'", "absolute path"),
            ("netns = '/proc/1/ns/net'", "pid = NUMBER"),
            ("netns = '/run/netns/x'\nstart-time = 1", "start-time"),
            ("pid = ", "pid"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word) && !error.contains('\n'), "{text:?}: {error}");
        }
    }
}
