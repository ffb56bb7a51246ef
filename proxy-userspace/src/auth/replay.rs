//! Remembers which nonces were used, for as long as their credentials would still be accepted.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

use parking_lot::Mutex;

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
    hasher: RandomState,
    /// A nonce always belongs to the same shard, so each is a memory of its own. Many keep the pause short when a table
    /// grows, and the threads apart.
    shards: Box<[Mutex<Shard>]>,
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
        let shards = (capacity / SHARD_ENTRIES).clamp(1, SHARDS);
        let shard = || Mutex::new(Shard::new((capacity / shards).max(1)));
        Self { hasher: RandomState::new(), shards: std::iter::repeat_with(shard).take(shards).collect() }
    }

    /// Accepts no credential of a second before `unix` from now on. A node that starts anew knows nothing of the nonces
    /// used before; where nothing else prevents a replay (plain TCP), it sets this to the time of its start.
    pub fn accept_from(&self, unix: u64) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            shard.floor = shard.floor.max(unix);
            shard.forget_before(unix);
        }
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
    pub(super) fn admit(&self, nonce: &impl Hash, time: u64, now_unix: u64, window: u64) -> Result<(), AuthFailure> {
        if time.abs_diff(now_unix) > window {
            return Err(AuthFailure::Stale);
        }
        let hash = self.hasher.hash_one(nonce);
        // The upper half chooses the shard, the lower half the place in its table.
        let shard = (hash >> 32) as usize % self.shards.len();
        self.shards[shard].lock().admit(hash, time, now_unix.saturating_sub(window))
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
