//! Changes of listening sockets, on their way from the kernel to the daemon.

use crate::layout::layout;

/// A socket has started or stopped listening. Events of one socket come in the order in which they happened.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenEvent {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// The cookie of the network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// The socket's own cookie (`SO_COOKIE`), which is also the one that sock_diag(7) shows. Never given to another socket.
    pub socket: u64,
    /// The address it is bound to; of IPv4 the first four octets.
    pub address: [u8; 16],
    /// The name (`comm`) of the process that called listen(2), padded with zeroes; all zeroes: not known.
    pub process: [u8; 16],
    /// The port.
    pub port: u16,
    /// [`ListenEvent::BEGINS`] or [`ListenEvent::ENDS`].
    pub kind: u16,
    /// [`ListenEvent::IPV4`] or [`ListenEvent::IPV6`].
    pub family: u16,
    /// Of a socket of IPv6: 1 if it takes no IPv4, 0 if it does, [`ListenEvent::UNKNOWN`].
    pub v6only: u16,
}

layout!(ListenEvent: 64 bytes, align 8 {
    time @ 0, netns @ 8, socket @ 16, address @ 24, process @ 40, port @ 56, kind @ 58, family @ 60, v6only @ 62,
});

impl ListenEvent {
    /// It listens now.
    pub const BEGINS: u16 = 1;
    /// It listens no more.
    pub const ENDS: u16 = 2;
    /// `AF_INET`.
    pub const IPV4: u16 = 2;
    /// `AF_INET6`.
    pub const IPV6: u16 = 10;
    /// The kernel did not tell.
    pub const UNKNOWN: u16 = 2;

    /// The process's name without its padding; empty if it is not known.
    pub const fn process_name(&self) -> &[u8] {
        let mut length = 0;
        while length < self.process.len() && self.process[length] != 0 {
            length += 1;
        }
        self.process.split_at(length).0
    }
}

/// How many events of a namespace are on the way within one [`Pace::WINDOW`]: what a container with hundreds of servers does
/// when it starts, and not enough for one that opens and closes ports without end to crowd out the events of the
/// others.
pub const LISTEN_BURST: u64 = 256;

/// How much room the events have, in bytes: that of ten thousand.
pub const LISTEN_RING_BYTES: u32 = 1 << 20;

/// How a namespace's events are held back. Two CPUs may count at the same time; then some more get through.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// The number of the window in which `sent` counts.
    pub window: u64,
    /// Events in this window.
    pub sent: u64,
    /// Events that were not sent, since the namespace was registered: held back, or there was no room.
    pub lost: u64,
}

layout!(Pace: 24 bytes, align 8 {
    window @ 0, sent @ 8, lost @ 16,
});

impl Pace {
    /// The length of a window: two to this power of nanoseconds, a seventh of a second.
    pub const WINDOW: u32 = 27;

    /// The window and the count in it after one more event at `time` (nanoseconds), if that event may be sent.
    #[inline(always)]
    pub const fn admit(window: u64, sent: u64, time: u64) -> Option<(u64, u64)> {
        let now = time >> Self::WINDOW;
        if now != window {
            return Some((now, 1));
        }
        if sent >= LISTEN_BURST { None } else { Some((window, sent + 1)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_ends_with_its_padding() {
        let named = |name: &[u8]| {
            let mut event = ListenEvent::default();
            event.process[..name.len()].copy_from_slice(name);
            event.process_name().to_vec()
        };
        for name in [&b""[..], b"x", b"nginx", b"fifteen-letters", b"sixteen-letters!"] {
            assert_eq!(named(name), name);
        }
        assert_eq!(named(b"a\0b"), b"a");
    }

    #[test]
    fn a_window_takes_a_burst_and_the_next_one_another() {
        let (mut window, mut sent, mut admitted) = (0, 0, 0);
        let length = 1 << Pace::WINDOW;
        for time in (0..4 * length).step_by(length as usize / 1000) {
            if let Some(next) = Pace::admit(window, sent, time) {
                (window, sent) = next;
                admitted += 1;
            }
        }
        // The first window is number 0, in which nothing counts yet.
        assert_eq!(admitted, 4 * LISTEN_BURST);
        assert_eq!(Pace::admit(7, LISTEN_BURST, 7 << Pace::WINDOW), None);
        assert_eq!(Pace::admit(7, LISTEN_BURST, 8 << Pace::WINDOW), Some((8, 1)));
    }
}
