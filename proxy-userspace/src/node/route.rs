//! From a container's name and port to an open connection, or to the reason why there is none.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::secure::{handshake_error, server_name};
use super::upstream::Upstream;
use super::{Node, NodeSettings};
use crate::gateway_error::{GatewayError, Unreached};
use crate::metrics::Dialed;
use portsplice_discovery::container::{Container, ResolveError, UpstreamScheme};
use portsplice_model::Scope;
use portsplice_net::deadline::deadline;
use portsplice_net::netns::DialError;
use portsplice_net::sock::Sock;
use portsplice_relay::Stream;

/// The first pause of a request that waits for a listener; each further one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Whether a connection carries HTTP (in TLS where the container wants it) or the port's raw bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose<'r> {
    Http {
        /// The request's `Host`.
        host: &'r str,
    },
    Tunnel,
}

/// What to say of a container that let a time pass: that it is paused, if it is.
pub(super) fn paused_or(container: &Container, otherwise: GatewayError) -> GatewayError {
    if container.is_paused() { GatewayError::Paused } else { otherwise }
}

impl Node {
    /// The container `name`, if it runs here and its policy allows connections to `port`.
    pub(super) async fn find(&self, name: &str, port: u16) -> Result<Arc<Container>, GatewayError> {
        let container = self.containers.resolve(name).await.map_err(|error| match error {
            ResolveError::NotOnThisNode => GatewayError::NotOnThisNode,
            ResolveError::Ambiguous => GatewayError::Ambiguous,
            ResolveError::EngineUnavailable => GatewayError::EngineUnavailable,
        })?;
        container.policy.check(port).map_err(GatewayError::Forbidden)?;
        Ok(container)
    }

    /// Opens a connection to `port` of `container` for `client`, waiting for a listener as long as the settings hold a request.
    pub(super) async fn connect(
        &self,
        settings: &NodeSettings,
        client: &Stream,
        container: Arc<Container>,
        port: u16,
        purpose: Purpose<'_>,
    ) -> Result<Upstream, GatewayError> {
        let slot = container
            .acquire(port, NonZeroU32::new(settings.connections_per_container).map(NonZeroU32::get))
            .await
            .ok_or(GatewayError::Busy(Scope::Container))?;
        let mut dialed = self.dial(settings, &container, port).await;
        if matches!(dialed, Err(DialError::NotListening | DialError::Unknown(_))) && !settings.wait_for_port.is_zero() {
            // Boxed, so that requests that need not wait do not hold the memory of one that does.
            dialed = Box::pin(self.wait_for_port(settings, client, &container, port)).await;
        }
        let sock = dialed.map_err(|error| match error {
            DialError::NotListening => GatewayError::NotListening,
            DialError::Timeout => paused_or(&container, GatewayError::ConnectTimeout),
            DialError::LoopbackDown => GatewayError::Unreachable(Unreached::LoopbackDown),
            DialError::Foreign(address) => GatewayError::Unreachable(Unreached::Foreign(address)),
            DialError::LoopbackOnly => GatewayError::Unreachable(Unreached::LoopbackOnly),
            DialError::NoAddress => GatewayError::Unreachable(Unreached::NoAddress),
            error @ (DialError::Io(_) | DialError::Unknown(_)) => {
                tracing::warn!(container = %container.name, port, %error, "cannot connect into the container");
                GatewayError::Unreachable(Unreached::Other)
            }
        })?;
        let upstream = |stream, name| Upstream::new(stream, container.clone(), port, name, slot);
        match (purpose, container.policy.scheme(port)) {
            (Purpose::Http { host }, UpstreamScheme::Https) => {
                let name = server_name(host);
                let stream = self.secure_upstream(settings, &container, port, name.clone(), sock).await?;
                Ok(upstream(stream, Some(name)))
            }
            _ => Ok(upstream(Stream::Plain(sock), None)),
        }
    }

    async fn secure_upstream(
        &self,
        settings: &NodeSettings,
        container: &Container,
        port: u16,
        name: ServerName<'static>,
        sock: Sock,
    ) -> Result<Stream, GatewayError> {
        let shown = name.to_str().into_owned();
        match timeout_at(deadline(settings.timeouts.connect), self.upstreams.secure(name, sock)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                tracing::debug!(container = %container.name, port, name = shown, %error, "TLS handshake with the container failed");
                Err(handshake_error(&error))
            }
            Err(_) => Err(paused_or(container, GatewayError::ConnectTimeout)),
        }
    }

    /// Tries again and again while nothing listens on the port, as long as the settings say and both the container and the
    /// client are there: at once when something is known to have begun to listen, and after pauses in any case, since that may
    /// come late or never. A client that has ended its direction counts as gone; should it still read, it gets an answer.
    async fn wait_for_port(
        &self,
        settings: &NodeSettings,
        client: &Stream,
        container: &Container,
        port: u16,
    ) -> Result<Sock, DialError> {
        let until = Instant::now() + settings.wait_for_port;
        let mut pause = FIRST_PAUSE;
        // Before the next attempt, so that nothing happens unseen in between.
        let mut port_watch = self.ports.watch(container.netns.id());
        loop {
            match self.dial(settings, container, port).await {
                Err(DialError::NotListening | DialError::Unknown(_))
                    if Instant::now() < until && !client.peer_has_ended() => {}
                dialed => return dialed,
            }
            tokio::select! {
                () = port_watch.opened(port) => {}
                () = sleep_until(until.min(Instant::now() + pause)) => pause = (pause * 2).min(LONGEST_PAUSE),
                () = container.gone() => return Err(DialError::NotListening),
                () = client.ended() => return Err(DialError::NotListening),
            }
        }
    }

    async fn dial(&self, settings: &NodeSettings, container: &Container, port: u16) -> Result<Sock, DialError> {
        if container.is_gone() {
            return Err(DialError::NotListening);
        }
        let began = Instant::now();
        let result = container.dial(port, settings.timeouts.connect).await;
        let counted = match &result {
            Ok(_) => Dialed::Connected,
            Err(DialError::NotListening) => Dialed::NotListening,
            Err(DialError::Timeout) => Dialed::Timeout,
            Err(
                DialError::LoopbackDown
                | DialError::Foreign(_)
                | DialError::LoopbackOnly
                | DialError::NoAddress
                | DialError::Io(_)
                | DialError::Unknown(_),
            ) => Dialed::Failed,
        };
        self.metrics.dialed(counted, began.elapsed());
        if matches!(result, Err(DialError::NotListening)) {
            self.ports.refused(container.netns.id(), port);
        }
        result
    }
}
