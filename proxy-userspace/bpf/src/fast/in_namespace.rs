//! The fast path as the relay wants it: for the servers of one network namespace.

use std::sync::Arc;

use super::flows::Flows;
use super::kernel_flow::Request;
use portsplice_net::netns::Netns;
use portsplice_relay::UNTIL_END;
use portsplice_relay::bypass::{AttachError, Bypass, BypassRequest, FastFlow, Framing};

const _: () = assert!(UNTIL_END == proxy_common::Flow::UNTIL_END);

/// The fast path for the servers of one network namespace.
#[derive(Debug, Clone, Copy)]
pub struct InNamespace<'a> {
    pub(super) flows: &'a Arc<Flows>,
    pub(super) netns: &'a Netns,
}

impl Bypass for InNamespace<'_> {
    fn open(&self, request: &BypassRequest<'_>) -> Result<Arc<dyn FastFlow>, AttachError> {
        let framing = match request.framing {
            Framing::Plain => proxy_common::Framing::Plain,
            Framing::Chunked => proxy_common::Framing::Chunked,
        };
        let flow = self.flows.open(&Request {
            netns: self.netns,
            client: &request.client.socket(),
            upstream: &request.upstream.socket(),
            framing,
            budget: request.budget,
            server: request.server,
        })?;
        Ok(Arc::new(flow))
    }

    fn needs_quiet_server(&self) -> bool {
        self.flows.quirks().fionread
    }
}
