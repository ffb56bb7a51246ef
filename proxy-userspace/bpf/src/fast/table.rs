//! The flow table in this process's memory, and who may use which entry.

use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use proxy_common::{Flow, FlowOf};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// An entry of the table as the daemon has it: [`proxy_common::Flow`] with atomics in place of its integers.
#[repr(transparent)]
#[derive(Debug)]
pub(super) struct Entry(FlowOf<AtomicU32, AtomicU64>);

const _: () = assert!(size_of::<Entry>() == size_of::<Flow>() && align_of::<Entry>() == align_of::<Flow>());
// With this, fields have the same places too: both are one definition.
const _: () = assert!(size_of::<AtomicU32>() == size_of::<u32>() && align_of::<AtomicU32>() == align_of::<u32>());
const _: () = assert!(size_of::<AtomicU64>() == size_of::<u64>() && align_of::<AtomicU64>() == align_of::<u64>());

impl Deref for Entry {
    type Target = FlowOf<AtomicU32, AtomicU64>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Entry {
    /// Sets what the verdict counts to zero.
    pub(super) fn reset_counts(&self) {
        let counts = [&self.falling_back, &self.resumed, &self.fast_bytes, &self.fast_messages];
        counts.into_iter().chain(&self.fallbacks).for_each(|count| count.store(0, Relaxed));
    }
}

/// The mapped table.
#[derive(Debug)]
pub(super) struct Table {
    start: NonNull<Entry>,
    entries: u32,
    free: Mutex<Free>,
}

// SAFETY: the memory is shared with the kernel and consists of atomics; the pointer is to a mapping that lives as long as
// this does.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

/// Entries that nobody uses: those given back, and all from `untouched` on.
#[derive(Debug, Default)]
struct Free {
    slots: Vec<u32>,
    untouched: u32,
}

impl Table {
    /// Maps the array map behind `map`, which has so many entries.
    ///
    /// # Errors
    /// The error of `mmap(2)`.
    pub(super) fn map(map: impl AsFd, entries: u32) -> io::Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses; nothing of this process is touched.
        let start = unsafe { mmap(std::ptr::null_mut(), Self::bytes(entries), protection, MapFlags::SHARED, map, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, entries, free: Mutex::default() })
    }

    fn bytes(entries: u32) -> usize {
        (entries as usize * size_of::<Entry>()).next_multiple_of(rustix::param::page_size())
    }

    /// The entry of a slot.
    ///
    /// # Panics
    /// When the table has no such slot: slots come from [`Table::take`] only.
    pub(super) fn entry(&self, slot: u32) -> &Entry {
        assert!(slot < self.entries, "slot {slot} of {}", self.entries);
        // SAFETY: within the mapping, which is aligned to a page and made of these; any bits are a legal entry.
        unsafe { self.start.add(slot as usize).as_ref() }
    }

    /// Takes an entry that nobody uses; none if the table is full.
    pub(super) fn take(&self) -> Option<u32> {
        let mut free = self.free.lock();
        // A verdict may still have the turn of an entry whose flow was dropped in the middle; it is passed over until then.
        let closed = free.slots.iter().rposition(|&slot| self.entry(slot).close_any());
        if let Some(position) = closed {
            return Some(free.slots.swap_remove(position));
        }
        let slot = free.untouched;
        if slot >= self.entries {
            return None;
        }
        free.untouched += 1;
        Some(slot)
    }

    /// Gives an entry back.
    pub(super) fn put(&self, slot: u32) {
        self.free.lock().slots.push(slot);
    }

    /// How many entries are in use.
    pub(super) fn used(&self) -> u32 {
        let free = self.free.lock();
        free.untouched - u32::try_from(free.slots.len()).unwrap_or(free.untouched)
    }

    /// How many there are.
    pub(super) const fn entries(&self) -> u32 {
        self.entries
    }

    /// All entries that were ever used.
    pub(super) fn touched(&self) -> impl Iterator<Item = &Entry> {
        let untouched = self.free.lock().untouched;
        (0..untouched).map(|slot| self.entry(slot))
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`; references to entries borrow the table and are gone.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), Self::bytes(self.entries)) };
    }
}

#[cfg(test)]
mod for_models {
    use super::*;

    impl From<&Flow> for Entry {
        fn from(flow: &Flow) -> Self {
            Self(FlowOf {
                turn: flow.turn.into(),
                relayed: flow.relayed.into(),
                client_start: flow.client_start.into(),
                budget: flow.budget.into(),
                taken: flow.taken.into(),
                client: flow.client.into(),
                client_cookie: flow.client_cookie.into(),
                framing: flow.framing.into(),
                blocking: flow.blocking.into(),
                falling_back: flow.falling_back.into(),
                resumed: flow.resumed.into(),
                fast_bytes: flow.fast_bytes.into(),
                fast_messages: flow.fast_messages.into(),
                fallbacks: flow.fallbacks.map(Into::into),
            })
        }
    }

    impl Entry {
        /// Takes over what the daemon's side of a turn may have changed. `relayed` is left out: nothing depends on it.
        pub(in super::super) fn copy_to(&self, flow: &mut Flow) {
            flow.turn = self.turn.load(Relaxed);
            flow.budget = self.budget.load(Relaxed);
            flow.taken = self.taken.load(Relaxed);
        }
    }
}
