//! What a container's owner allows: which ports, how many connections, and how the server on a port speaks.
//!
//! Whatever cannot be understood closes the container instead of opening it: a typing error in an allow list must not
//! expose what the list was written to hide.

use std::collections::HashMap;
use std::fmt;

/// Labels of a Docker container that Portsplice reads.
pub mod label {
    /// The name under which the controller asks for the container.
    pub const UUID: &str = "portsplice.uuid";
    /// The same, as Arvados's dispatcher sets it.
    pub const ARVADOS_UUID: &str = "org.arvados.container-uuid";
    /// The ports that may be reached, `80,8000-8010`; all of them without the label.
    pub const PORTS: &str = "portsplice.ports";
    /// `true`: no connections at all.
    pub const DENY: &str = "portsplice.deny";
    /// How many connections may be open at a time; 0 is none.
    pub const MAX_CONNECTIONS: &str = "portsplice.max-connections";
    /// `false`: responses always pass the daemon. For servers that send with io_uring's zero-copy requests, which the
    /// kernel refuses a socket for good once it has been in a socket map.
    pub const FAST: &str = "portsplice.fast";
    /// `loopback` or `address`: whether the container's servers see connections come from 127.0.0.1, or from the container's
    /// own address.
    pub const SOURCE: &str = "portsplice.source";
    /// `portsplice.scheme.PORT` = `http` or `https`.
    pub const SCHEME_PREFIX: &str = "portsplice.scheme.";
    /// The container request that the container runs for; links from host names refer to it.
    pub const REQUEST: &str = "portsplice.request";
    /// Whose the container is. Not read yet, and so never taken from an image.
    pub const OWNER: &str = "portsplice.owner";
    /// `true`: the container is a service, meant to be used over the network for as long as it runs.
    pub const SERVICE: &str = "portsplice.service";
    /// `portsplice.publish.PORT` = `public` or `private`; with `.label` and `.path` after the port, what people are shown
    /// and where a browser begins.
    pub const PUBLISH_PREFIX: &str = "portsplice.publish.";
    /// What all of them but Arvados's begin with.
    pub(super) const PREFIX: &str = "portsplice.";
}

pub use super::publication::Publication;
use portsplice_model::Denied;
pub use portsplice_net::netns::SourceAddress;

/// How the server on a port of the container speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamScheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

/// The rules of one container. The default allows everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Set: no connection at all, and why.
    pub deny: Option<Denied>,
    /// The ports that may be reached, beside published ones; `None` is all.
    pub ports: Option<PortSet>,
    /// How many connections may be open at a time; `None` is no limit of the container's own.
    pub max_connections: Option<u32>,
    /// The ports whose servers speak TLS.
    pub https: PortSet,
    /// Whether responses always pass the daemon.
    pub no_fast_path: bool,
    /// Where connections come from, as the container's servers see it.
    pub source: SourceAddress,
    /// What the cluster is told, and which ports are published.
    pub publication: Publication,
}

impl Policy {
    /// A policy that refuses every connection.
    pub fn closed(why: Denied) -> Self {
        Self { deny: Some(why), ..Self::default() }
    }

    /// Whether a connection to `port` is allowed.
    ///
    /// # Errors
    /// Why it is not.
    pub fn check(&self, port: u16) -> Result<(), Denied> {
        if let Some(why) = self.deny {
            return Err(why);
        }
        if self.max_connections == Some(0) {
            return Err(Denied::NoConnections);
        }
        match &self.ports {
            Some(ports) if !ports.contains(port) && !self.publication.ports.contains_key(&port) => Err(Denied::Port),
            _ => Ok(()),
        }
    }

    /// How the server on `port` speaks.
    pub fn scheme(&self, port: u16) -> UpstreamScheme {
        if self.https.contains(port) { UpstreamScheme::Https } else { UpstreamScheme::Http }
    }

