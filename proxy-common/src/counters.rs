//! How many socket events happened.

use crate::SocketEvent;
use crate::layout::layout;

/// Socket events of registered namespaces, counted since the registration (or, in total, since the start).
///
/// Each field only ever grows, so that a reader needs no lock and a rate can be taken from two readings. The kernel side
/// adds to single fields atomically; the fields of one reading can thus be some events apart from each other.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sockets that began to listen.
    pub listen_opened: u64,
    /// Of those, sockets that ceased to listen.
    pub listen_closed: u64,
    /// Connections that were established from within the namespace.
    pub established_active: u64,
    /// Connections that were established by a peer to a socket of the namespace.
    pub established_passive: u64,
    /// Of the connections counted as established, those that came to `TCP_CLOSE` (or to `TIME_WAIT`).
    pub closed: u64,
}

layout!(Counters: 40 bytes, align 8 {
    listen_opened @ 0, listen_closed @ 8, established_active @ 16, established_passive @ 24, closed @ 32,
});

impl Counters {
    /// Sockets that listen now, of those that began to since the registration.
    pub const fn listening(&self) -> u64 {
        self.listen_opened.saturating_sub(self.listen_closed)
    }

    /// Connections that stand now, of those that were established since the registration.
    ///
    /// The subtraction saturates: a namespace that is registered a second time can see the end of connections that its
    /// first registration counted.
    pub const fn open(&self) -> u64 {
        (self.established_active.saturating_add(self.established_passive)).saturating_sub(self.closed)
    }

    /// The sum of two counts, field by field.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            listen_opened: self.listen_opened.wrapping_add(other.listen_opened),
            listen_closed: self.listen_closed.wrapping_add(other.listen_closed),
            established_active: self.established_active.wrapping_add(other.established_active),
            established_passive: self.established_passive.wrapping_add(other.established_passive),
            closed: self.closed.wrapping_add(other.closed),
        }
    }

    /// The field that counts an event.
    ///
    /// It works on a raw pointer because the kernel side shares the value with other CPUs: a reference would promise
    /// that nobody else writes.
    ///
    /// # Safety
    ///
    /// `counters` points to a `Counters`.
    #[inline(always)]
    pub unsafe fn field(counters: *mut Self, event: SocketEvent) -> *mut u64 {
        // SAFETY: the caller vouches for the pointer; no reference is made, only the address of a field.
        unsafe {
            match event {
                SocketEvent::ListenOpened => &raw mut (*counters).listen_opened,
                SocketEvent::ListenClosed => &raw mut (*counters).listen_closed,
                SocketEvent::EstablishedActive => &raw mut (*counters).established_active,
                SocketEvent::EstablishedPassive => &raw mut (*counters).established_passive,
                SocketEvent::Closed => &raw mut (*counters).closed,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_has_its_own_field() {
        let events = [
            SocketEvent::ListenOpened,
            SocketEvent::ListenClosed,
            SocketEvent::EstablishedActive,
            SocketEvent::EstablishedPassive,
            SocketEvent::Closed,
        ];
        let mut counters = Counters::default();
        for (n, event) in events.into_iter().enumerate() {
            // SAFETY: the pointer comes from a live local, and nothing else refers to it meanwhile.
            unsafe { *Counters::field(&raw mut counters, event) += 1 << n };
        }
        let expected =
            Counters { listen_opened: 1, listen_closed: 2, established_active: 4, established_passive: 8, closed: 16 };
        assert_eq!(counters, expected);
    }

    #[test]
    fn what_stands_is_the_difference_and_never_wraps() {
        let counters =
            Counters { listen_opened: 3, listen_closed: 1, established_active: 4, established_passive: 5, closed: 2 };
        assert_eq!((counters.listening(), counters.open()), (2, 7));
        let late = Counters { closed: 1, listen_closed: 1, ..Counters::default() };
        assert_eq!((late.listening(), late.open()), (0, 0));
    }

    #[test]
    fn sums_go_field_by_field() {
        let a =
            Counters { listen_opened: 1, listen_closed: 2, established_active: 3, established_passive: 4, closed: 5 };
        let b = a.plus(&a);
        assert_eq!((b.listen_opened, b.listen_closed, b.established_active), (2, 4, 6));
        assert_eq!((b.established_passive, b.closed), (8, 10));
    }
}
