//! Server-sent events: how long a token takes from the server's write to the reader's hand.

use std::thread;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use portsplice_testkit::conn::Conn;
use portsplice_testkit::wire;

use crate::origin::TOKEN;
use crate::route::Route;

const STREAMS: usize = 8;
const INTERVAL_US: u64 = 5_000;
/// Tokens at the start of a stream that are not counted: the stream is still being set up.
const WARM_UP: usize = 5;

/// The delays of all tokens of 8 streams that run at once, `events` each, one every 5 ms.
pub(crate) fn delays(route: &Route, events: u64) -> anyhow::Result<Vec<Duration>> {
    thread::scope(|scope| {
        let readers: Vec<_> = (0..STREAMS)
            .map(|n| {
                scope.spawn(move || {
                    // So that the streams' tokens do not all fall together.
                    thread::sleep(Duration::from_micros(n as u64 * INTERVAL_US / STREAMS as u64));
                    stream(route, events)
                })
            })
            .collect();
        let mut all = Vec::new();
        for reader in readers {
            all.extend(reader.join().map_err(|_| anyhow!("a reader panicked"))??);
        }
        Ok(all)
    })
}

fn stream(route: &Route, events: u64) -> anyhow::Result<Vec<Duration>> {
    let mut conn = Conn::connect(route.http)?;
    conn.send(&route.head("GET", &format!("/sse/{events}/{INTERVAL_US}"), "Accept: text/event-stream\r\n")?)?;
    conn.expect(200)?;
    let mut delays = Vec::new();
    let mut seen = 0;
    loop {
        while let Some(sent) = take_event(conn.input(), TOKEN) {
            seen += 1;
            if seen > WARM_UP {
                delays.push(Duration::from_nanos(wire::monotonic_ns().saturating_sub(sent)));
            }
        }
        if seen as u64 == events {
            return Ok(delays);
        }
        ensure!(conn.read_more()? > 0, "the stream ended after {seen} of {events} events");
    }
}

/// Takes the next whole event of `size` bytes out of `input`, whatever the chunks around it look like; returns when it was
/// sent.
pub(super) fn take_event(input: &mut Vec<u8>, size: usize) -> Option<u64> {
    let start = input.windows(6).position(|w| w == b"data: ")?;
    let event = input.get(start..start + size)?;
    let sent = std::str::from_utf8(&event[6..26]).ok()?.parse().ok()?;
    input.drain(..start + size);
    Some(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_found_across_reads_and_chunk_lines() {
        let token = format!("40\r\ndata: {:020} {:.<35}\n\n\r\n", 12345, "token");
        let mut input = token.as_bytes()[..40].to_vec();
        assert_eq!(take_event(&mut input, TOKEN), None);
        input.extend_from_slice(&token.as_bytes()[40..]);
        input.extend_from_slice(token.as_bytes());
        assert_eq!(take_event(&mut input, TOKEN), Some(12345));
        assert_eq!(take_event(&mut input, TOKEN), Some(12345));
        assert_eq!(take_event(&mut input, TOKEN), None);
    }
}