    /// Reads a container's labels. `Err` says what is wrong with which label and how to put it right; the container must
    /// then stay closed.
    ///
    /// # Errors
    /// The first label that cannot be understood.
    pub fn from_labels(labels: &HashMap<String, String>) -> Result<Self, LabelError> {
        let mut policy = Self::default();
        let mut https = Vec::new();
        for (name, value) in labels {
            let value = value.trim();
            let wrong = |advice: String| LabelError { label: name.clone(), value: value.to_owned(), advice };
            match name.as_str() {
                label::DENY => match value {
                    "true" => policy.deny = Some(Denied::Denied),
                    "false" => {}
                    _ => return Err(wrong("use true or false".into())),
                },
                label::FAST => match value {
                    "true" => {}
                    "false" => policy.no_fast_path = true,
                    _ => return Err(wrong("use true or false".into())),
                },
                label::SOURCE => match value {
                    "loopback" => policy.source = SourceAddress::Loopback,
                    "address" => policy.source = SourceAddress::Address,
                    _ => return Err(wrong("use loopback or address".into())),
                },
                // Of the two names the one made for us counts.
                label::UUID if !value.is_empty() => policy.publication.uuid = Some(value.to_owned()),
                label::ARVADOS_UUID if !value.is_empty() && !labels.contains_key(label::UUID) => {
                    policy.publication.uuid = Some(value.to_owned());
                }
                label::REQUEST => policy.publication.request = (!value.is_empty()).then(|| value.to_owned()),
                label::SERVICE => match value {
                    "true" => policy.publication.service = true,
                    "false" => {}
                    _ => return Err(wrong("use true or false".into())),
                },
                label::PORTS => policy.ports = Some(PortSet::parse(value).map_err(|e| wrong(e.to_string()))?),
                label::MAX_CONNECTIONS => {
                    let limit = value.parse().map_err(|_| wrong("use a whole number; 0 allows none".into()))?;
                    policy.max_connections = Some(limit);
                }
                _ => {
                    if let Some(port) = name.strip_prefix(label::SCHEME_PREFIX) {
                        let port = parse_port(port)
                            .ok_or_else(|| wrong("the label does not end in a port, 1-65535".into()))?;
                        match value {
                            "https" => https.push((port, port)),
                            "http" => {}
                            _ => return Err(wrong("use http or https".into())),
                        }
                    } else if let Some(rest) = name.strip_prefix(label::PUBLISH_PREFIX) {
                        policy.publication.add_label(rest, value).map_err(|advice| wrong(advice.into()))?;
                    }
                }
            }
        }
        policy.https = PortSet::from_ranges(https);
        Ok(policy)
    }
}

/// Labels that begin like ours but are not: most likely typing errors, worth a word in the log.
pub(super) fn unknown_labels(labels: &HashMap<String, String>) -> impl Iterator<Item = &str> {
    let known = [
        label::UUID,
        label::PORTS,
        label::DENY,
        label::MAX_CONNECTIONS,
        label::FAST,
        label::SOURCE,
        label::REQUEST,
        label::SERVICE,
    ];
    let prefixes = [label::SCHEME_PREFIX, label::PUBLISH_PREFIX];
    labels.keys().map(String::as_str).filter(move |name| {
        name.starts_with(label::PREFIX)
            && !known.contains(name)
            && !prefixes.iter().any(|prefix| name.starts_with(prefix))
    })
}

/// A label whose value cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("label {label}={value:?}: {advice}")]
pub struct LabelError {
    label: String,
    value: String,
    advice: String,
}

/// A set of TCP ports, kept as sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSet(Vec<(u16, u16)>);

impl PortSet {
    /// Reads `80,8000-8010`. White space around numbers is fine; an empty list, port 0 and a range that runs backwards
    /// are errors.
    ///
    /// # Errors
    /// The item that is wrong.
    pub fn parse(text: &str) -> Result<Self, PortSetError> {
        text.split(',').map(Self::parse_item).collect::<Result<Vec<_>, _>>().map(Self::from_ranges)
    }

    /// Reads one port or one range.
    pub(super) fn parse_item(item: &str) -> Result<(u16, u16), PortSetError> {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        match (parse_port(first), parse_port(last)) {
            (Some(first), Some(last)) if first <= last => Ok((first, last)),
            _ => Err(PortSetError(item.trim().to_owned())),
        }
    }

    /// Sorts and joins ranges, each from its first to its last port.
    pub(super) fn from_ranges(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        let after = self.0.partition_point(|&(first, _)| first <= port);
        after > 0 && port <= self.0[after - 1].1
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, &(first, last)) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if first == last { write!(f, "{comma}{first}")? } else { write!(f, "{comma}{first}-{last}")? }
        }
        Ok(())
    }
}

/// A part of a list of ports that is neither a port nor a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a port (1-65535) nor a range of ports; write it like 80,8000-8010")]
pub struct PortSetError(String);

