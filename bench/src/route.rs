//! A way from the controller to the server, and the requests that take it.

use std::net::SocketAddr;
use std::sync::Arc;

use portsplice_testkit::sign::{self, Call, Key};
use rustls::ClientConfig;

use crate::origin::{ECHO_PORT, ECHO_PROTOCOL, HTTP_PORT};

/// Name under which the node daemon knows the container.
pub(crate) const CONTAINER_NAME: &str = "zzzzz-dz642-benchbenchbench";

/// How to reach the server through one system.
#[derive(Clone)]
pub(crate) struct Route {
    /// Where requests go.
    pub(crate) http: SocketAddr,
    /// Where requests over TLS go, and the client's side of the handshake; none where there is no TLS.
    pub(crate) tls: Option<(SocketAddr, Arc<ClientConfig>)>,
    /// How a stream to the echo port is opened.
    pub(crate) tunnel: Tunnel,
    /// Signs each request, for the system that demands it.
    pub(crate) signer: Option<Signer>,
}

/// How a stream of opaque bytes to the echo server comes about.
#[derive(Clone, Copy)]
pub(crate) enum Tunnel {
    /// Connecting to this address is all.
    Raw(SocketAddr),
    /// An HTTP upgrade answered by the server, as WebSockets do it.
    Upgrade,
    /// The node daemon's `Upgrade: tcp` to the echo port.
    Tcp,
}

impl Route {
    /// The head of a request for the server's HTTP port; `extra` is further field lines, each ended by CRLF.
    pub(crate) fn head(&self, method: &str, target: &str, extra: &str) -> anyhow::Result<Vec<u8>> {
        self.head_for(None, HTTP_PORT, method, target, extra)
    }

    /// As [`Self::head`], for the TLS connection that this exporter (RFC 9266) belongs to.
    pub(crate) fn head_over_tls(
        &self,
        exporter: &[u8; 32],
        method: &str,
        target: &str,
        extra: &str,
    ) -> anyhow::Result<Vec<u8>> {
        self.head_for(Some(exporter), HTTP_PORT, method, target, extra)
    }

    /// The head that opens the tunnel, and where to send it; none when the stream is opaque from the start.
    pub(crate) fn tunnel_head(&self) -> anyhow::Result<(SocketAddr, Option<Vec<u8>>)> {
        match self.tunnel {
            Tunnel::Raw(address) => Ok((address, None)),
            Tunnel::Upgrade => {
                let extra = format!("Connection: Upgrade\r\nUpgrade: {ECHO_PROTOCOL}\r\n");
                Ok((self.http, Some(self.head("GET", "/echo", &extra)?)))
            }
            Tunnel::Tcp => {
                let extra = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
                Ok((self.http, Some(self.head_for(None, ECHO_PORT, "GET", "/", extra)?)))
            }
        }
    }

    fn head_for(
        &self,
        exporter: Option<&[u8; 32]>,
        port: u16,
        method: &str,
        target: &str,
        extra: &str,
    ) -> anyhow::Result<Vec<u8>> {
        let credential = match &self.signer {
            Some(signer) => signer.fields(exporter, port, method, target),
            None => String::new(),
        };
        Ok(format!("{method} {target} HTTP/1.1\r\nHost: server.bench\r\n{credential}{extra}\r\n").into_bytes())
    }
}

/// Signs requests with the `bound` credential (protocol.md): the scheme a node accepts by default.
#[derive(Clone)]
pub(crate) struct Signer {
    key: Key,
}

impl Signer {
    /// A signer for [`CONTAINER_NAME`] under the cluster's root secret.
    pub(crate) fn new(root: &str) -> Self {
        Self { key: Key::new(sign::container_key(root, CONTAINER_NAME).as_bytes()) }
    }

    /// The three credential fields for one request, good for one use in the next minute.
    fn fields(&self, exporter: Option<&[u8; 32]>, port: u16, method: &str, target: &str) -> String {
        let (time, nonce, port) = (sign::now(), next_nonce(), port.to_string());
        let call = Call { uuid: CONTAINER_NAME, port: &port, method, target };
        let mac = sign::bound_mac(&self.key, &call, exporter, &nonce, time);
        sign::fields(CONTAINER_NAME, &port, &sign::bound_value(&mac, &nonce, time))
    }
}

/// A nonce that no other request of this machine has had: the process, the time it started to count, and a count.
fn next_nonce() -> String {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static START: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let start = START.get_or_init(portsplice_testkit::wire::monotonic_ns);
    format!("{:08x}{start:016x}{:012x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_requests_differ_and_carry_all_three_fields() {
        let signer = Signer::new("root");
        let fields = || signer.fields(None, 8080, "GET", "/k");
        let (one, two) = (fields(), fields());
        assert_ne!(one, two);
        assert_eq!(one.lines().count(), 3);
        let mac = one.lines().nth(2).unwrap().split("s=").nth(1).unwrap();
        assert_eq!(mac.len(), 64);
    }
}
