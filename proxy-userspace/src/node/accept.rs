//! Listeners: accepts connections within the limits, does the TLS handshake, and gives each connection its task.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Socket, TcpKeepalive};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout_at;

use super::connections::Listed;
use super::ending::linger;
use super::reply::{self, Reply, ReplyOptions};
use super::session::{Session, TlsSession};
use super::{Node, NodeSettings};
use crate::gateway_error::GatewayError;
use crate::metrics::{Handshake, ListenerMetrics};
use portsplice_auth::Authenticator;
use portsplice_net::deadline::deadline;
use portsplice_net::drain::DrainWatch;
use portsplice_net::limits::Admission;
use portsplice_net::listen::{self, Listener};
use portsplice_net::sock::Sock;
use portsplice_net::tls;
use portsplice_net::tls::{TlsIdentity, TlsSlot};
use portsplice_relay::buffer::ReadBuffer;
use portsplice_relay::{Meter, Stream};

/// A peer that does not answer for about five minutes is dead, and its connection with it.
const KEEPALIVE: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(120)).with_interval(Duration::from_secs(30)).with_retries(6);

/// What the connections of one listener share.
#[derive(Debug)]
pub(super) struct Listening {
    tls: Option<Arc<TlsSlot>>,
    pub(super) authenticator: Arc<Authenticator>,
    metrics: ListenerMetrics,
}

impl Node {
    /// Accepts connections on `listener` until the drain begins; then the socket is closed. The connections go on as
    /// tasks of their own, each of which holds `drain` open.
    ///
    /// # Errors
    /// When the socket cannot be registered or has become unusable.
    pub async fn serve(self: Arc<Self>, listener: Listener, drain: DrainWatch) -> io::Result<()> {
        let label = listener.label()?;
        let metrics = self.metrics.listener(&label);
        let Listener { socket, tls, authenticator } = listener;
        // Accepted sockets inherit these; without them connections still work.
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_keepalive(&KEEPALIVE);
        let listening = Arc::new(Listening { tls, authenticator, metrics });
        let node = self.clone();
        let accepting =
            self.workers.acceptor().spawn(async move { node.accept(&label, socket, &listening, drain).await });
        // The task ends by itself, and is not aborted: an error here is a panic in it.
        accepting.await.map_err(io::Error::other)?
    }

    async fn accept(
        self: Arc<Self>,
        label: &str,
        socket: Socket,
        listening: &Arc<Listening>,
        drain: DrainWatch,
    ) -> io::Result<()> {
        let acceptor = Sock::new(socket)?;
        let acceptor = &acceptor;
        let accept = || poll_fn(|cx| acceptor.poll_readable(cx, Sock::accept));
        listen::accept_until_drain(label, &drain, accept, |(socket, peer)| self.admit(socket, peer, listening, &drain))
            .await
    }

    /// Starts the task of a new connection, or rejects it.
    fn admit(self: &Arc<Self>, socket: Socket, peer: SocketAddr, listening: &Arc<Listening>, drain: &DrainWatch) {
        let settings = self.settings.load();
        let admission = self.connections.admit(peer.ip(), settings.connections, settings.connections_per_client);
        // Here, so that numbers are in the order in which connections came.
        let admission = match admission {
            Ok(admission) => Ok((admission, self.table.open(peer, listening.tls.is_some()))),
            Err(scope) => {
                let error = GatewayError::Busy(scope);
                self.metrics.gateway_error(&error);
                match Arc::clone(&self.rejecting).try_acquire_owned() {
                    Ok(turn) if listening.tls.is_none() => Err((turn, error)),
                    _ => {
                        // A reset leaves nothing of it in the kernel either.
                        let _ = socket.set_linger(Some(Duration::ZERO));
                        return;
                    }
                }
            }
        };
        let (node, listening, drain) = (self.clone(), listening.clone(), drain.clone());
        let (worker, share) = self.workers.least_busy();
        worker.spawn(async move {
            // The socket is registered by the thread that will use it.
            let sock = match Sock::register(socket) {
                Ok(sock) => sock,
                Err(error) => return tracing::warn!(%peer, %error, "a new connection is dropped: its socket cannot be registered"),
            };
            match admission {
                Ok((admission, listed)) => node.connection(sock, listed, listening, drain, admission).await,
                Err((turn, error)) => reject_connection(sock, &error, turn).await,
            }
            drop(share);
        });
    }

