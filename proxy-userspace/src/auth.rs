//! The three credentials of the wire protocol, checked for every request.

/// Why a credential is not accepted (401).
///
/// Whether the key is unknown or the MAC wrong is one case: the answer must not tell whose keys this node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthFailure {
    /// One of the three fields is missing or empty.
    Missing,
    /// One of the three fields is there more than once.
    Duplicate,
    /// The credential has the form of no scheme that this listener accepts.
    Malformed,
    /// The MAC is not what the key gives, or there is no such key.
    Wrong,
    /// The MAC is good, the time is too far from the node's clock.
    Stale,
    /// The MAC is good, the nonce was used before.
    Replayed,
}

impl AuthFailure {
    /// The label in metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing => "credential_missing",
            Self::Duplicate => "credential_duplicate",
            Self::Malformed => "credential_malformed",
            Self::Wrong => "credential_wrong",
            Self::Stale => "credential_stale",
            Self::Replayed => "credential_replayed",
        }
    }

    /// One line that says what to do next.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Missing => {
                "Send X-Arvados-Container-Gateway-Uuid, X-Arvados-Container-Target-Port and X-Arvados-Authorization with every request."
            }
            Self::Duplicate => "Send each of the three X-Arvados-* credential fields exactly once.",
            Self::Malformed => {
                "X-Arvados-Authorization has no form that this listener accepts. Check which scheme it expects."
            }
            Self::Wrong => {
                "The credential does not fit this request. Check the key, and that container, port, method and target are the signed ones."
            }
            Self::Stale => {
                "The credential is too old or from the future. Compare the two clocks, and sign the request again."
            }
            Self::Replayed => "The credential was used before. Sign each request anew, with a new nonce.",
        }
    }
}
