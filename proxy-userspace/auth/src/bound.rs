//! `v1 t=<unix seconds>,n=<nonce>,s=<mac>`: the scheme that covers the whole request and the channel.

use super::key::{ContainerKey, HexMac, equal, hex32, text};
use super::{AuthFailure, Channel, Keyring, Presented, Timed};

/// What every credential of this scheme begins with.
pub(super) const PREFIX: &str = "v1 ";

/// The fields of a credential, each of legal form.
struct Parts<'a> {
    /// Decimal digits as received: the MAC covers the text.
    t: &'a str,
    time: u64,
    nonce: &'a str,
    mac: &'a str,
}

/// Checks form and MAC; time and nonce remain to be judged. Returns the gateway's proof with them.
pub(super) fn check<'a>(
    p: &Presented<'a>,
    channel: &Channel<'_>,
    keyring: &Keyring,
) -> Result<(Timed<'a>, String), AuthFailure> {
    let parts = Parts::read(p.authorization).ok_or(AuthFailure::Malformed)?;
    let (key, derived) = keyring.find(p.uuid).ok_or(AuthFailure::Wrong)?;
    let exporter = match channel {
        Channel::Plain => None,
        Channel::Tls { exporter, .. } => Some(*exporter),
    };
    let expected = mac(&key, parts.t, parts.nonce, p, exporter);
    if !equal(&expected, parts.mac) {
        return Err(AuthFailure::Wrong);
    }
    keyring.remember(p.uuid, &key, derived);
    let response = text(&key.mac(&[parts.mac.as_bytes()])).to_owned();
    Ok((Timed { nonce: parts.nonce, time: parts.time }, response))
}

/// The MAC that belongs in `s`: of eight lines joined by LF, without one at the end. None of them can hold an LF itself:
/// time, nonce, container and port have forms of their own, method and target are parts of a request line.
pub(super) fn mac(key: &ContainerKey, t: &str, nonce: &str, p: &Presented<'_>, exporter: Option<&[u8; 32]>) -> HexMac {
    let channel = exporter.map(hex32);
    let channel: &[u8] = channel.as_ref().map_or(b"-", |hex| hex);
    let mut digits = [0; 5];
    key.mac(&[
        b"v1\n",
        t.as_bytes(),
        b"\n",
        nonce.as_bytes(),
        b"\n",
        p.uuid.as_bytes(),
        b"\n",
        decimal(p.port, &mut digits),
        b"\n",
        p.method.as_bytes(),
        b"\n",
        p.target.as_bytes(),
        b"\n",
        channel,
    ])
}

fn decimal(mut n: u16, digits: &mut [u8; 5]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            return &digits[at..];
        }
    }
}

impl<'a> Parts<'a> {
    fn read(authorization: &'a str) -> Option<Self> {
        let (t, rest) = authorization.strip_prefix(PREFIX)?.strip_prefix("t=")?.split_once(",n=")?;
        let (nonce, mac) = rest.split_once(",s=")?;
        let legal = (16..=64).contains(&nonce.len())
            && nonce.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        (legal && mac.len() == 64).then_some(())?;
        Some(Self { t, time: unix_seconds(t)?, nonce, mac })
    }
}

/// Decimal digits without sign.
pub(super) fn unix_seconds(t: &str) -> Option<u64> {
    if t.bytes().all(|b| b.is_ascii_digit()) { t.parse().ok() } else { None }
}
