//! What can go wrong with a store.

use std::error::Error;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use portsplice_model::Hostname;
use portsplice_net::client::HttpError;

/// Why a store could not be read or written. Its text is whole: what its source says is in it already.
#[derive(Clone, Debug)]
pub enum StoreError {
    /// It is away, slow, or in the middle of something: try again.
    Unavailable(Reason),
    /// It refuses, and will again until somebody changes something.
    Refused(Reason),
    /// What it holds cannot be understood.
    Corrupt(Reason),
    /// A fault of this program.
    Internal(Reason),
}

/// What is wrong in words, as which it can be read, and the error behind them where there is one. One report fails for
/// several who wait for it, so that the error is shared.
#[derive(Clone, Debug)]
pub struct Reason {
    text: String,
    cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl Deref for Reason {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

impl StoreError {
    /// Of a store that is away.
    pub fn unavailable(text: impl Into<String>) -> Self {
        Self::Unavailable(Reason { text: text.into(), cause: None })
    }

    /// Of a store that refuses.
    pub fn refused(text: impl Into<String>) -> Self {
        Self::Refused(Reason { text: text.into(), cause: None })
    }

    /// Of a store that holds something else.
    pub fn corrupt(text: impl Into<String>) -> Self {
        Self::Corrupt(Reason { text: text.into(), cause: None })
    }

    /// Of this program.
    pub fn internal(text: impl Into<String>) -> Self {
        Self::Internal(Reason { text: text.into(), cause: None })
    }

    /// The same with its source, whose text must be in this one's.
    #[must_use]
    pub fn because(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.reason_mut().cause = Some(Arc::new(cause));
        self
    }

    /// The same of `place`, which its text then begins with.
    #[must_use]
    pub(crate) fn of(mut self, place: impl fmt::Display) -> Self {
        let reason = self.reason_mut();
        reason.text = format!("{place}: {}", reason.text);
        self
    }

    /// Whether trying again may help without anybody's doing.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    fn reason(&self) -> &Reason {
        match self {
            Self::Unavailable(reason) | Self::Refused(reason) | Self::Corrupt(reason) | Self::Internal(reason) => {
                reason
            }
        }
    }

    fn reason_mut(&mut self) -> &mut Reason {
        match self {
            Self::Unavailable(reason) | Self::Refused(reason) | Self::Corrupt(reason) | Self::Internal(reason) => {
                reason
            }
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Unavailable(_) => "the registry is unreachable",
            Self::Refused(_) => "the registry rejected this",
            Self::Corrupt(_) => "the registry contains data that this version cannot read",
            Self::Internal(_) => "internal error, please report it",
        };
        write!(f, "{what}: {}", self.reason().text)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.reason().cause.as_deref().map(|cause| cause as &(dyn Error + 'static))
    }
}

impl From<HttpError> for StoreError {
    fn from(error: HttpError) -> Self {
        Self::unavailable(error.to_string()).because(error)
    }
}

/// Why a link could not be added or removed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// Another link has this host name.
    #[error("the host name {0} is taken; choose another")]
    Taken(Hostname),
    /// There is no such link.
    #[error("no link has the host name {0}")]
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

    #[test]
    fn clones_share_the_source_and_no_text_is_said_twice() {
        let cause = std::io::Error::other("no room");
        let error = StoreError::refused(format!("a record: {cause}")).because(cause).of("x.db");
        let error = LinkError::from(error.clone());
        assert_eq!(error.source().unwrap().to_string(), "no room");
        assert_eq!(portsplice_model::error_line(&error), "the registry rejected this: x.db: a record: no room");
    }
}
