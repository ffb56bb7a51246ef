//! What happens on one connection, worked out of its number.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The longest stream.
const LONGEST: u64 = 64 << 20;

/// One connection.
#[derive(Clone, Debug)]
pub struct Play {
    /// Its number.
    pub index: u64,
    /// What is asked, in order.
    pub acts: Vec<Act>,
    /// What goes wrong in the last act, if anything.
    pub fault: Option<Fault>,
    /// The client's receive buffer, where it is not the kernel's choice.
    pub receive_buffer: Option<usize>,
    /// The client's segment size, where it is not the path's.
    pub segment: Option<u32>,
    /// The server's send buffer, where it is not the kernel's choice.
    pub send_buffer: Option<usize>,
}

/// What is asked once.
#[derive(Clone, Debug)]
pub enum Act {
    /// A request of HTTP.
    Request {
        /// The content of the request.
        up: Stream,
        /// Its framing: chunked or with a length.
        up_chunked: bool,
        /// The content of the response.
        down: Stream,
        /// Its framing.
        framing: Body,
    },
    /// An `Upgrade: tcp` tunnel, both directions at once; the last act of its connection.
    Tunnel {
        /// What the client sends.
        up: Stream,
        /// What the server sends.
        down: Stream,
        /// Whether the client ends its direction when it has sent all, or only when it has read all.
        half_closes: bool,
    },
}

/// How a response's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// With a length.
    Length,
    /// In chunks, one for each write.
    Chunked,
    /// By the connection's end; in the last act only.
    Close,
}

/// What goes wrong in the last response, or in a tunnel's downward direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client resets when it has read so many bytes.
    ClientResets(u64),
    /// The client closes when it has read so many bytes.
    ClientCloses(u64),
    /// The server resets when it has written so many bytes.
    ServerResets(u64),
    /// The server closes in order, though it announced more.
    ServerEnds(u64),
}

/// One direction of an act.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Where in the pattern it begins.
    pub base: u64,
    /// How many bytes it has.
    pub len: u64,
    /// How its writer writes.
    pub writer: Pace,
    /// How its reader reads.
    pub reader: Pace,
}

/// How one side goes through a stream.
#[derive(Clone, Debug)]
pub struct Pace {
    /// The least and the most that one call is given.
    pub step: (u64, u64),
    /// Where it stops, in ascending order, and for how long.
    pub stops: Vec<(u64, Duration)>,
}

impl Play {
    /// The play with this number.
    #[must_use]
    pub fn new(seed: u64, index: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index);
        let acts = if rng.random_bool(0.25) { vec![tunnel(&mut rng)] } else { requests(&mut rng) };
        let last = acts.last().expect("one at least");
        let fault = fault(&mut rng, last);
        Self {
            index,
            acts,
            fault,
            receive_buffer: rng.random_bool(0.2).then(|| 1 << rng.random_range(12..18)),
            segment: rng.random_bool(0.1).then(|| rng.random_range(536..1460)),
            send_buffer: rng.random_bool(0.1).then(|| 1 << rng.random_range(16..20)),
        }
    }
}

/// A length whose logarithm is spread evenly, so that short and long ones are tried alike.
fn length(rng: &mut StdRng, most: u64) -> u64 {
    let exponent = rng.random_range(0.0..(most as f64).ln());
    (exponent.exp() as u64).clamp(1, most)
}

fn stream(rng: &mut StdRng, most: u64) -> Stream {
    let len = length(rng, most);
    Stream { base: rng.random_range(0..1 << 40), len, writer: pace(rng, len), reader: pace(rng, len) }
}

fn nothing() -> Stream {
    let pace = Pace { step: (1, 1), stops: Vec::new() };
    Stream { base: 0, len: 0, writer: pace.clone(), reader: pace }
}

fn pace(rng: &mut StdRng, len: u64) -> Pace {
    // Not more than some thousand calls for a stream.
    let least = (len / 4000).max(1);
    let (a, b) = (length(rng, 300_000).max(least), length(rng, 300_000).max(least));
    // Most go straight through; those that stop do it a few times, mostly for a moment.
    let count = if rng.random_bool(0.3) { rng.random_range(1..5) } else { 0 };
    let mut stops: Vec<_> = (0..count)
        .map(|_| {
            let long = rng.random_bool(0.1);
            let millis = if long { rng.random_range(200..1200) } else { rng.random_range(1..40) };
            (rng.random_range(0..len), Duration::from_millis(millis))
        })
        .collect();
    stops.sort_unstable();
    Pace { step: (a.min(b), a.max(b)), stops }
}

fn tunnel(rng: &mut StdRng) -> Act {
    Act::Tunnel { up: stream(rng, LONGEST / 2), down: stream(rng, LONGEST), half_closes: rng.random_bool(0.5) }
}

fn requests(rng: &mut StdRng) -> Vec<Act> {
    let count = if rng.random_bool(0.4) { rng.random_range(2..8) } else { 1 };
    let act = |nth: usize, rng: &mut StdRng| {
        // A connection's later requests are shorter, so that not a few of them are all the bytes there are.
        let most = if nth == 0 { LONGEST } else { LONGEST >> 4 };
        let up = if rng.random_bool(0.3) { stream(rng, most >> 2) } else { nothing() };
        let framing = match rng.random_range(0..10) {
            0..6 => Body::Length,
            6..9 => Body::Chunked,
            _ if nth + 1 == count => Body::Close,
            _ => Body::Length,
        };
        Act::Request { up, up_chunked: rng.random_bool(0.3), down: stream(rng, most), framing }
    };
    (0..count).map(|nth| act(nth, rng)).collect()
}

fn fault(rng: &mut StdRng, last: &Act) -> Option<Fault> {
    if !rng.random_bool(0.15) {
        return None;
    }
    let (len, framing) = match last {
        Act::Request { down, framing, .. } => (down.len, Some(*framing)),
        Act::Tunnel { down, .. } => (down.len, None),
    };
    let at = rng.random_range(0..len);
    match rng.random_range(0..4) {
        0 => Some(Fault::ClientResets(at)),
        1 => Some(Fault::ClientCloses(at)),
        // Where the end alone tells the length, an early end in order is no fault that anyone could see.
        2 if matches!(framing, Some(Body::Length | Body::Chunked)) => Some(Fault::ServerEnds(at)),
        _ => Some(Fault::ServerResets(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_always_gives_the_same_play() {
        for index in 0..100 {
            assert_eq!(format!("{:?}", Play::new(7, index)), format!("{:?}", Play::new(7, index)));
        }
        assert_ne!(format!("{:?}", Play::new(7, 0)), format!("{:?}", Play::new(8, 0)));
    }

    #[test]
    fn everything_occurs_and_the_sum_is_bounded() {
        let plays: Vec<Play> = (0..2000).map(|index| Play::new(1, index)).collect();
        let bytes: u64 = plays
            .iter()
            .flat_map(|play| &play.acts)
            .map(|act| match act {
                Act::Request { up, down, .. } | Act::Tunnel { up, down, .. } => up.len + down.len,
            })
            .sum();
        assert!((4 << 30..16 << 30).contains(&bytes), "{bytes}");
        let faults: Vec<_> = plays.iter().filter_map(|play| play.fault).collect();
        for kind in ["ClientResets", "ClientCloses", "ServerResets", "ServerEnds"] {
            assert!(faults.iter().filter(|fault| format!("{fault:?}").starts_with(kind)).count() > 10, "{kind}");
        }
    }
}
