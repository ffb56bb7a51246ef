//! The download: bytes that both ends can make, so that each byte can be checked without a file.

use sha2::{Digest, Sha256};

/// 200 MB.
pub(crate) const LENGTH: u64 = 200_000_000;

/// The download's bytes, without an end: xorshift64* (Vigna 2016), which no compression or repetition can fake.
pub(crate) struct Bytes(u64);

impl Bytes {
    /// From the first byte.
    pub(crate) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// Fills `block`, whose length is a multiple of 8, with the bytes that come next.
    pub(crate) fn fill(&mut self, block: &mut [u8]) {
        for word in block.chunks_exact_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            word.copy_from_slice(&self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
    }
}

/// The SHA-256, in hex, that the download must have.
pub(crate) fn expected_sha256() -> String {
    let mut hash = Sha256::new();
    let mut bytes = Bytes::new();
    let mut block = vec![0; 1 << 20];
    let mut left = LENGTH;
    while left > 0 {
        bytes.fill(&mut block);
        let size = left.min(block.len() as u64);
        hash.update(&block[..size as usize]);
        left -= size;
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_the_blocks_does_not_matter() {
        let (mut whole, mut parts) = (vec![0; 4096], vec![0; 4096]);
        Bytes::new().fill(&mut whole);
        let mut bytes = Bytes::new();
        parts.chunks_mut(512).for_each(|part| bytes.fill(part));
        assert_eq!(whole, parts);
        assert_ne!(whole[..8], whole[8..16]);
    }
}
