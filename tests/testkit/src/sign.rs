//! The three credentials, written from the wire protocol's text alone.
//!
//! The daemon has code for the same; this is deliberately a second reading of the protocol, so that a mistake in
//! either shows.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::Rng;
use sha2::{Digest, Sha256};

/// A key of HMAC-SHA256 (RFC 2104), prepared for many messages.
#[derive(Clone)]
pub struct Key {
    inner: Sha256,
    outer: Sha256,
}

impl Key {
    /// Prepares a key of any length.
    #[must_use]
    pub fn new(key: &[u8]) -> Self {
        const BLOCK: usize = 64;
        let mut padded = [0_u8; BLOCK];
        if key.len() > BLOCK {
            padded[..32].copy_from_slice(&Sha256::digest(key));
        } else {
            padded[..key.len()].copy_from_slice(key);
        }
        let begin = |pad: u8| Sha256::new().chain_update(padded.map(|byte| byte ^ pad));
        Self { inner: begin(0x36), outer: begin(0x5c) }
    }

    /// The MAC of a message in lower-case hex.
    #[must_use]
    pub fn mac(&self, message: &[u8]) -> String {
        let inner = self.inner.clone().chain_update(message).finalize();
        hex::encode(self.outer.clone().chain_update(inner).finalize())
    }
}

/// HMAC-SHA256 (RFC 2104) in lower-case hex.
#[must_use]
pub fn hmac_hex(key: &[u8], message: &[u8]) -> String {
    Key::new(key).mac(message)
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
    let key = Key::new(key.as_bytes());
    let mac = bound_mac(&key, call, channel.exporter.as_ref(), nonce, unix);
    let answer = Some(key.mac(mac.as_bytes()));
    Credential { value: bound_value(&mac, nonce, unix), answer }
}

/// The MAC in a `bound` credential, for a caller that does not check the answer; over TLS, with the connection's exporter.
#[must_use]
pub fn bound_mac(key: &Key, call: &Call, exporter: Option<&[u8; 32]>, nonce: &str, unix: u64) -> String {
    let exporter = exporter.map_or_else(|| "-".to_owned(), hex::encode);
    let Call { uuid, port, method, target } = call;
    key.mac(format!("v1\n{unix}\n{nonce}\n{uuid}\n{port}\n{method}\n{target}\n{exporter}").as_bytes())
}

/// A `bound` credential as the header carries it.
#[must_use]
pub fn bound_value(mac: &str, nonce: &str, unix: u64) -> String {
    format!("v1 t={unix},n={nonce},s={mac}")
}

/// The three header lines that carry a credential for a container's port.
#[must_use]
pub fn fields(uuid: &str, port: &str, credential: &str) -> String {
    format!(
        "X-Arvados-Container-Gateway-Uuid: {uuid}\r\nX-Arvados-Container-Target-Port: {port}\r\n\
         X-Arvados-Authorization: {credential}\r\n"
    )
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
