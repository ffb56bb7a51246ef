//! `<nonce>+<unix seconds> <mac>` under the root secret: the first published form. It binds neither container nor port.

use super::bound::unix_seconds;
use super::key::{RootKey, equal, text};
use super::{AuthFailure, Keyring, Timed};

/// Longest nonce accepted, in digits.
const MAX_NONCE: usize = 128;

/// Checks form and MAC; time and nonce remain to be judged.
pub(super) fn check<'a>(authorization: &'a str, keyring: &Keyring) -> Result<Timed<'a>, AuthFailure> {
    let (message, mac) = authorization.split_once(' ').ok_or(AuthFailure::Malformed)?;
    let timed = read(message).ok_or(AuthFailure::Malformed)?;
    let root = keyring.root().ok_or(AuthFailure::Wrong)?;
    if equal(&root.mac(message.as_bytes()), mac) { Ok(timed) } else { Err(AuthFailure::Wrong) }
}

fn read(message: &str) -> Option<Timed<'_>> {
    let (nonce, t) = message.split_once('+')?;
    let legal = (32..=MAX_NONCE).contains(&nonce.len()) && nonce.bytes().all(|b| b.is_ascii_hexdigit());
    legal.then_some(())?;
    Some(Timed { nonce, time: unix_seconds(t)? })
}

/// The credential for `nonce` (32 or more hexadecimal digits) at `time`.
pub(super) fn credential(root: &RootKey, nonce: &str, time: u64) -> String {
    let message = format!("{nonce}+{time}");
    let mac = root.mac(message.as_bytes());
    format!("{message} {}", text(&mac))
}
