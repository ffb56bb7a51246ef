//! The other side of the credentials: values of `X-Arvados-Authorization` for a request about to be sent, and the proof to
//! expect in return.

use super::key::{ContainerKey, RootKey, equal, text};
use super::{Presented, bound, certificate as by_certificate, timestamp as by_timestamp};

/// What a `bound` credential covers of a request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The container's UUID, or another name of it that the node knows.
    pub uuid: &'a str,
    /// The port inside it.
    pub port: u16,
    /// The request's method, in upper case.
    pub method: &'a str,
    /// The request target exactly as it will be sent.
    pub target: &'a str,
}

/// A `bound` credential at `time` (unix seconds). `nonce` is 16 to 64 of `0-9A-Za-z_-` and new for each request;
/// `exporter` is that of the TLS connection the request will be sent on, `None` for plain TCP.
#[must_use]
pub fn bound(key: &ContainerKey, request: &Request<'_>, time: u64, nonce: &str, exporter: Option<&[u8; 32]>) -> String {
    let t = time.to_string();
    let Request { uuid, port, method, target } = *request;
    let mac = bound::mac(key, &t, nonce, &Presented { uuid, port, method, target, authorization: "" }, exporter);
    format!("{}t={t},n={nonce},s={}", bound::PREFIX, text(&mac))
}

/// A `certificate` credential for a gateway that presents this leaf certificate (DER).
#[must_use]
pub fn certificate(key: &ContainerKey, certificate: &[u8]) -> String {
    text(&by_certificate::mac(key, certificate)).to_owned()
}

/// A `timestamp` credential at `time` (unix seconds). `nonce` is 32 to 128 hexadecimal digits and new for each request.
#[must_use]
pub fn timestamp(root: &RootKey, time: u64, nonce: &str) -> String {
    by_timestamp::credential(root, nonce, time)
}

/// A nonce of 128 random bits that fits each scheme.
#[must_use]
pub fn nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Whether `response` is the proof that the gateway owes for a `bound` or `certificate` credential; compared in constant
/// time. Without it the answer may come from anybody.
#[must_use]
pub fn is_proof(key: &ContainerKey, authorization: &str, response: &str) -> bool {
    let sent = authorization.rsplit_once(",s=").map_or(authorization, |(_, mac)| mac);
    equal(&key.mac(&[sent.as_bytes()]), response)
}
