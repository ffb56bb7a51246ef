//! Listeners: `[[listen]]` tables of the file, and the URLs of flags and environment.

use toml::de::DeValue;

use super::error::{Problems, Source};
use super::layers::scalar;
use super::setting::Shape;
use super::shared::SWITCH;
use super::value::{Keyword, keyword};
use portsplice_auth::Scheme;
use portsplice_net::listen::{ListenAddress, ListenConfig};
use portsplice_net::tls::CertificateFiles;

impl Keyword for Scheme {
    const WORDS: &'static [(&'static str, Self)] =
        &[("bound", Self::Bound), ("certificate", Self::Certificate), ("timestamp", Self::Timestamp)];
}

const ADDRESS: &str = r#"an IP address and a port such as "0.0.0.0:7450" or "[::]:7450" (port 0 takes a free one), or "systemd" or "systemd:NAME" for a socket from the service manager"#;
const CREDENTIALS: &str = r#"any of "bound", "certificate" (needs tls) and "timestamp" (needs the root secret)"#;

const PEM: &str = "the path of a PEM file";

/// A key of a `[[listen]]` table.
pub(super) struct ListenKey {
    pub(super) name: &'static str,
    /// What it means, in Markdown.
    pub(super) doc: &'static str,
    /// As in TOML; `None` where it must be given, or where there is nothing by default.
    pub(super) default: Option<&'static str>,
    /// Completes the sentence "write ...".
    pub(super) allowed: &'static str,
}

