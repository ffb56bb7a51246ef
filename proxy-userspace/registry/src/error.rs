//! What can go wrong with a store.

use portsplice_model::Hostname;
use portsplice_net::client::HttpError;

/// Why a store could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// It is away, slow, or in the middle of something: try again.
    #[error("the registry cannot be reached: {0}")]
    Unavailable(String),
    /// It refuses, and will again until somebody changes something.
    #[error("the registry refuses: {0}")]
    Refused(String),
    /// What it holds cannot be understood.
    #[error("the registry holds what this version does not understand: {0}")]
    Corrupt(String),
    /// A fault of this program.
    #[error("this is a fault of Portsplice; please report it: {0}")]
    Internal(String),
}

impl StoreError {
    /// Whether trying again may help without anybody's doing.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<HttpError> for StoreError {
    fn from(error: HttpError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// Why a link could not be added or removed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// Another link has this host name.
    #[error("the host name {0} is taken; choose another")]
    Taken(Hostname),
    /// There is no such link.
    #[error("there is no link with the host name {0}")]
    Missing(Hostname),
    /// It belongs to somebody else.
    #[error("the link {0} belongs to somebody else; its owner or an administrator can remove it")]
    NotYours(Hostname),
    /// The store itself.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_network_does_may_pass_by_itself() {
        let server: portsplice_model::url::Url = "http://127.0.0.1:1".parse().unwrap();
        let error = HttpError::Connect { server, problem: "refused".into() };
        assert!(StoreError::from(error).is_transient());
    }
}
