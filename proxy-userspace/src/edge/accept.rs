//! Connections: admitted within the caps, their TLS handshakes done, and one HTTP/1.1 conversation each.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portsplice_net::sock::canonical;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout_at;

use super::Edge;
use super::records::Caller;
use crate::gateway_error::GatewayError;
use crate::metrics::{Handshake, ListenerMetrics};
use portsplice_auth::{Authenticator, Channel};
use portsplice_net::deadline::deadline;
use portsplice_net::drain::DrainWatch;
use portsplice_net::listen::{self, Listener};
use portsplice_net::tls::{self, TlsSlot};

/// Longest head of a request, in bytes; the longest that anybody needs is below 1 KiB.
const HEAD_BYTES: usize = 16 * 1024;

struct Listening {
    tls: Option<Arc<TlsSlot>>,
    authenticator: Arc<Authenticator>,
    metrics: ListenerMetrics,
}

impl Edge {
    /// Accepts connections on `listener` until the drain begins; then the socket is closed. The connections go on as
    /// tasks of their own, each of which holds `drain` open.
    ///
    /// # Errors
    /// When the socket cannot be registered or has become unusable.
    pub async fn serve(self: Arc<Self>, listener: Listener, drain: DrainWatch) -> io::Result<()> {
        let label = listener.label()?;
        let metrics = self.metrics.listener(&label);
        let Listener { socket, tls, authenticator } = listener;
        let socket = TcpListener::from_std(socket.into())?;
        let listening = Arc::new(Listening { tls, authenticator, metrics });
        let admit = |(stream, peer)| self.admit(stream, canonical(peer), &listening, &drain);
        listen::accept_until_drain(&label, &drain, || socket.accept(), admit).await
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, listening: &Arc<Listening>, drain: &DrainWatch) {
        let limits = self.settings.load().limits;
        match self.connections.admit(peer.ip(), limits.connections, limits.connections_per_client) {
            Ok(place) => {
                let (edge, listening, drain) = (Arc::clone(self), Arc::clone(listening), drain.clone());
                tokio::spawn(async move {
                    let _counted = listening.metrics.connection();
                    tokio::select! {
                        () = edge.connection(stream, peer, &listening, &drain) => {}
                        () = drain.abort() => {}
                    }
                    drop(place);
                });
            }
            // A node tries again by itself, and slower each time.
            Err(scope) => self.metrics.gateway_error(&GatewayError::Busy(scope)),
        }
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr, listening: &Listening, drain: &DrainWatch) {
        let _ = stream.set_nodelay(true);
        let authenticator = &*listening.authenticator;
        let Some(slot) = &listening.tls else {
            return self
                .converse(stream, peer, Caller { authenticator, channel: Channel::Plain, address: peer.ip() }, drain)
                .await;
        };
        let identity = slot.load_full();
        let began = Instant::now();
        let within = deadline(self.settings.load().limits.handshake_timeout);
        let (result, stream) = match timeout_at(within, identity.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => (Handshake::Done, Some(stream)),
            Ok(Err(error)) => {
                tracing::debug!(%peer, %error, "TLS handshake failed");
                (Handshake::Failed, None)
            }
            Err(_) => (Handshake::Timeout, None),
        };
        self.metrics.handshake(result, began.elapsed());
        let Some(stream) = stream else { return };
        // Nothing would tie the requests to a connection without one.
        let Some(exporter) = tls::exporter(stream.get_ref().1) else { return };
        let channel = Channel::Tls { exporter: &exporter, certificate: &identity.certificate_der };
        self.converse(stream, peer, Caller { authenticator, channel, address: peer.ip() }, drain).await;
    }

    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        peer: SocketAddr,
        caller: Caller<'_>,
        drain: &DrainWatch,
    ) {
        let caller = &caller;
        let service = service_fn(move |request| async move { Ok::<_, Infallible>(self.answer(request, caller).await) });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).max_buf_size(HEAD_BYTES);
        let keep_alive = self.settings.load().limits.keep_alive_timeout;
        // The wait for a head counts from the end of the response before it.
        http.header_read_timeout((!keep_alive.is_zero()).then_some(keep_alive));
        let mut conversation = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
        let ended = tokio::select! {
            ended = conversation.as_mut() => ended,
            () = drain.started() => {
                conversation.as_mut().graceful_shutdown();
                conversation.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection failed");
        }
    }
}
