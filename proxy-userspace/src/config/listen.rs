//! Listeners: `[[listen]]` tables of the file, and the URLs of flags and environment.

use toml::de::DeValue;

use super::error::{Problems, Source};
use super::layers::scalar;
use super::setting::{Keyword, Shape, keyword};
use crate::listen::{ListenAddress, ListenConfig};
use crate::tls::CertificateFiles;
use portsplice_auth::Scheme;

impl Keyword for Scheme {
    const WORDS: &'static [(&'static str, Self)] =
        &[("bound", Self::Bound), ("certificate", Self::Certificate), ("timestamp", Self::Timestamp)];
}

const ADDRESS: &str = r#"an IP address and a port such as "0.0.0.0:7450" or "[::]:7450" (port 0 takes a free one), or "systemd" or "systemd:NAME" for a socket from the service manager"#;
const CREDENTIALS: &str = r#"any of "bound", "certificate" (needs tls) and "timestamp" (needs the root secret)"#;

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
            "certificate-file" => self.certificate_file = Some(text("the path of a PEM file")?),
            "key-file" => self.key_file = Some(text("the path of a PEM file")?),
            "tls" => {
                self.tls = value
                    .as_bool()
                    .ok_or_else(|| format!("`listen.tls` has the type {}; write true or false", value.type_str()))?;
            }
            "credentials" => {
                let list =
                    value.as_array().map(|a| a.iter().map(|v| v.get_ref().as_str().map(str::to_owned)).collect());
                self.credentials =
                    Some(list.flatten().ok_or_else(|| format!("`listen.credentials` must be a list: {CREDENTIALS}"))?);
            }
            _ => {
                return Err(format!(
                    "unknown key `listen.{name}`; [[listen]] may have `address`, `tls`, `credentials`, `certificate-file`, `key-file`"
                ));
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
                    "{}: listener {text}: `certificate-file` and `key-file` belong together; give both, or none for a certificate made at start",
                    self.source
                ));
                None
            }
        };
        Some(ListenConfig { address: address?, tls: self.tls, credentials, certificate })
    }
}
