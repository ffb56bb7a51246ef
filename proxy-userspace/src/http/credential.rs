//! The three fields that tell which container and port a request is for, and prove that it may go there.

use std::fmt;
use std::num::NonZeroU16;

use super::chars::ascii;
use super::field::{Field, Kind};
use crate::auth::AuthFailure;
use crate::refusal::Refusal;

/// A name that can be a container's: a letter or digit, then letters, digits, `.`, `_` and `-`, 255 in all at most.
///
/// The characters are those of Docker's names and of Arvados's UUIDs, and no such name leads out of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerName<'b>(&'b str);

impl<'b> ContainerName<'b> {
    /// `None` when `name` can be no container's name.
    #[must_use]
    pub fn parse(name: &'b str) -> Option<Self> {
        let bytes = name.as_bytes();
        let legal = bytes.len() <= 255
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        legal.then_some(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &'b str {
        self.0
    }
}

impl fmt::Display for ContainerName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// What a request presents; well-formed, but not checked against any key yet.
#[derive(Clone, Copy)]
pub struct Credential<'b> {
    /// `X-Arvados-Container-Gateway-Uuid`.
    pub uuid: ContainerName<'b>,
    /// `X-Arvados-Container-Target-Port`.
    pub port: NonZeroU16,
    /// `X-Arvados-Authorization`.
    pub authorization: &'b str,
}

impl fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("uuid", &self.uuid).field("port", &self.port).finish_non_exhaustive()
    }
}

impl<'b> Credential<'b> {
    /// Exactly one of each field, none empty, each legal.
    pub(super) fn read(fields: &[Field<'b>]) -> Result<Self, Refusal> {
        let (mut uuid, mut port, mut authorization) = (None, None, None);
        for field in fields {
            let slot = match field.kind {
                Kind::GatewayUuid => &mut uuid,
                Kind::GatewayPort => &mut port,
                Kind::GatewayAuthorization => &mut authorization,
                _ => continue,
            };
            if slot.replace(field.value).is_some() {
                return Err(Refusal::Unauthorized(AuthFailure::Duplicate));
            }
        }
        let (Some(uuid), Some(port), Some(authorization)) = (uuid, port, authorization) else {
            return Err(Refusal::Unauthorized(AuthFailure::Missing));
        };
        if uuid.is_empty() || port.is_empty() || authorization.is_empty() {
            return Err(Refusal::Unauthorized(AuthFailure::Missing));
        }
        Ok(Self {
            uuid: ascii(uuid)
                .and_then(ContainerName::parse)
                .ok_or(Refusal::Malformed("X-Arvados-Container-Gateway-Uuid is no container's name"))?,
            port: read_port(port)
                .ok_or(Refusal::Malformed("X-Arvados-Container-Target-Port is no number from 1 to 65535"))?,
            authorization: ascii(authorization).ok_or(Refusal::Unauthorized(AuthFailure::Malformed))?,
        })
    }
}

/// A decimal number from 1 to 65535 without sign or leading zeros.
fn read_port(value: &[u8]) -> Option<NonZeroU16> {
    if value.first() == Some(&b'0') || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    ascii(value)?.parse().ok()
}
