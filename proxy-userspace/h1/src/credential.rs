//! The three fields that tell which container and port a request is for, and prove that it may go there.

use std::fmt;
use std::num::NonZeroU16;

use portsplice_model::ContainerName;

use crate::chars::ascii;
use crate::error::{CredentialError, RequestError};
use crate::field::{Field, Kind};

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
    pub(super) fn read(fields: &[Field<'b>]) -> Result<Self, RequestError> {
        let (mut uuid, mut port, mut authorization) = (None, None, None);
        for field in fields {
            let slot = match field.kind {
                Kind::GatewayUuid => &mut uuid,
                Kind::GatewayPort => &mut port,
                Kind::GatewayAuthorization => &mut authorization,
                _ => continue,
            };
            if slot.replace(field.value).is_some() {
                return Err(CredentialError::Duplicate.into());
            }
        }
        let (Some(uuid), Some(port), Some(authorization)) = (uuid, port, authorization) else {
            return Err(CredentialError::Missing.into());
        };
        if uuid.is_empty() || port.is_empty() || authorization.is_empty() {
            return Err(CredentialError::Missing.into());
        }
        Ok(Self {
            uuid: ascii(uuid)
                .and_then(ContainerName::parse)
                .ok_or(RequestError::Malformed("X-Arvados-Container-Gateway-Uuid is not a valid container name"))?,
            port: read_port(port)
                .ok_or(RequestError::Malformed("X-Arvados-Container-Target-Port is not a number from 1 to 65535"))?,
            authorization: ascii(authorization).ok_or(CredentialError::Malformed)?,
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
