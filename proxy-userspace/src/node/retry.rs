//! Whether a request whose connection has ended may be sent a second time.
//!
//! A server gives up an idle connection at about the moment at which the next request is sent on it. The request may then go out
//! on a new connection, but only if the server cannot have begun it: that a connection ended before an answer came does not say so,
//! since a server that dies at work ends it too. What does say so is that the end was on its way before the request arrived: no octet
//! of the request is acknowledged, by an end that acknowledges all that came before it.

use super::upload::UploadState;
use portsplice_relay::Stream;

/// What is known of a connection before a request goes out on it.
pub(super) struct Retry<'a> {
    upstream: &'a Stream,
    /// Octets of the request; with TLS nobody knows before.
    length: Option<u64>,
    /// Octets sent before it, where its length is not known.
    sent_before: Option<u64>,
}

impl<'a> Retry<'a> {
    /// A request without a body, whose head is so many octets, is about to go out on `origin`.
    pub(super) fn new(upstream: &'a Stream, head: usize) -> Self {
        match upstream.plain() {
            Some(_) => Self { upstream, length: Some(head as u64), sent_before: None },
            None => Self { upstream, length: None, sent_before: upstream.flight().map(|flight| flight.sent) },
        }
    }

    /// Whether the server cannot have begun it. `in_order`: the connection ended with a FIN, whether or not a reset came behind it.
    pub(super) fn is_safe(&self, upload_state: &UploadState, in_order: bool) -> bool {
        // A client that has gone asks for nothing again.
        if upload_state.ended() {
            return false;
        }
        if upload_state.refused_all() && self.upstream.plain().is_some() {
            return true;
        }
        let Some(flight) = self.upstream.flight() else { return false };
        match (self.length, self.sent_before) {
            // A reset acknowledges nothing, so that it proves nothing either.
            (Some(length), _) => in_order && flight.unacknowledged >= length,
            (None, Some(before)) => {
                let request = flight.sent.saturating_sub(before);
                request == 0 || in_order && flight.unacknowledged >= request
            }
            (None, None) => false,
        }
    }
}
