//! Changes of listening sockets, read from the kernel program's ring buffer.

use std::io;
use std::mem::size_of;

use aya::Ebpf;
use aya::maps::{Array, MapData, RingBuf};
use proxy_common::{ListenEvent, names};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::object::take;
use crate::unavailable::Unavailable;

/// Events taken out of the ring at a time: while more are read, others want the thread too.
const BATCH: usize = 1024;

/// The reading end, before anybody reads.
pub(crate) struct Unread {
    ring: RingBuf<MapData>,
    lost: Array<MapData, u64>,
}

impl Unread {
    /// Takes it out of the loaded object.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Unavailable> {
        Ok(Self { ring: take(ebpf, names::LISTENERS)?, lost: take(ebpf, names::LISTENERS_LOST)? })
    }

    /// Begins to read; called from within a tokio runtime.
    pub(crate) fn open(self) -> io::Result<ListenEvents> {
        // SAFETY: the ring owns the map's file descriptor, never exchanges it, and is moved into the AsyncFd.
        let ring = unsafe { AsyncFd::register_with_interest(self.ring, Interest::READABLE) }?;
        Ok(ListenEvents { ring, lost: self.lost })
    }
}

/// The sockets of registered namespaces that begin and cease to listen, as they do.
pub struct ListenEvents {
    ring: AsyncFd<RingBuf<MapData>>,
    lost: Array<MapData, u64>,
}

impl ListenEvents {
    /// Waits for events and adds what is there to `batch`. Cancelled, it has taken none.
    ///
    /// # Errors
    /// The reactor's; nothing more will come then.
    pub async fn read(&mut self, batch: &mut Vec<ListenEvent>) -> io::Result<()> {
        loop {
            let mut ready = self.ring.readable_mut().await?;
            let ring = ready.get_inner_mut();
            let before = batch.len();
            while batch.len() - before < BATCH {
                let Some(item) = ring.next() else {
                    // The kernel wakes a reader that has read everything: only then may it sleep.
                    ready.clear_ready();
                    break;
                };
                batch.extend(event_of(&item));
            }
            if batch.len() > before {
                return Ok(());
            }
        }
    }

    /// How many events were lost in all: their namespace had sent too many, or the ring was full. See also
    /// [`Fastpath::lost_of`](super::Fastpath::lost_of).
    pub fn lost(&self) -> u64 {
        // The map has one entry, and reading it takes no memory and no privilege: there is no error to speak of.
        self.lost.get(&0, 0).unwrap_or(0)
    }
}

/// The event in a record; none in one of another size, which is not the program's.
fn event_of(record: &[u8]) -> Option<ListenEvent> {
    let record: &[u8; size_of::<ListenEvent>()] = record.try_into().ok()?;
    // SAFETY: so many bytes are there, `ListenEvent` is `repr(C)` and made of integers without padding (its size, asserted beside
    // it, is the sum of its fields), and any bit pattern is valid.
    Some(unsafe { std::ptr::read_unaligned(record.as_ptr().cast()) })
}

impl std::fmt::Debug for ListenEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ListenEvents")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_another_size_are_none() {
        for size in [0, 1, size_of::<ListenEvent>() - 1, size_of::<ListenEvent>() + 1] {
            assert_eq!(event_of(&vec![0; size]), None, "{size}");
        }
        let mut record = [0; size_of::<ListenEvent>()];
        record[..8].copy_from_slice(&7_u64.to_ne_bytes());
        record[56..58].copy_from_slice(&80_u16.to_ne_bytes());
        assert_eq!(event_of(&record), Some(ListenEvent { time: 7, port: 80, ..ListenEvent::default() }));
    }
}
