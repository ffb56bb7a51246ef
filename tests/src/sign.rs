//! The three credentials, written from the wire protocol's text alone.
//!
//! The daemon has code for the same; this is deliberately a second reading of the protocol, so that a mistake in
//! either shows.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::Rng;
use sha2::{Digest, Sha256};

/// HMAC-SHA256 (RFC 2104) in lower-case hex.
#[must_use]
pub fn hmac_hex(key: &[u8], message: &[u8]) -> String {
    const BLOCK: usize = 64;
    let mut padded = [0_u8; BLOCK];
    if key.len() > BLOCK {
        padded[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        padded[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(padded.map(|b| b ^ 0x36)).chain_update(message).finalize();
    let outer = Sha256::new().chain_update(padded.map(|b| b ^ 0x5c)).chain_update(inner).finalize();
    hex::encode(outer)
}

/// One container's secret, derived from the cluster's.
#[must_use]
pub fn container_key(root: &str, uuid: &str) -> String {
    hmac_hex(root.as_bytes(), uuid.as_bytes())
}

/// Seconds since the epoch.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

/// A nonce that was never used: 32 hex digits.
#[must_use]
pub fn nonce() -> String {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    hex::encode(bytes)
}

/// Which credential a client presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Over the gateway's certificate; needs TLS.
    Certificate,
    /// Over a nonce and the time, under the root secret.
    Timestamp,
    /// Over the request itself and the TLS channel.
    Bound,
}

/// What the connection itself adds to a credential.
#[derive(Clone, Debug, Default)]
pub struct Channel {
    /// DER of the certificate that the gateway presented.
    pub certificate: Option<Vec<u8>>,
    /// RFC 9266 exporter of the TLS connection.
    pub exporter: Option<[u8; 32]>,
}

/// What is signed.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The container.
    pub uuid: &'a str,
    /// The port in it.
    pub port: &'a str,
    /// The request's method.
    pub method: &'a str,
    /// The request target as it goes over the wire.
    pub target: &'a str,
}

/// A credential and the answer that proves the gateway knows the secret too.
#[derive(Clone, Debug)]
pub struct Credential {
    /// Value of `X-Arvados-Authorization`.
    pub value: String,
    /// Value of `X-Arvados-Authorization-Response` that the gateway owes; the `timestamp` form has none.
    pub answer: Option<String>,
}

/// `certificate`: HMAC over the certificate under the container's key.
#[must_use]
pub fn certificate(key: &str, certificate: &[u8]) -> Credential {
    let value = hmac_hex(key.as_bytes(), certificate);
    let answer = Some(hmac_hex(key.as_bytes(), value.as_bytes()));
    Credential { value, answer }
}

/// `timestamp`: HMAC over nonce and time under the root secret.
#[must_use]
pub fn timestamp(root: &str, nonce: &str, unix: u64) -> Credential {
    let message = format!("{nonce}+{unix}");
    let mac = hmac_hex(root.as_bytes(), message.as_bytes());
    Credential { value: format!("{message} {mac}"), answer: None }
}

/// `bound`: HMAC over the request and the channel under the container's key.
#[must_use]
pub fn bound(key: &str, call: &Call, channel: &Channel, nonce: &str, unix: u64) -> Credential {
    let exporter = channel.exporter.map_or_else(|| "-".to_owned(), hex::encode);
    let Call { uuid, port, method, target } = call;
    let message = format!("v1\n{unix}\n{nonce}\n{uuid}\n{port}\n{method}\n{target}\n{exporter}");
    let mac = hmac_hex(key.as_bytes(), message.as_bytes());
    let answer = Some(hmac_hex(key.as_bytes(), mac.as_bytes()));
    Credential { value: format!("v1 t={unix},n={nonce},s={mac}"), answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test cases 2 and 6 (a key longer than a block).
    #[test]
    fn hmac_matches_rfc_4231() {
        assert_eq!(
            hmac_hex(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hmac_hex(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
