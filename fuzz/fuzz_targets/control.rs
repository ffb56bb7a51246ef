//! The control socket: whatever comes, in whatever pieces, becomes the same requests, and answers of one line each.
//! The first octet is the size of the pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portsplice_fuzz::wire::{Answer, Call, Fault, Frame, Frames, Id, code};

const LIMIT: usize = 256;

fn requests(bytes: &[u8], piece: usize) -> Vec<Vec<u8>> {
    let mut frames = Frames::with_limit(LIMIT);
    let mut lines = Vec::new();
    for part in bytes.chunks(piece) {
        frames.push(part);
        while let Some(frame) = frames.take() {
            // Where a line is found to be too long depends on the pieces; that it is dropped does not.
            if let Frame::Line(line) = frame {
                assert!(line.len() <= LIMIT && !line.contains(&b'\n') && !line.trim_ascii().is_empty());
                lines.push(line);
            }
        }
        assert!(frames.pending() <= LIMIT + 1);
    }
    lines
}

fn answer(id: Id, result: Result<serde_json::Value, Fault>) {
    let line = Answer::new(id.clone(), result).line();
    assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
    let again: Answer = serde_json::from_slice(&line).expect("an answer is read as it was written");
    assert_eq!(again.id, id);
}

fuzz_target!(|data: &[u8]| {
    let Some((&piece, bytes)) = data.split_first() else { return };
    let lines = requests(bytes, usize::from(piece).max(1));
    assert_eq!(lines, requests(bytes, usize::MAX));
    for line in lines {
        match Call::parse(&line) {
            Ok(call) => {
                assert!(call.params.is_object());
                if let Some(id) = call.id {
                    answer(id, Ok(call.params));
                }
            }
            Err((id, fault)) => {
                assert!([code::PARSE, code::INVALID_REQUEST, code::INVALID_PARAMS].contains(&fault.code));
                answer(id, Err(fault));
            }
        }
    }
});
