//! What a policy or a cap says no to.

/// Why a policy forbids a connection permanently (403).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The container accepts no connections at all (`portsplice.deny`).
    Denied,
    /// The port is not on the container's list of allowed ports.
    Port,
    /// The container shares the host's network and the configuration does not allow that.
    HostNetwork,
    /// The container's own cap on connections is zero.
    NoConnections,
}

impl Denied {
    /// The label in metrics and logs.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Port => "denied_port",
            Self::HostNetwork => "denied_host_network",
            Self::NoConnections => "denied_no_connections",
        }
    }
}

/// Whose cap on connections is reached for the moment (503).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole node.
    Node,
    /// The container named by the request.
    Container,
    /// The client's address.
    Client,
}
