//! Keys and the MACs made with them (HMAC-SHA256, RFC 2104).

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// A MAC in lower-case hexadecimal, as it stands on the wire.
pub(super) type HexMac = [u8; 64];

/// A key with both of its blocks hashed already; copying it is cheaper than setting it up anew.
#[derive(Clone)]
struct KeyedState(Hmac<Sha256>);

impl KeyedState {
    fn new(key: &[u8]) -> Self {
        // HMAC takes keys of any length; the library's error has no case.
        Self(Hmac::new_from_slice(key).unwrap_or_else(|_| unreachable!("HMAC takes keys of any length")))
    }

    fn mac(&self, parts: &[&[u8]]) -> HexMac {
        let mut state = self.0.clone();
        for part in parts {
            state.update(part);
        }
        hex32(&state.finalize().into_bytes().into())
    }
}

/// `bytes` in lower-case hexadecimal.
pub(super) fn hex32(bytes: &[u8; 32]) -> HexMac {
    let mut hex = [0; 64];
    hex::encode_to_slice(bytes, &mut hex).unwrap_or_else(|_| unreachable!("there is room for two digits each"));
    hex
}

/// A MAC as text.
pub(super) fn text(mac: &HexMac) -> &str {
    std::str::from_utf8(mac).unwrap_or_default()
}

/// Compares in constant time. Of a presented MAC only the length may be learnt from the time this takes.
pub(super) fn equal(expected: &HexMac, presented: &str) -> bool {
    expected.as_slice().ct_eq(presented.as_bytes()).into()
}

/// The cluster's secret (Arvados: `SystemRootToken`). Wiped on drop.
#[derive(Clone)]
pub struct RootKey(KeyedState);

impl RootKey {
    /// `secret` is taken as it is.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(KeyedState::new(secret))
    }

    /// The key of one container: `hex(HMAC-SHA256(root, uuid))`, as ASCII.
    #[must_use]
    pub fn container(&self, uuid: &str) -> ContainerKey {
        let mut hex = self.0.mac(&[uuid.as_bytes()]);
        let key = ContainerKey(KeyedState::new(&hex));
        hex.zeroize();
        key
    }

    pub(super) fn mac(&self, message: &[u8]) -> HexMac {
        self.0.mac(&[message])
    }
}

/// One container's secret. Wiped on drop.
#[derive(Clone)]
pub struct ContainerKey(KeyedState);

/// A text that can be no container's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a container's key is 64 lower-case hexadecimal digits")]
pub struct InvalidKey;

impl ContainerKey {
    /// Reads a key as it is handed to a node that does not hold the root secret. The key is the text, not the number.
    ///
    /// # Errors
    /// Where `hex` is anything but 64 lower-case hexadecimal digits.
    pub fn from_hex(hex: &str) -> Result<Self, InvalidKey> {
        let digits = hex.as_bytes();
        if digits.len() == 64 && digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            Ok(Self(KeyedState::new(digits)))
        } else {
            Err(InvalidKey)
        }
    }

    /// The MAC of the concatenated `parts`.
    pub(super) fn mac(&self, parts: &[&[u8]]) -> HexMac {
        self.0.mac(parts)
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(***)")
    }
}

impl fmt::Debug for ContainerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContainerKey(***)")
    }
}
