//! How many interim responses (1xx) a container may send before its answer.

use crate::gateway_error::GatewayError;

/// Interim responses before one final response. Who reports progress every 20 s (RFC 2518, 10.1) does so for over an hour.
const MOST: u32 = 256;
/// Octets of all their heads together.
const BYTES: usize = 256 * 1024;

/// The interim responses to one request. They come at the container's will and mean no progress, so that their number
/// and size are bounded; and they are no activity to the timeouts.
#[derive(Debug, Default)]
pub(super) struct Interims {
    number: u32,
    bytes: usize,
}

impl Interims {
    /// Takes note of one more, whose head has so many octets.
    ///
    /// # Errors
    /// The answer to the request, when that is one too many.
    pub(super) fn count(&mut self, length: usize) -> Result<(), GatewayError> {
        self.number = self.number.saturating_add(1);
        self.bytes = self.bytes.saturating_add(length);
        if self.number > MOST || self.bytes > BYTES {
            return Err(GatewayError::BadResponse("it sends too many interim responses (1xx) and no final one"));
        }
        Ok(())
    }

    /// Whether there were none.
    pub(super) fn none(&self) -> bool {
        self.number == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_and_size_are_bounded() {
        let mut many = Interims::default();
        assert!(many.none());
        assert!((0..MOST).all(|_| many.count(30).is_ok()));
        assert!(!many.none() && many.count(30).is_err());
        let mut large = Interims::default();
        assert!(large.count(BYTES).is_ok() && large.count(1).is_err());
    }
}
