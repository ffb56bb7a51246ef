//! Bytes that tell their position.
//!
//! The pattern repeats with a prime period just under a mebibyte: no buffer, page, pipe or TLS record size divides it,
//! so a lost, repeated or swapped block shows at its first byte. It is SHA-256 of a counter, block after block, which
//! the servers in Python and Node make in the same way.

use std::io::{self, Read, Write};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

/// Bytes after which the pattern repeats; a prime.
pub const PERIOD: usize = 1_048_573;

fn table() -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut once = Vec::with_capacity(2 * PERIOD);
        let mut counter = 0_u64;
        while once.len() < PERIOD {
            once.extend_from_slice(&Sha256::digest(counter.to_le_bytes()));
            counter += 1;
        }
        once.truncate(PERIOD);
        once.extend_from_within(..);
        once
    })
}

/// The pattern's bytes from `offset` on; at most [`PERIOD`] of them.
#[must_use]
pub fn slice(offset: u64, len: usize) -> &'static [u8] {
    let start = usize::try_from(offset % PERIOD as u64).expect("below the period");
    &table()[start..start + len.min(PERIOD)]
}

/// The first `len` bytes of the pattern.
#[must_use]
pub fn bytes(len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        out.extend_from_slice(slice(out.len() as u64, (len - out.len()).min(65536)));
    }
    out
}

/// SHA-256, in hex, of the first `len` bytes of the pattern.
#[must_use]
pub fn sha256(len: u64) -> String {
    let mut hash = Sha256::new();
    let mut at = 0;
    while at < len {
        let part = slice(at, (len - at).min(PERIOD as u64) as usize);
        hash.update(part);
        at += part.len() as u64;
    }
    hex::encode(hash.finalize())
}

/// Writes the pattern's first `len` bytes in writes of `step` bytes.
pub fn write_to(out: &mut impl Write, len: u64, step: usize) -> io::Result<()> {
    let mut at = 0;
    while at < len {
        let part = slice(at, (len - at).min(step as u64) as usize);
        out.write_all(part)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// Where a stream of the pattern's bytes has got to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor(u64);

impl Cursor {
    /// Begins at an offset of the pattern.
    #[must_use]
    pub fn at(offset: u64) -> Self {
        Self(offset)
    }

    /// The offset of the next byte.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.0
    }

    /// Takes the next received bytes.
    ///
    /// # Errors
    /// Where they differ from the pattern, and where else in it they belong, if anywhere.
    pub fn take(&mut self, mut got: &[u8]) -> Result<(), String> {
        while !got.is_empty() {
            let want = slice(self.0, got.len().min(PERIOD));
            let now = &got[..want.len()];
            if now != want {
                let off = now.iter().zip(want).position(|(a, b)| a != b).expect("they differ");
                let at = self.0 + off as u64;
                return Err(format!("byte {at} is not the pattern's{}", belongs(&now[off..], at)));
            }
            self.0 += want.len() as u64;
            got = &got[want.len()..];
        }
        Ok(())
    }
}

/// Where in the pattern some bytes are that came at a wrong place: what was lost or repeated shows by it.
fn belongs(strayed: &[u8], at: u64) -> String {
    let sample = &strayed[..strayed.len().min(32)];
    if sample.len() < 8 {
        return String::new();
    }
    let here = i64::try_from(at % PERIOD as u64).expect("below the period");
    match table()[..PERIOD + sample.len()].windows(sample.len()).position(|window| window == sample) {
        Some(there) => format!(" but what belongs {} bytes further on (modulo {PERIOD})", there as i64 - here),
        None => " nor any other part of it".to_owned(),
    }
}

/// Checks received bytes against the pattern, and hashes them.
#[derive(Default)]
pub struct Check {
    cursor: Cursor,
    hash: Sha256,
}

impl Check {
    /// Takes the next received bytes; panics where they differ from the pattern.
    #[track_caller]
    pub fn update(&mut self, got: &[u8]) {
        self.hash.update(got);
        if let Err(fault) = self.cursor.take(got) {
            panic!("{fault}");
        }
    }

    /// How many bytes have come.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.cursor.offset()
    }

    /// Whether none have come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// SHA-256 of all that came, in hex.
    #[must_use]
    pub fn sha256(self) -> String {
        hex::encode(self.hash.finalize())
    }
}

/// Reads exactly `len` bytes that must be the pattern's, in reads of up to `step` bytes; gives their SHA-256.
pub fn read_from(input: &mut impl Read, len: u64, step: usize) -> io::Result<String> {
    let mut check = Check::default();
    let mut buf = vec![0; step];
    while check.len() < len {
        let want = (len - check.len()).min(step as u64) as usize;
        match input.read(&mut buf[..want])? {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("ended after {} of {len}", check.len()),
                ));
            }
            n => check.update(&buf[..n]),
        }
    }
    Ok(check.sha256())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_same_in_writes_of_any_size() {
        let length = PERIOD as u64 + 10;
        let written = |step| {
            let mut out = Vec::new();
            write_to(&mut out, length, step).map(|()| out).expect("a vector takes everything")
        };
        let whole = written(PERIOD);
        assert!(whole == written(4093) && whole == bytes(whole.len()));
        assert_ne!(whole[..8], whole[8..16]);
        assert_eq!(hex::encode(Sha256::digest(&whole)), sha256(length));
    }
}
