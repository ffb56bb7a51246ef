//! Just enough of WebSocket (RFC 6455) for clients and echo servers: the handshake, and frames that are not fragmented.
//!
//! [`take`] is for a program that has bytes in hand; [`read_frame`], [`open`] and [`echo`] are for tests.

use std::io::{self, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use crate::client::{Conn, Proof};
use crate::http::Buffered;
use crate::origin::Peer;

/// The key of the RFC's example handshake. It is not secret: it only proves that the other end speaks WebSocket.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// RFC 6455 section 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Opcode of a text message.
pub const TEXT: u8 = 1;
/// Opcode of a binary message.
pub const BINARY: u8 = 2;
/// Opcode that ends the stream.
pub const CLOSE: u8 = 8;
/// Opcode of a question whether the other end lives.
pub const PING: u8 = 9;
/// Opcode of the answer to it.
pub const PONG: u8 = 10;

/// What a server answers to prove that it has read `key` (RFC 6455 section 4.2.2).
#[must_use]
pub fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}{GUID}")))
}

/// A message in one frame.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// What kind it is.
    pub opcode: u8,
    /// What it says, unmasked.
    pub payload: Vec<u8>,
}

/// Why a stream of frames cannot be read on.
#[derive(Debug, PartialEq, Eq)]
pub struct NotUnderstood;

/// A frame with `payload`; with a mask, as clients must send them.
#[must_use]
pub fn frame(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { MASKED } else { 0 };
    let mut out = vec![FINAL | opcode];
    match payload.len() {
        n @ 0..=125 => out.push(masked | n as u8),
        n @ 126..=0xffff => {
            out.push(masked | 126);
            out.extend((n as u16).to_be_bytes());
        }
        n => {
            out.push(masked | 127);
            out.extend((n as u64).to_be_bytes());
        }
    }
    let start = out.len() + mask.map_or(0, |m| m.len());
    out.extend(mask.into_iter().flatten());
    out.extend(payload);
    unmask(&mut out[start..], mask.unwrap_or_default());
    out
}

/// Takes a whole frame from the start of `input`; none when it is not all there yet. Payloads over 64 KiB and
/// fragments are not understood.
pub fn take(input: &mut Vec<u8>) -> Result<Option<Message>, NotUnderstood> {
    let [first, second, ..] = input[..] else { return Ok(None) };
    if first & FINAL == 0 {
        return Err(NotUnderstood);
    }
    let (length, mut start) = match second & !MASKED {
        127 => return Err(NotUnderstood),
        126 => match input.get(2..4) {
            Some(bytes) => (usize::from(u16::from_be_bytes([bytes[0], bytes[1]])), 4),
            None => return Ok(None),
        },
        n => (usize::from(n), 2),
    };
    let mut mask = [0; 4];
    if second & MASKED != 0 {
        let Some(bytes) = input.get(start..start + 4) else { return Ok(None) };
        mask.copy_from_slice(bytes);
        start += 4;
    }
    let Some(payload) = input.get(start..start + length) else { return Ok(None) };
    let mut payload = payload.to_vec();
    unmask(&mut payload, mask);
    input.drain(..start + length);
    Ok(Some(Message { opcode: first & 0x0f, payload }))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Reads a frame: its opcode and unmasked payload. `None` at the end.
pub fn read_frame<R: Read>(input: &mut Buffered<R>) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut first = [0; 2];
    if input.read(&mut first[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut first[1..])?;
    let masked = first[1] & 0x80 != 0;
    let len = match first[1] & 0x7f {
        126 => {
            let mut len = [0; 2];
            input.read_exact(&mut len)?;
            u64::from(u16::from_be_bytes(len))
        }
        127 => {
            let mut len = [0; 8];
            input.read_exact(&mut len)?;
            u64::from_be_bytes(len)
        }
        n => u64::from(n),
    };
    let mut mask = [0; 4];
    if masked {
        input.read_exact(&mut mask)?;
    }
    let mut payload = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    input.read_exact(&mut payload)?;
    unmask(&mut payload, mask);
    Ok(Some((first[0] & 0x0f, payload)))
}

/// Opens a WebSocket as a client.
#[track_caller]
pub fn open(conn: &mut Conn, target: &str) {
    let key = format!("Sec-WebSocket-Key: {KEY}");
    conn.send("GET", target, &["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", &key], b"");
    let (_, head, _) = conn.final_head(Proof::Owed);
    assert_eq!(head.status(), 101, "{head:?}");
    assert!(head.lists("connection", "upgrade"), "{head:?}");
    assert_eq!(head.get("upgrade").map(str::to_ascii_lowercase).as_deref(), Some("websocket"), "{head:?}");
    assert_eq!(head.get("sec-websocket-accept"), Some(&*accept(KEY)), "{head:?}");
}

/// Serves one WebSocket that echoes each binary frame until the client closes.
pub fn echo(peer: &mut Peer) -> io::Result<()> {
    let request = peer.must_request()?;
    assert!(request.head.lists("connection", "upgrade"), "{request:?}");
    assert_eq!(request.head.get("upgrade"), Some("websocket"));
    assert_eq!(request.head.get("sec-websocket-key"), Some(KEY));
    peer.write(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        accept(KEY)
    ))?;
    while let Some((opcode, payload)) = read_frame(peer.input())? {
        match opcode {
            CLOSE => {
                peer.write(frame(CLOSE, &[], None))?;
                return Ok(());
            }
            _ => peer.write(frame(BINARY, &payload, None))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfcs_example_handshake() {
        assert_eq!(accept(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_rfcs_example_frames() {
        assert_eq!(frame(TEXT, b"Hello", None), b"\x81\x05Hello");
        let masked = frame(TEXT, b"Hello", Some([0x37, 0xfa, 0x21, 0x3d]));
        assert_eq!(masked, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    }

    #[test]
    fn frames_are_taken_whole_and_in_order() {
        for length in [0, 1, 125, 126, 5000] {
            let payload = vec![7; length];
            let mut input = frame(BINARY, &payload, Some([1, 2, 3, 4]));
            input.extend(frame(CLOSE, &[], None));
            let whole = input.clone();
            for cut in 0..whole.len() - 2 {
                assert_eq!(take(&mut whole[..cut].to_vec()), Ok(None), "{cut} of {length}");
            }
            assert_eq!(take(&mut input), Ok(Some(Message { opcode: BINARY, payload })));
            assert_eq!(take(&mut input), Ok(Some(Message { opcode: CLOSE, payload: Vec::new() })));
            assert_eq!(take(&mut input), Ok(None));
        }
        assert_eq!(take(&mut vec![1, 0]), Err(NotUnderstood));
    }
}
