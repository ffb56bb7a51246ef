//! The three credentials of the wire protocol, checked for every request.
//!
//! Nothing here does input or output but [`Keyring::load`], and nothing reads a clock: the caller says what time it is.
//! Every comparison of a MAC takes the same time wherever the two differ. Keys are wiped when they are dropped, and
//! `Debug` shows none.

mod bound;
mod certificate;
mod key;
mod keyring;
mod replay;
pub mod sign;
mod timestamp;
pub mod used_file;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use replay::Nonce;

pub use key::{ContainerKey, InvalidKey, RootKey};
pub use keyring::{KeySources, Keyring, KeyringError, NODE, RegisteredKeys};
pub use replay::{Keeper, NonceKey, ReplayMemory, Used};

/// What the connection, other than the request, contributes to a credential. A TLS connection without an exporter cannot
/// be written down: it would take credentials that were signed for plain TCP.
#[derive(Debug, Clone, Copy)]
pub enum Channel<'a> {
    /// Plain TCP contributes nothing.
    Plain,
    /// TLS.
    Tls {
        /// The exporter of the connection (RFC 9266, label `EXPORTER-Channel-Binding`).
        exporter: &'a [u8; 32],
        /// The leaf certificate that the gateway presented, DER.
        certificate: &'a [u8],
    },
}

/// What a request presents and a credential covers.
#[derive(Clone, Copy)]
pub struct Presented<'a> {
    /// The container's name as the request gives it.
    pub uuid: &'a str,
    /// The port inside it.
    pub port: u16,
    /// The request's method.
    pub method: &'a str,
    /// The request's target as received.
    pub target: &'a str,
    /// The value of `X-Arvados-Authorization`.
    pub authorization: &'a str,
}

/// A way to prove that the controller wants a request; which are accepted is decided per listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// A MAC of the gateway's certificate under the container's key; needs TLS.
    Certificate,
    /// A MAC of nonce and time under the root secret. It binds neither container nor port.
    Timestamp,
    /// A MAC of nonce, time, container, port, method, target and TLS channel under the container's key.
    Bound,
}

/// A credential that was good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The gateway's own proof, the value of `X-Arvados-Authorization-Response` on every response to this request. The
    /// `timestamp` scheme has none.
    pub response: Option<String>,
    /// The scheme by which it was granted.
    pub scheme: Scheme,
}

/// Checks the credentials of one listener. Keys and replay memory are shared between listeners.
#[derive(Debug, Clone)]
pub struct Authenticator {
    schemes: Vec<Scheme>,
    keyring: Arc<ArcSwap<Keyring>>,
    replay: Arc<ReplayMemory>,
    window: u64,
}

impl Authenticator {
    /// Accepts `schemes` only. `window` is how far the time of a credential may be from the node's, either way.
    #[must_use]
    pub fn new(
        schemes: &[Scheme],
        keyring: Arc<ArcSwap<Keyring>>,
        replay: Arc<ReplayMemory>,
        window: Duration,
    ) -> Self {
        Self { schemes: schemes.to_vec(), keyring, replay, window: window.as_secs() }
    }

    /// Checks what a request presents at `now_unix` seconds since 1970.
    ///
    /// # Errors
    /// Why the credential is not accepted. A credential whose MAC is not good costs no memory.
    pub fn check(&self, p: &Presented<'_>, channel: &Channel<'_>, now_unix: u64) -> Result<Granted, AuthFailure> {
        let keyring = self.keyring.load();
        let scheme = Scheme::of(p.authorization);
        if !self.schemes.contains(&scheme) {
            return Err(AuthFailure::Malformed);
        }
        let response = match scheme {
            Scheme::Certificate => Some(certificate::check(p, channel, &keyring)?),
            Scheme::Timestamp => {
                let good = timestamp::check(p.authorization, &keyring)?;
                let nonce = Nonce { identity: "", nonce: good.nonce, holds_elsewhere: true };
                self.replay.admit(&nonce, good.time, now_unix, self.window)?;
                None
            }
            Scheme::Bound => {
                let (good, response) = bound::check(p, channel, &keyring)?;
                // Over TLS it holds on this connection only.
                let holds_elsewhere = matches!(channel, Channel::Plain);
                let nonce = Nonce { identity: p.uuid, nonce: good.nonce, holds_elsewhere };
                self.replay.admit(&nonce, good.time, now_unix, self.window)?;
                Some(response)
            }
        };
        Ok(Granted { response, scheme })
    }
}

impl Scheme {
    /// The scheme's name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Timestamp => "timestamp",
            Self::Bound => "bound",
        }
    }

    /// The scheme that a credential's form belongs to; what fits none is judged as a `certificate`, and found wrong.
    fn of(authorization: &str) -> Self {
        if authorization.starts_with(bound::PREFIX) {
            Self::Bound
        } else if authorization.contains(' ') {
            Self::Timestamp
        } else {
            Self::Certificate
        }
    }
}

/// A good MAC over this nonce and time.
struct Timed<'a> {
    nonce: &'a str,
    /// Unix seconds.
    time: u64,
}

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
    /// The MAC is good, the time is before this process began to remember nonces, so that it cannot know whether this one was
    /// used.
    BeforeStart,
}

impl AuthFailure {
    /// One line that says what to do next.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Missing => {
                "Send X-Arvados-Container-Gateway-Uuid, X-Arvados-Container-Target-Port and X-Arvados-Authorization with every request."
            }
            Self::Duplicate => "Send each of the three X-Arvados-* credential fields exactly once.",
            Self::Malformed => {
                "X-Arvados-Authorization is in no format that this listener accepts. Check which scheme it expects."
            }
            Self::Wrong => {
                "The credential does not match this request. Check the key, and that container, port, method and target are the signed ones."
            }
            Self::Stale => {
                "The credential is too old or from the future. Compare the two clocks, and sign the request again."
            }
            Self::Replayed => "The credential was used before. Sign each request anew, with a new nonce.",
            Self::BeforeStart => {
                "The credential was signed before the gateway started and may have been used. Sign the request again; if that is refused too, your clock is behind."
            }
        }
    }
}