    async fn connection(
        self: Arc<Self>,
        sock: Sock,
        listed: Listed,
        listening: Arc<Listening>,
        drain: DrainWatch,
        admission: Admission,
    ) {
        let _counted = listening.metrics.connection();
        let peer = listed.connection().peer();
        tracing::debug!(%peer, "connection accepted");
        let aborted = drain.clone();
        let served = async {
            let settings = self.settings.load_full();
            let identity = listening.tls.as_ref().map(|slot| slot.load_full());
            // Boxed, as all that a waiting connection does not need: its task is as small as that of the wait.
            let Some((client, tls_session)) = Box::pin(self.secure(sock, identity, &settings, peer)).await else {
                return;
            };
            let mut session = Session {
                node: self.clone(),
                listening,
                client,
                peer,
                tls_session,
                drain,
                read: ReadBuffer::default(),
                upstream: None,
                connection: Arc::clone(listed.connection()),
            };
            drop(settings);
            session.run().await;
        };
        tokio::select! {
            () = served => {}
            () = aborted.abort() => tracing::debug!(%peer, "connection aborted: drain deadline reached"),
            () = listed.connection().closed() => tracing::info!(%peer, "connection closed through the control socket"),
        }
        tracing::debug!(%peer, "connection closed");
        drop(admission);
    }

    /// The stream of a new connection, after the handshake where there is TLS.
    async fn secure(
        &self,
        sock: Sock,
        identity: Option<Arc<TlsIdentity>>,
        settings: &NodeSettings,
        peer: SocketAddr,
    ) -> Option<(Stream, Option<TlsSession>)> {
        let Some(identity) = identity else { return Some((Stream::Plain(sock), None)) };
        let began = Instant::now();
        let accepted = timeout_at(deadline(settings.timeouts.handshake), identity.acceptor.accept(sock)).await;
        let (result, stream) = match accepted {
            Ok(Ok(stream)) => match tls::exporter(stream.get_ref().1) {
                Some(exporter) => (Handshake::Done, Some((stream, exporter))),
                // Nothing would tie its requests to it.
                None => {
                    tracing::debug!(%peer, "TLS handshake without an exporter");
                    (Handshake::Failed, None)
                }
            },
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                (Handshake::Failed, None)
            }
            Err(_) => {
                tracing::debug!(%peer, "TLS handshake timed out");
                (Handshake::Timeout, None)
            }
        };
        self.metrics.handshake(result, began.elapsed());
        let (stream, exporter) = stream?;
        Some((Stream::tls(tokio_rustls::TlsStream::Server(stream)), Some(TlsSession { exporter, identity })))
    }
}

/// Tells a client beyond the caps to come back. There is one `turn` for each that is told at a time: what a refused
/// connection costs is no more bounded by the caps.
async fn reject_connection(sock: Sock, error: &GatewayError, turn: OwnedSemaphorePermit) {
    let client = Stream::Plain(sock);
    if let Some(token) = Reply::default().begin() {
        let options = ReplyOptions { close: true, ..ReplyOptions::default() };
        let meter = Meter::default();
        let written = reply::reject(token, &client, &meter, error, options);
        // A fresh connection takes these few bytes at once or never.
        let _ = tokio::time::timeout(Duration::from_secs(1), written).await;
        if client.shutdown().await.is_ok() {
            linger(&client).await;
        }
    }
    drop((client, turn));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of the future that a function of so many arguments returns, without calling it.
    fn future_size<A, B, C, D, E, F, Future>(_: impl FnOnce(A, B, C, D, E, F) -> Future) -> usize {
        size_of::<Future>()
    }

    #[test]
    fn a_connection_is_small() {
        // All a plain connection keeps while it waits is its task, the registration of two sockets (about 300 bytes
        // each) and its place in the limits: together far below the 16 KiB that an idle one may cost.
        let size = future_size(Node::connection);
        assert!(size <= 1536, "the future of a connection has grown to {size} bytes");
    }
}
