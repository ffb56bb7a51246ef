//! Which TCP ports are listening in which container.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use crate::netns::NetnsId;
pub use crate::registry::ListeningPort;

/// The listening ports of all namespaces that have containers.
#[derive(Debug, Default)]
pub struct Ports {
    listening: RwLock<HashMap<NetnsId, Arc<[ListeningPort]>>>,
}

impl Ports {
    /// What listens in a namespace, in the order of ports and addresses.
    pub fn of(&self, netns: NetnsId) -> Arc<[ListeningPort]> {
        self.listening.read().get(&netns).cloned().unwrap_or_default()
    }
}