/// Digits only: `u16::from_str` would take `+80`.
pub(super) fn parse_port(text: &str) -> Option<u16> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|&port| digits && port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portsplice_model::{Access, PublishedPort};
    use proptest::prelude::*;

    fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
    }

    #[test]
    fn port_lists() {
        let set = PortSet::parse("80, 8000-8010,8011 ,443,8005-8007").unwrap();
        assert_eq!(set.to_string(), "80,443,8000-8011");
        for (port, inside) in
            [(80, true), (81, false), (7999, false), (8000, true), (8011, true), (8012, false), (1, false)]
        {
            assert_eq!(set.contains(port), inside, "{port}");
        }
        assert_eq!(PortSet::parse("1-65535").unwrap().to_string(), "1-65535");
        for bad in
            ["", ",", "80,", "0", "65536", "+80", "8010-8000", "80-", "-80", "a", "80 81", "0-5", "1-2-3", "８０"]
        {
            assert!(PortSet::parse(bad).is_err(), "{bad:?}");
        }
        assert!(!PortSet::default().contains(80));
    }

    #[test]
    fn no_label_allows_everything() {
        let policy = Policy::from_labels(&labels(&[("com.example", "x"), (label::UUID, "u")])).unwrap();
        let publication = Publication { uuid: Some("u".into()), ..Publication::default() };
        assert_eq!(policy, Policy { publication, ..Policy::default() });
        assert_eq!(policy.check(22), Ok(()));
        assert_eq!(policy.scheme(22), UpstreamScheme::Http);
    }

    #[test]
    fn labels_are_obeyed() {
        let policy = Policy::from_labels(&labels(&[
            (label::PORTS, "80,8443"),
            (label::MAX_CONNECTIONS, "3"),
            (label::DENY, "false"),
            (label::SOURCE, "address"),
            ("portsplice.scheme.8443", "https"),
            ("portsplice.scheme.80", "http"),
        ]))
        .unwrap();
        assert_eq!(policy.check(80), Ok(()));
        assert_eq!(policy.check(81), Err(Denied::Port));
        assert_eq!((policy.max_connections, policy.source), (Some(3), SourceAddress::Address));
        assert_eq!((policy.scheme(80), policy.scheme(8443)), (UpstreamScheme::Http, UpstreamScheme::Https));

        let closed = Policy::from_labels(&labels(&[(label::DENY, "true"), (label::PORTS, "80")])).unwrap();
        assert_eq!(closed.check(80), Err(Denied::Denied));
        let none = Policy::from_labels(&labels(&[(label::MAX_CONNECTIONS, "0")])).unwrap();
        assert_eq!(none.check(80), Err(Denied::NoConnections));
    }

    #[test]
    fn published_ports_are_open_and_recorded() {
        let policy = Policy::from_labels(&labels(&[
            (label::PORTS, "80"),
            (label::ARVADOS_UUID, "a"),
            (label::REQUEST, "r"),
            (label::SERVICE, "true"),
            ("portsplice.publish.8888", "public"),
            ("portsplice.publish.8888.label", "Notebook"),
            ("portsplice.publish.8888.path", "/lab"),
            ("portsplice.publish.9000", "private"),
        ]))
        .unwrap();
        assert_eq!([80, 8888, 9000, 81].map(|port| policy.check(port).is_ok()), [true, true, true, false]);
        let Publication { uuid, request, service, ports } = policy.publication;
        assert_eq!((uuid.as_deref(), request.as_deref(), service), (Some("a"), Some("r"), true));
        let notebook = PublishedPort { access: Access::Public, label: "Notebook".into(), initial_path: "lab".into() };
        assert_eq!(ports, [(8888, notebook), (9000, PublishedPort::default())].into());
    }

    #[test]
    fn a_bad_label_is_an_error_that_names_it() {
        for (name, value) in [
            (label::PORTS, ""),
            (label::PORTS, "http"),
            (label::DENY, ""),
            (label::DENY, "yes"),
            (label::MAX_CONNECTIONS, "-1"),
            (label::MAX_CONNECTIONS, "many"),
            ("portsplice.scheme.8443", "HTTPS"),
            ("portsplice.scheme.0", "https"),
            ("portsplice.scheme.web", "https"),
            (label::SERVICE, "yes"),
            (label::SOURCE, ""),
            (label::SOURCE, "127.0.0.1"),
            ("portsplice.publish.80", "everyone"),
            ("portsplice.publish.0", "public"),
            ("portsplice.publish.80.title", "x"),
        ] {
            let error = Policy::from_labels(&labels(&[(name, value)])).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn misspelt_labels_are_noticed() {
        let given =
            labels(&[("portsplice.port", "80"), (label::UUID, "u"), ("portsplice.scheme.1", "http"), ("other", "")]);
        assert_eq!(unknown_labels(&given).collect::<Vec<_>>(), ["portsplice.port"]);
    }

    proptest! {
        #[test]
        fn a_set_holds_exactly_its_ranges(ranges in proptest::collection::vec((1u16.., 0u16..300), 0..20), probe in 1u16..) {
            let ranges: Vec<_> = ranges.into_iter().map(|(first, n)| (first, first.saturating_add(n))).collect();
            let inside = ranges.iter().any(|&(first, last)| (first..=last).contains(&probe));
            let set = PortSet::from_ranges(ranges);
            prop_assert_eq!(set.contains(probe), inside);
            if !set.is_empty() {
                prop_assert_eq!(PortSet::parse(&set.to_string()).unwrap(), set);
            }
        }
    }
}
