//! What a message is refused for.

/// Which of a head's limits is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The octets of the whole head.
    HeadBytes,
    /// The number of field lines.
    Fields,
    /// The octets of one field line.
    FieldBytes,
}

/// Why a head or a part of it is refused, before it is known whether it is a request's or a response's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadError {
    Malformed(&'static str),
    TooLarge(Bound),
}

/// Why a request head is refused. Nothing here holds bytes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is not strictly RFC 9112, or its framing could be read in two ways; the text says what is wrong.
    #[error("{0}")]
    Malformed(&'static str),
    /// It exceeds a limit.
    #[error("the head exceeds a limit: {0:?}")]
    TooLarge(Bound),
    /// The request target is longer than the limit.
    #[error("the request target is too long")]
    TargetTooLong,
    /// A transfer coding other than `chunked` alone.
    #[error("the transfer coding is not supported")]
    UnsupportedTransferCoding,
    /// A version of HTTP other than 1.0 and 1.1.
    #[error("the HTTP version is not supported")]
    UnsupportedVersion,
    /// CONNECT: this is no forward proxy.
    #[error("CONNECT is not supported")]
    ConnectRefused,
    /// An `Expect` other than `100-continue`.
    #[error("the expectation is not supported")]
    ExpectationFailed,
    /// The credential's fields are not there once each.
    #[error("{0}")]
    Credential(#[from] CredentialError),
}

/// What is wrong with the credential's three fields, before any key is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// One of the three is missing or empty.
    #[error("a credential field is missing")]
    Missing,
    /// One of the three is there more than once.
    #[error("a credential field is repeated")]
    Duplicate,
    /// `X-Arvados-Authorization` is not visible ASCII.
    #[error("the credential is not ASCII")]
    Malformed,
}

impl From<HeadError> for RequestError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(why) => Self::Malformed(why),
            HeadError::TooLarge(bound) => Self::TooLarge(bound),
        }
    }
}

/// Why a container's response is not taken. The connection to the container ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseFault {
    /// It is no legal HTTP/1.1: a clause about it, such as "it has no status line"; never holds bytes of the answer.
    #[error("{0}")]
    Malformed(&'static str),
    /// Its head exceeds this limit.
    #[error("its header exceeds a limit: {0:?}")]
    TooLarge(Bound),
}

impl ResponseFault {
    /// `why` is a clause about the answer.
    pub(crate) const fn new(why: &'static str) -> Self {
        Self::Malformed(why)
    }
}

impl From<HeadError> for ResponseFault {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(why) => Self::Malformed(why),
            HeadError::TooLarge(bound) => Self::TooLarge(bound),
        }
    }
}
