//! Chunked bodies: however the bytes arrive the outcome is the same, and what is written is legal and decodes alike.
//! The first octet is the size of the pieces, and says whether data bypasses the decoder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portsplice_fuzz::h1::{ChunkMode, Chunked, FramingError};

type Outcome = (Vec<u8>, Result<Option<usize>, FramingError>);

fn feed(mode: ChunkMode, wire: &[u8], size: usize, bypass: bool) -> Outcome {
    let (mut chunked, mut out, mut at) = (Chunked::new(mode), Vec::new(), 0);
    while at < wire.len() {
        let end = wire.len().min(at + size);
        let raw = (end - at).min(usize::try_from(chunked.data_remaining()).unwrap_or(usize::MAX));
        if bypass && raw > 0 {
            out.extend_from_slice(&wire[at..at + raw]);
            chunked.data_moved(raw as u64);
            at += raw;
            continue;
        }
        match chunked.advance(&wire[at..end], &mut out) {
            Ok(step) if step.done => return (out, Ok(Some(at + step.consumed))),
            Ok(step) => at += step.consumed,
            Err(error) => return (out, Err(error)),
        }
    }
    (out, Ok(None))
}

fuzz_target!(|data: &[u8]| {
    let Some((&how, wire)) = data.split_first() else { return };
    let (size, bypass) = (usize::from(how >> 1) + 1, how & 1 != 0);
    let at_once = feed(ChunkMode::Rechunk, wire, wire.len().max(1), false);
    assert_eq!(at_once, feed(ChunkMode::Rechunk, wire, size, bypass));
    let data = feed(ChunkMode::Dechunk, wire, size, bypass);
    assert_eq!(at_once.1, data.1);
    let (out, end) = at_once;
    // Whatever was wrong with the input, what was written is the beginning of a legal body, or all of one.
    let again = feed(ChunkMode::Rechunk, &out, size, bypass);
    let complete = matches!(end, Ok(Some(_))).then_some(out.len());
    assert_eq!(again, (out.clone(), Ok(complete)));
    assert_eq!(feed(ChunkMode::Dechunk, &out, out.len().max(1), false), (data.0, Ok(complete)));
});
