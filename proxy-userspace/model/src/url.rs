//! Where a server is: a scheme, a host and a port, and nothing else.

use std::fmt;
use std::str::FromStr;

/// `http://HOST:PORT` or `https://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// A name or an address; an IPv6 address without brackets.
    pub host: String,
    /// 80 or 443 where none was given.
    pub port: u16,
}

/// Why a text is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write http:// or https://, a host, and optionally a port")]
pub struct UrlError;

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let url = url::Url::parse(text).map_err(|_| UrlError)?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            _ => return Err(UrlError),
        };
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none();
        let host = url.host_str().ok_or(UrlError)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().filter(|&port| port != 0).ok_or(UrlError)?;
        if bare && anonymous { Ok(Self { tls, host, port }) } else { Err(UrlError) }
    }
}

/// Host and port of `HOST:PORT`; an IPv6 address is in brackets.
pub fn authority(text: &str) -> Option<(String, u16)> {
    let (_, port) = text.rsplit_once(':')?;
    // A URL leaves out the port that its scheme implies, so that it must be seen in the text.
    let port: u16 = port.parse().ok()?;
    let url: Url = format!("http://{text}").parse().ok()?;
    (url.port == port && url.authority() == text.to_ascii_lowercase()).then_some((url.host, port))
}

impl Url {
    /// `HOST:PORT`, as a `Host` field and a resolver want it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_are_host_and_port() {
        for (text, host, port) in [("n1:80", "n1", 80), ("N1.example:7450", "n1.example", 7450), ("[::1]:1", "::1", 1)]
        {
            assert_eq!(authority(text), Some((host.to_owned(), port)));
        }
        for bad in
            ["", "n1", "n1:", ":80", "n1:0", "n1:65536", "n1:+1", "n1:01", "::1:80", "u@n1:80", "n1:80/", "a b:1"]
        {
            assert_eq!(authority(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_scheme_host_and_port() {
        for (text, shown) in [
            ("http://a", "http://a:80"),
            ("https://a.example/", "https://a.example:443"),
            ("http://127.0.0.1:2379", "http://127.0.0.1:2379"),
            ("https://[::1]:7", "https://[::1]:7"),
        ] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "a",
            "a:80",
            "ftp://a",
            "http://",
            "http://a/x",
            "http://a?b",
            "http://u@a",
            "http://a:0",
            "http://a:x",
        ] {
            assert_eq!(bad.parse::<Url>(), Err(UrlError), "{bad}");
        }
    }
}
