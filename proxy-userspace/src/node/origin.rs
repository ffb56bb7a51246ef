//! A connection to a container's port, kept for the next request to the same one.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use crate::container::{ConnectionSlot, Container};
use crate::relay::Stream;
use crate::relay::buffer::ReadBuffer;

/// An open connection into a container.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) stream: Stream,
    pub(super) container: Arc<Container>,
    pub(super) port: u16,
    /// What was read of it and not used yet: nothing, between two requests.
    pub(super) read: ReadBuffer,
    /// Whether a request was already answered on it: such a connection may be found closed without anybody's fault.
    pub(super) used: bool,
    /// Its place under the container's cap.
    _slot: ConnectionSlot,
}

impl Origin {
    pub(super) fn new(stream: Stream, container: Arc<Container>, port: u16, slot: ConnectionSlot) -> Self {
        Self { stream, container, port, read: ReadBuffer::default(), used: false, _slot: slot }
    }

    /// Whether a request for `port` of `container` can go out on this connection: the same instance of the container,
    /// and neither an end nor a byte nobody asked for has come meanwhile.
    ///
    /// `surely`: asks the kernel itself, because the request cannot be sent a second time. What the reactor knows is a
    /// moment old, which is good enough for a request that can.
    pub(super) async fn serves(&self, container: &Arc<Container>, port: u16, surely: bool) -> bool {
        Arc::ptr_eq(&self.container, container)
            && self.port == port
            && !container.is_gone()
            && self.read.is_empty()
            && poll_fn(|cx| Poll::Ready(self.stream.poll_disturbed(cx).is_pending())).await
            && !(surely && self.stream.has_news())
    }
}
