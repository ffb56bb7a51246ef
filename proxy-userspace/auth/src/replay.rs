//! Remembers which nonces were used, for as long as their credentials would still be accepted.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use siphasher::sip::SipHasher24;

use super::AuthFailure;

/// The nonces of good credentials, each until the second that its credential names falls out of the window.
///
/// What is given up is the oldest second as a whole, and then no credential as old as that is accepted any more: a replay
/// is refused whatever is forgotten. That happens in two cases, when a second falls out of the window and when the memory
/// is full. So a full memory costs honest clients whose clocks are slow, never safety. Only credentials with a good MAC
/// get here: a flood of bad ones costs nothing.
///
/// An entry is a 64-bit hash under a random key, some 20 to 35 octets with its overhead. That two entries collide, and an
/// honest request is refused, has a chance of one in four trillion at four million entries.
pub struct ReplayMemory {
    key: NonceKey,
    /// Credentials of seconds before this one are not accepted, where nothing but this memory keeps them from being used
    /// again.
    since: AtomicU64,
    keeper: Option<Box<dyn Keeper>>,
    /// A nonce always belongs to the same shard, so each is a memory of its own. Many keep the pause short when a table
    /// grows, and the threads apart.
    shards: Box<[Mutex<Shard>]>,
}

/// What nonces are hashed with; a secret, so that nobody can choose one whose hash is another's.
pub type NonceKey = [u8; 16];

/// A credential that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Unix seconds, as the credential says.
    pub time: u64,
    /// Of its nonce.
    pub hash: u64,
}

/// Keeps what was used for longer than the process lives.
pub trait Keeper: Send + Sync {
    /// Keeps one, before its credential is accepted.
    fn keep(&self, used: Used, now_unix: u64);
}

/// A nonce that a good credential names.
#[derive(Debug, Clone, Copy)]
pub(super) struct Nonce<'a> {
    /// Whose key has signed; empty for the root secret.
    pub(super) identity: &'a str,
    pub(super) nonce: &'a str,
    /// Whether the credential holds on another connection too, to this process or to the next, so that only the memory of
    /// its nonce keeps it from being used again.
    pub(super) holds_elsewhere: bool,
}

/// Entries below which another shard does not pay.
const SHARD_ENTRIES: usize = 4096;
/// Upper bound of the number of shards.
const SHARDS: usize = 64;

struct Shard {
    capacity: usize,
    nonces: HashSet<u64, BuildHasherDefault<AsIs>>,
    /// The same nonces by the second of their credentials.
    seconds: BTreeMap<u64, Vec<u64>>,
    /// Credentials of seconds before this one are not accepted: their nonces may have been forgotten.
    floor: u64,
}

