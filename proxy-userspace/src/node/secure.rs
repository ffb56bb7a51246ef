//! TLS towards containers' servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription as Alert, ClientConfig};
use tokio_rustls::TlsConnector;

use crate::gateway_error::GatewayError;
use portsplice_net::sock::Sock;
use portsplice_net::tls;
use portsplice_net::tls::AnyCertificate;
use portsplice_relay::Stream;

/// What is needed to speak TLS to containers.
pub(super) struct Connector {
    tls: TlsConnector,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

impl Connector {
    pub(super) fn new() -> Self {
        // The connection never leaves the container's own network namespace, which the request's credential named, and
        // nobody outside the container can listen there: a certificate would prove nothing more.
        let mut config = ClientConfig::builder_with_provider(tls::provider())
            .with_safe_default_protocol_versions()
            .expect("ring has the cipher suites of TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Sessions are remembered by name, and two containers may go by one: the one would be offered the other's tickets.
        config.resumption = Resumption::disabled();
        Self { tls: TlsConnector::from(Arc::new(config)) }
    }

    /// Speaks TLS on a connection to a container's HTTPS port, whose server is asked for by `name`.
    pub(super) async fn secure(&self, name: ServerName<'static>, sock: Sock) -> io::Result<Stream> {
        self.tls.connect(name, sock).await.map(Stream::tls)
    }
}

/// The name by which a server is asked for (SNI): the request's `Host` without its port, in small letters. An address is not sent
/// (RFC 6066 section 3), and neither is what is no DNS name.
pub(super) fn server_name(host: &str) -> ServerName<'static> {
    const NONE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<Ipv6Addr>().map_or(NONE, IpAddr::V6).into();
    }
    let name = host.split_once(':').map_or(host, |(name, _)| name);
    ServerName::try_from(name.to_ascii_lowercase()).unwrap_or_else(|_| NONE.into())
}

/// What a handshake that failed like this means for the request.
pub(super) fn handshake_error(error: &io::Error) -> GatewayError {
    if let Some(error) = alert(error) {
        return error;
    }
    match tls_error(error) {
        None => GatewayError::TlsRefused("it closed the connection during the handshake"),
        Some(rustls::Error::InvalidMessage(_)) => {
            GatewayError::BadResponse("the port does not speak TLS as its label says")
        }
        Some(rustls::Error::PeerIncompatible(_)) => {
            GatewayError::BadResponse("it offers no secure TLS version or cipher suite")
        }
        Some(_) => GatewayError::BadResponse("its TLS handshake violates the protocol"),
    }
}

/// The gateway error of a handshake that seemed complete: in TLS 1.3 a server sees last what certificate the client has
/// (RFC 8446 section 4.4.2.4). Other alerts say nothing of whether the server has begun what it was asked for.
pub(super) fn late_error(error: &io::Error) -> Option<GatewayError> {
    match tls_error(error) {
        Some(rustls::Error::AlertReceived(
            Alert::CertificateRequired | Alert::BadCertificate | Alert::AccessDenied | Alert::HandshakeFailure,
        )) => alert(error),
        _ => None,
    }
}

/// The gateway error that the server has told by an alert.
fn alert(error: &io::Error) -> Option<GatewayError> {
    let Some(rustls::Error::AlertReceived(alert)) = tls_error(error) else { return None };
    Some(GatewayError::TlsRefused(match alert {
        Alert::UnrecognisedName => "unrecognized_name, it has no certificate for the request's Host",
        Alert::CertificateRequired => {
            "certificate_required, it wants a client certificate, which a gateway cannot present"
        }
        Alert::HandshakeFailure => {
            "handshake_failure, it may want a client certificate, another TLS version or another cipher suite"
        }
        Alert::ProtocolVersion => "protocol_version, it supports neither TLS 1.2 nor 1.3",
        Alert::InsufficientSecurity => "insufficient_security, it wants other cipher suites",
        Alert::NoApplicationProtocol => "no_application_protocol, it does not speak HTTP/1.1",
        Alert::BadCertificate => "bad_certificate, it wants a client certificate, which a gateway cannot present",
        Alert::AccessDenied => "access_denied",
        Alert::InternalError => "internal_error",
        _ => "an alert that its log may explain",
    }))
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hosts_without_ports_and_addresses_are_none() {
        let dns = |host: &str| match server_name(host) {
            ServerName::DnsName(name) => Some(name.as_ref().to_owned()),
            _ => None,
        };
        for (host, name) in [
            ("app.test", "app.test"),
            ("App.TEST:8443", "app.test"),
            ("localhost:", "localhost"),
            ("my_app.test", "my_app.test"),
            ("xn--bcher-kva.example:443", "xn--bcher-kva.example"),
        ] {
            assert_eq!(dns(host).as_deref(), Some(name), "{host}");
        }
        for host in ["", ":80", "127.0.0.1", "127.0.0.1:8443", "[::1]:8443", "[::1]", "[1.2]", "a%20b", "-", "a b"] {
            assert_eq!(dns(host), None, "{host}");
        }
        assert_ne!(server_name("[::1]:1"), server_name("127.0.0.1:1"));
    }

    #[test]
    fn what_failed_is_told() {
        let of = |error: rustls::Error| handshake_error(&io::Error::new(io::ErrorKind::InvalidData, error));
        assert!(
            matches!(of(rustls::Error::AlertReceived(Alert::UnrecognisedName)), GatewayError::TlsRefused(why) if why.starts_with("unrecognized_name"))
        );
        assert!(matches!(of(rustls::Error::AlertReceived(Alert::from(200))), GatewayError::TlsRefused(_)));
        assert!(
            matches!(of(rustls::InvalidMessage::InvalidContentType.into()), GatewayError::BadResponse(why) if why.contains("label"))
        );
        assert!(matches!(handshake_error(&io::ErrorKind::UnexpectedEof.into()), GatewayError::TlsRefused(_)));
        assert!(late_error(&io::ErrorKind::ConnectionReset.into()).is_none());
        let late = |alert| late_error(&io::Error::other(rustls::Error::AlertReceived(alert)));
        assert!(matches!(late(Alert::CertificateRequired), Some(GatewayError::TlsRefused(_))));
        assert!(late(Alert::InternalError).is_none(), "the request may have been begun");
    }
}
