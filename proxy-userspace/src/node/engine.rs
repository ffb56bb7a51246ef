//! The ways that bytes can take on a node.

use std::sync::Arc;

use portsplice_bpf::{Flows, InNamespace};
use portsplice_discovery::container::Container;
use portsplice_relay::fast::{Fast, Policy};
use portsplice_relay::pipe::PipePool;

/// What all relays of a node share.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Pipes for splice(2); without them everything is copied.
    pub pipes: Option<Arc<PipePool>>,
    /// The fast path; without it everything passes this process.
    pub fast: Option<FastPath>,
}

/// The fast path of this node.
#[derive(Debug, Clone)]
pub struct FastPath {
    /// The kernel's side.
    pub flows: Arc<Flows>,
    /// When it is worth its price.
    pub policy: Policy,
}

impl Engine {
    /// The fast path for a container's responses, if they may take it.
    pub(super) fn fast_for<'a>(&'a self, container: &'a Container) -> Option<FastFor<'a>> {
        let FastPath { flows, policy } = self.fast.as_ref().filter(|_| !container.policy.no_fast_path)?;
        Some(FastFor { bypass: flows.within(&container.netns), policy: *policy })
    }
}

/// The fast path for the responses of one container.
pub(super) struct FastFor<'a> {
    bypass: InNamespace<'a>,
    policy: Policy,
}

impl FastFor<'_> {
    /// As the relay takes it.
    pub(super) fn relay(&self) -> Fast<'_> {
        Fast { bypass: &self.bypass, policy: self.policy }
    }
}