impl ReplayMemory {
    /// Remembers up to `capacity` nonces; enough is the rate of requests times twice the window.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self::with_key(capacity, rand::random())
    }

    fn with_key(capacity: usize, key: NonceKey) -> Self {
        let shards = (capacity / SHARD_ENTRIES).clamp(1, SHARDS);
        let shard = || Mutex::new(Shard::new((capacity / shards).max(1)));
        let shards = std::iter::repeat_with(shard).take(shards).collect();
        Self { key, since: AtomicU64::new(0), keeper: None, shards }
    }

    /// The same, whose nonces `keeper` keeps under `key` as far as they could be used again by a process that has forgotten
    /// them. `used` are those that it has kept of a process before this one.
    #[must_use]
    pub fn kept(capacity: usize, key: NonceKey, keeper: Box<dyn Keeper>, used: &[Used]) -> Self {
        let memory = Self { keeper: Some(keeper), ..Self::with_key(capacity, key) };
        for &Used { time, hash } in used {
            let mut shard = memory.shard(hash).lock();
            // There may be less room than there was.
            if shard.admit(hash, time, 0) == Err(AuthFailure::Stale) {
                shard.floor = shard.floor.max(time.saturating_add(1));
            }
        }
        memory
    }

    /// Accepts no credential that was signed before the second `unix` and could have been used, unknown to this memory: one
    /// that holds on any connection.
    pub fn refuse_before(&self, unix: u64) {
        self.since.fetch_max(unix, Relaxed);
    }

    /// How many nonces are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().nonces.len()).sum()
    }

    /// Whether no nonce is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Accepts a nonce once. The credential's MAC has to be good: what is accepted is remembered.
    pub(super) fn admit(&self, nonce: &Nonce<'_>, time: u64, now_unix: u64, window: u64) -> Result<(), AuthFailure> {
        if time.abs_diff(now_unix) > window {
            return Err(AuthFailure::Stale);
        }
        if nonce.holds_elsewhere && time < self.since.load(Relaxed) {
            return Err(AuthFailure::BeforeStart);
        }
        let hash = self.hash(nonce);
        self.shard(hash).lock().admit(hash, time, now_unix.saturating_sub(window))?;
        if nonce.holds_elsewhere
            && let Some(keeper) = &self.keeper
        {
            keeper.keep(Used { time, hash }, now_unix);
        }
        Ok(())
    }

    /// SipHash-2-4, which is made for this: without the key, of 128 random bits, nobody can tell its values from random ones, or
    /// find two inputs with the same one, and whoever chooses nonces never gets to see a value. All that two inputs of one value
    /// would do is to have an honest request refused: what was used is found again in any case. Its values are the same in each
    /// build, as those in a file have to be.
    fn hash(&self, nonce: &Nonce<'_>) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.key);
        hasher.write(nonce.identity.as_bytes());
        // In neither of the two.
        hasher.write(&[0]);
        hasher.write(nonce.nonce.as_bytes());
        hasher.finish()
    }

    /// The upper half of a hash chooses the shard, the lower half the place in its table.
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 32) as usize % self.shards.len()]
    }
}

impl Shard {
    fn new(capacity: usize) -> Self {
        Self { capacity, nonces: HashSet::default(), seconds: BTreeMap::new(), floor: 0 }
    }

    fn admit(&mut self, hash: u64, time: u64, oldest: u64) -> Result<(), AuthFailure> {
        self.forget_before(oldest);
        if self.nonces.contains(&hash) {
            return Err(AuthFailure::Replayed);
        }
        // When full, room is made at the cost of older seconds only: what would be refused anyway displaces nothing.
        while self.nonces.len() >= self.capacity && self.oldest().is_some_and(|second| second < time) {
            self.forget_oldest();
        }
        if self.nonces.len() >= self.capacity || time < self.floor {
            return Err(AuthFailure::Stale);
        }
        self.nonces.insert(hash);
        self.seconds.entry(time).or_default().push(hash);
        Ok(())
    }

    fn oldest(&self) -> Option<u64> {
        self.seconds.first_key_value().map(|(&second, _)| second)
    }

    /// Only seconds that hold something raise the floor, so a clock that jumps ahead and back does no harm.
    fn forget_before(&mut self, unix: u64) {
        while self.oldest().is_some_and(|second| second < unix) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((second, nonces)) = self.seconds.pop_first() {
            for nonce in nonces {
                self.nonces.remove(&nonce);
            }
            self.floor = self.floor.max(second.saturating_add(1));
        }
    }
}

impl fmt::Debug for ReplayMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayMemory").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The entries are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_le_bytes(word);
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_has_the_same_hash_in_each_build() {
        // The example of the paper on SipHash (Aumasson and Bernstein, appendix A): the octets 0 to 14 under the key 0 to 15.
        let memory = ReplayMemory::with_key(1, std::array::from_fn(|n| n as u8));
        let nonce = "\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}\u{8}\u{9}\u{a}\u{b}\u{c}\u{d}\u{e}";
        assert_eq!(memory.hash(&Nonce { identity: "", nonce, holds_elsewhere: true }), 0xa129_ca61_49be_45e5);
        let hash = |identity, nonce| memory.hash(&Nonce { identity, nonce, holds_elsewhere: true });
        assert_ne!(hash("a", "bc"), hash("ab", "c"));
    }
}
