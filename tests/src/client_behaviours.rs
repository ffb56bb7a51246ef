//! Clients that read in every way, each checking every byte.

use std::io;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::client::{Conn, End, Proof};
use crate::http::Framing;
use crate::pattern;
use crate::rig::{Dialer, Path};

/// How a client reads an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientBehaviour {
    /// As fast as it comes.
    Fast,
    /// At a steady rate, far below what the way gives.
    Throttled,
    /// Stops for a second three times in mid-stream.
    Stops,
    /// Reads nothing for seconds, then everything.
    Silent,
    /// With a receive window of a few kilobytes.
    TinyWindow,
    /// With segments of 536 bytes (RFC 9293 section 3.7.1), as over an old path.
    SmallSegments,
    /// Ends its sending direction right after the request.
    HalfCloses,
    /// Resets the connection in mid-stream.
    Resets,
    /// Asks again and again on one connection, for much and for little.
    Again,
}

impl ClientBehaviour {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Fast,
        Self::Throttled,
        Self::Stops,
        Self::Silent,
        Self::TinyWindow,
        Self::SmallSegments,
        Self::HalfCloses,
        Self::Resets,
        Self::Again,
    ];

    /// The lengths it asks for where others ask for `len`.
    #[must_use]
    pub fn lengths(self, len: u64) -> Vec<u64> {
        match self {
            Self::TinyWindow => vec![(len / 8).max(1)],
            Self::Again => vec![len, 1, 1000, len / 4, 1, 70_000],
            _ => vec![len],
        }
    }

    /// Sets what must be set before the socket connects.
    fn prepare(self, socket: &Socket) -> io::Result<()> {
        match self {
            Self::TinyWindow => socket.set_recv_buffer_size(4096),
            // A larger buffer on this side would take in all that is to be held back.
            Self::Stops | Self::Silent | Self::Throttled => socket.set_recv_buffer_size(65536),
            Self::SmallSegments => socket.set_tcp_mss(536),
            _ => Ok(()),
        }
    }

    /// Connects, asks for `/bytes/N`, and reads the answers in this way; every one must come whole.
    #[track_caller]
    pub fn play(self, dialer: &Dialer<'_>, len: u64) {
        let mut conn = dialer.connect_with(|socket| self.prepare(socket));
        for len in self.lengths(len) {
            conn.send("GET", &format!("/bytes/{len}"), &[], b"");
            if self == Self::HalfCloses {
                conn.half_close();
            }
            if self == Self::Silent {
                std::thread::sleep(Duration::from_millis(2500));
            }
            let (_, head, framing) = conn.final_head(Proof::Owed);
            assert_eq!((head.status(), framing), (200, Framing::Length(len)), "{self:?}: {head:?}");
            if self == Self::Resets {
                self.read(&mut conn, len / 3);
                return conn.reset();
            }
            self.read(&mut conn, len);
        }
        if self == Self::HalfCloses {
            assert_eq!(conn.end(), End::Clean, "{self:?}");
        }
    }

    /// Reads so many bytes of the pattern.
    #[track_caller]
    fn read(self, conn: &mut Conn, len: u64) {
        /// Bytes a second.
        const RATE: u64 = 6 << 20;
        let started = Instant::now();
        let mut cursor = pattern::Cursor::default();
        let mut stops = 0;
        while cursor.offset() < len {
            let at = cursor.offset();
            match self {
                Self::Throttled => {
                    let due = Duration::from_micros(at * 1_000_000 / RATE);
                    std::thread::sleep(due.saturating_sub(started.elapsed()));
                }
                Self::Stops if stops < 3 && at > len * (stops + 1) / 4 => {
                    stops += 1;
                    std::thread::sleep(Duration::from_secs(1));
                }
                _ => {}
            }
            let most = (len - at).min(65536);
            let read = conn.input().some(most, &mut |part| cursor.take(part));
            read.unwrap_or_else(|e| panic!("{self:?}, after {at} of {len}: {e}"));
        }
    }
}

/// All of them at once against one server. Directly, nobody half-closes: many servers take the end of the client's direction
/// for a client that has given up. The gateway passes it on, so behind it only those may that go on answering.
#[track_caller]
pub fn all_at_once(dialer: &Dialer<'_>, len: u64) {
    all_but(dialer, len, &[]);
}

/// As [`all_at_once`], without some of them.
#[track_caller]
pub fn all_but(dialer: &Dialer<'_>, len: u64, without: &[ClientBehaviour]) {
    std::thread::scope(|scope| {
        for habit in ClientBehaviour::ALL {
            if without.contains(&habit) || habit == ClientBehaviour::HalfCloses && dialer.path == Path::Direct {
                continue;
            }
            let dialer = dialer.clone();
            scope.spawn(move || habit.play(&dialer, len));
        }
    });
}