/// All keys of a `[[listen]]` table; [`RawListen::set`] takes them.
pub(super) const KEYS: &[ListenKey] = &[
    ListenKey { name: "address", doc: "Where it listens; must be given.", default: None, allowed: ADDRESS },
    ListenKey {
        name: "tls",
        doc: "Whether it speaks TLS; `tls://` or `tcp://` in a URL.",
        default: Some("true"),
        allowed: SWITCH,
    },
    ListenKey {
        name: "credentials",
        doc: "What a request may prove itself with, a list.",
        default: Some(r#"["bound"]"#),
        allowed: CREDENTIALS,
    },
    ListenKey {
        name: "certificate-file",
        doc: "The certificate chain that it presents, leaf first. Without one, a certificate is made at start.",
        default: None,
        allowed: PEM,
    },
    ListenKey {
        name: "key-file",
        doc: "The private key of that certificate (PKCS #8, PKCS #1 or SEC1, not encrypted; others may not read it).",
        default: None,
        allowed: PEM,
    },
];

/// A listener as it was written, before it is checked.
#[derive(Debug)]
pub(super) struct RawListen {
    source: Source,
    address: Option<String>,
    tls: bool,
    credentials: Option<Vec<String>>,
    certificate_file: Option<String>,
    key_file: Option<String>,
}

impl RawListen {
    /// Nothing given yet; TLS unless something says otherwise.
    pub(super) fn new(source: Source) -> Self {
        Self { source, address: None, tls: true, credentials: None, certificate_file: None, key_file: None }
    }

    /// One key of a `[[listen]]` table.
    pub(super) fn set(&mut self, name: &str, value: &DeValue<'_>) -> Result<(), String> {
        let text = |allowed: &str| {
            scalar(Shape::Text, value)
                .ok_or_else(|| format!("`listen.{name}` has the type {}; write {allowed}", value.type_str()))
        };
        match name {
            "address" => self.address = Some(text(ADDRESS)?),
            "certificate-file" => self.certificate_file = Some(text(PEM)?),
            "key-file" => self.key_file = Some(text(PEM)?),
            "tls" => {
                self.tls = value
                    .as_bool()
                    .ok_or_else(|| format!("`listen.tls` has the type {}; write {SWITCH}", value.type_str()))?;
            }
            "credentials" => {
                let list =
                    value.as_array().map(|a| a.iter().map(|v| v.get_ref().as_str().map(str::to_owned)).collect());
                self.credentials =
                    Some(list.flatten().ok_or_else(|| format!("`listen.credentials` must be a list: {CREDENTIALS}"))?);
            }
            _ => {
                let known: Vec<String> = KEYS.iter().map(|key| format!("`{}`", key.name)).collect();
                return Err(format!("unknown key `listen.{name}`; [[listen]] may have {}", known.join(", ")));
            }
        }
        Ok(())
    }

    /// `tls://ADDRESS` or `tcp://ADDRESS`, then `?credentials=a,b&certificate-file=PATH&key-file=PATH`.
    pub(super) fn from_url(url: &str, source: Source) -> Result<Self, String> {
        let usage = || {
            format!(
                "listener {url:?}; write tls://ADDRESS or tcp://ADDRESS, for example tls://0.0.0.0:7450 or tcp://127.0.0.1:7450?credentials=bound"
            )
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(usage)?;
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let tls = match scheme {
            "tls" => true,
            "tcp" => false,
            _ => return Err(usage()),
        };
        let mut raw = Self { address: Some(address.to_owned()), tls, ..Self::new(source) };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("credentials", list)) => raw.credentials = Some(list.split(',').map(str::to_owned).collect()),
                Some(("certificate-file", path)) => raw.certificate_file = Some(path.to_owned()),
                Some(("key-file", path)) => raw.key_file = Some(path.to_owned()),
                _ => {
                    return Err(format!(
                        "listener {url:?}: unknown parameter {pair:?}; it may have credentials, certificate-file and key-file"
                    ));
                }
            }
        }
        Ok(raw)
    }

    /// The listener, if everything about it is in order.
    pub(super) fn check(self, problems: &mut Problems) -> Option<ListenConfig> {
        let Some(text) = self.address else {
            problems.add(format!("{}: `listen.address` is missing; write {ADDRESS}", self.source));
            return None;
        };
        let address = text.parse::<ListenAddress>().ok();
        if address.is_none() {
            problems.bad_value("listen.address", &text, &self.source, ADDRESS);
        }
        let mut credentials = Vec::new();
        let words = self.credentials.unwrap_or_else(|| vec!["bound".to_owned()]);
        if words.is_empty() {
            problems.add(format!("{}: listener {text} accepts no credential; write {CREDENTIALS}", self.source));
        }
        for word in words {
            match keyword::<Scheme>(&word) {
                Some(Scheme::Certificate) if !self.tls => problems.add(format!(
                    "{}: listener {text}: the credential `certificate` proves the TLS certificate and needs `tls = true` (tls://); use `bound` on plain TCP",
                    self.source
                )),
                Some(scheme) if credentials.contains(&scheme) => {}
                Some(scheme) => credentials.push(scheme),
                None => problems.bad_value("listen.credentials", &word, &self.source, CREDENTIALS),
            }
        }
        let certificate = match (self.certificate_file, self.key_file) {
            (None, None) => None,
            (Some(_), Some(_)) if !self.tls => {
                problems.add(format!(
                    "{}: listener {text} has a certificate but does not speak TLS; set `tls = true` (tls://) or remove `certificate-file` and `key-file`",
                    self.source
                ));
                None
            }
            (Some(certificate), Some(key)) => {
                Some(CertificateFiles { certificate: certificate.into(), key: key.into() })
            }
            (Some(_), None) | (None, Some(_)) => {
                problems.add(format!(
                    "{}: listener {text}: set both `certificate-file` and `key-file`, or neither for a certificate generated at startup",
                    self.source
                ));
                None
            }
        };
        Some(ListenConfig { address: address?, tls: self.tls, credentials, certificate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_taken() {
        for key in KEYS {
            let problem = RawListen::new(Source::Default).set(key.name, &DeValue::Boolean(true));
            assert!(!problem.is_err_and(|problem| problem.contains("unknown key")), "{}", key.name);
        }
    }
}
