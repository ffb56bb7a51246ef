//! `hex(HMAC-SHA256(key, DER of the gateway's certificate))`: what Arvados 2.2 to 3.2 controllers send.
//!
//! The controller does not verify the self-signed certificate. It proves with this MAC that it saw the gateway's very
//! certificate, and the gateway's MAC of that MAC proves the same the other way round; a man in the middle would have
//! shown another one.

use super::key::{ContainerKey, HexMac, equal, text};
use super::{AuthFailure, Channel, Keyring, Presented};

/// Checks the credential and returns the gateway's proof.
pub(super) fn check(p: &Presented<'_>, channel: &Channel<'_>, keyring: &Keyring) -> Result<String, AuthFailure> {
    let Channel::Tls { certificate, .. } = channel else { return Err(AuthFailure::Malformed) };
    let (key, derived) = keyring.find(p.uuid).ok_or(AuthFailure::Wrong)?;
    let expected = mac(&key, certificate);
    if !equal(&expected, p.authorization) {
        return Err(AuthFailure::Wrong);
    }
    keyring.remember(p.uuid, &key, derived);
    Ok(text(&key.mac(&[&expected])).to_owned())
}

/// The credential for a gateway that presents `certificate` (DER).
pub(super) fn mac(key: &ContainerKey, certificate: &[u8]) -> HexMac {
    key.mac(&[certificate])
}
