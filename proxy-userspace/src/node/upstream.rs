//! A connection to a container's port, kept for the next request to the same one.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::Instant;

use super::secure::server_name;
use portsplice_discovery::container::{ConnectionSlot, Container};
use portsplice_net::deadline::after;
use portsplice_relay::Stream;
use portsplice_relay::buffer::ReadBuffer;

/// How long before a server gives an idle connection up no request goes out on it any more.
const MARGIN: Duration = Duration::from_secs(1);

/// An open connection into a container.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) stream: Stream,
    pub(super) container: Arc<Container>,
    pub(super) port: u16,
    /// With TLS: by which name its server was asked for.
    name: Option<ServerName<'static>>,
    /// What was read of it and not used yet: nothing, between two requests.
    pub(super) read: ReadBuffer,
    /// Whether a request was already answered on it: such a connection may be found closed without anybody's fault.
    pub(super) used: bool,
    /// How long its server keeps it without a request, as far as that has said so.
    pub(super) keep_alive: Option<Duration>,
    /// Between two requests: when it is given up.
    until: Instant,
    /// Its slot under the container's cap.
    slot: ConnectionSlot,
}

impl Upstream {
    pub(super) fn new(
        stream: Stream,
        container: Arc<Container>,
        port: u16,
        name: Option<ServerName<'static>>,
        slot: ConnectionSlot,
    ) -> Self {
        let read = ReadBuffer::default();
        Self { stream, container, port, name, read, used: false, keep_alive: None, until: Instant::now(), slot }
    }

    /// Keeps it for another request, for as long as it should be: for `idle` (zero is no limit), and not until its server's
    /// patience ends. `answered` is when the answer began: its server may have been idle since then, since what a client has not
    /// taken waits in the kernel and not in the server.
    pub(super) fn keep(mut self, idle: Duration, answered: Instant) -> Option<Self> {
        self.until = after(answered, idle);
        if let Some(keep_alive) = self.keep_alive {
            self.until = self.until.min(answered + keep_alive.saturating_sub(MARGIN));
        }
        self.used = true;
        (Instant::now() < self.until && self.slot.rest()).then_some(self)
    }

    /// Until when it is kept.
    pub(super) fn kept_until(&self) -> Instant {
        self.until
    }

    /// Ready when it is not to be kept any longer, its time apart: it has ended, or brings what nobody has asked for, or its place
    /// is wanted.
    pub(super) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.slot.poll_wanted(cx).is_ready() { Poll::Ready(()) } else { self.stream.poll_disturbed(cx) }
    }

    /// Takes it for a request to `port` of `container`, if that can go out on it: it leads to the same instance of the container, with
    /// TLS by the same name as `host` has (a server may answer 421 to another, RFC 9110 15.5.20), is not to be given up, and
    /// neither an end nor a byte nobody asked for has come meanwhile.
    ///
    /// `surely`: asks the kernel itself, because the request cannot be sent a second time. What the reactor knows is a
    /// moment old, which is good enough for a request that can.
    pub(super) async fn resume(self, container: &Arc<Container>, port: u16, host: &str, surely: bool) -> Option<Self> {
        let serves = Arc::ptr_eq(&self.container, container)
            && self.port == port
            && self.name.as_ref().is_none_or(|name| *name == server_name(host))
            && !container.is_gone()
            && self.read.is_empty()
            && Instant::now() < self.until
            && self.slot.resume()
            && poll_fn(|cx| Poll::Ready(self.stream.poll_disturbed(cx).is_pending())).await
            && !(surely && self.stream.has_news());
        serves.then_some(self)
    }
}
