//! Four threads write to one socket at once, without any order between them.
//!
//! The kernel promises each thread only the order of its own bytes. So each byte tells its writer and its place: the two
//! highest bits are the writer's number, the six lower ones the place in the writer's stream, modulo 61.

use std::io::{self, Write};
use std::net::TcpStream;

/// How many threads write.
pub const WRITERS: u64 = 4;
/// After how many bytes a writer's stream repeats; a prime.
const PERIOD: u64 = 61;

/// How many of `n` bytes a writer writes.
fn share(writer: u64, n: u64) -> u64 {
    n / WRITERS + u64::from(writer < n % WRITERS)
}

fn byte(writer: u64, at: u64) -> u8 {
    u8::try_from((writer << 6) | (at % PERIOD)).expect("eight bits")
}

/// Writes `n` bytes from all threads.
pub(super) fn write(stream: &TcpStream, n: u64) -> io::Result<()> {
    let one = |writer: u64, mut stream: &TcpStream| {
        let end = share(writer, n);
        let mut at = 0;
        while at < end {
            let len = (1 + at * (writer + 7) % 9000).min(end - at);
            let piece: Vec<u8> = (at..at + len).map(|at| byte(writer, at)).collect();
            stream.write_all(&piece)?;
            at += len;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|writer| scope.spawn(move || one(writer, stream))).collect();
        writers.into_iter().try_for_each(|writer| writer.join().expect("no writer panics"))
    })
}

/// Checks what came: each writer's bytes are all there, in their order.
///
/// # Errors
/// The first byte that is not the next of its writer, or whose bytes are missing at the end.
pub fn check(received: &[u8]) -> Result<(), String> {
    let mut at = [0_u64; WRITERS as usize];
    for (index, &got) in received.iter().enumerate() {
        let writer = u64::from(got >> 6);
        let place = &mut at[writer as usize];
        if got != byte(writer, *place) {
            return Err(format!("byte {index} is not the next one (number {place}) of writer {writer}"));
        }
        *place += 1;
    }
    let n = received.len() as u64;
    match (0..WRITERS).find(|&writer| at[writer as usize] != share(writer, n)) {
        Some(writer) => {
            Err(format!("{} bytes of writer {writer} in place of {}", at[writer as usize], share(writer, n)))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_interleaving_passes_and_disorder_does_not() {
        let streams: Vec<Vec<u8>> = (0..WRITERS).map(|w| (0..share(w, 1001)).map(|at| byte(w, at)).collect()).collect();
        let mut all = streams.concat();
        assert_eq!(check(&all), Ok(()));
        all.swap(10, 11);
        assert!(check(&all).is_err());
        all.swap(10, 11);
        all.swap(100, 900); // of two writers
        assert!(check(&all).is_err());
        assert!(check(&streams.concat()[..1000]).is_err(), "one byte is missing");
    }
}
