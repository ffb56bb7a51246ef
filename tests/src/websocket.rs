//! Just enough of WebSocket (RFC 6455) for a client and an echo server: the handshake, unfragmented frames.

use std::io::{self, Read};

use crate::client::{Conn, Proof};
use crate::http::Buffered;
use crate::origin::Peer;

/// The handshake's key and what must answer it (RFC 6455 section 1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A frame with binary payload; a client's is masked.
#[must_use]
pub fn frame(payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 14);
    out.push(0x82);
    let bit = if mask.is_some() { 0x80 } else { 0 };
    match payload.len() {
        n @ 0..=125 => out.push(bit | n as u8),
        n @ 126..=65535 => {
            out.push(bit | 126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(bit | 127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    match mask {
        None => out.extend_from_slice(payload),
        Some(mask) => {
            out.extend_from_slice(&mask);
            out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        }
    }
    out
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
    if masked {
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(b, m)| *b ^= m);
    }
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
    assert_eq!(head.get("sec-websocket-accept"), Some(ACCEPT), "{head:?}");
}

/// Serves one WebSocket that echoes each binary frame until the client closes.
pub fn echo(peer: &mut Peer) -> io::Result<()> {
    let request = peer.must_request()?;
    assert!(request.head.lists("connection", "upgrade"), "{request:?}");
    assert_eq!(request.head.get("upgrade"), Some("websocket"));
    assert_eq!(request.head.get("sec-websocket-key"), Some(KEY));
    peer.write(format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    ))?;
    while let Some((opcode, payload)) = read_frame(peer.input())? {
        match opcode {
            8 => {
                peer.write([0x88, 0])?;
                return Ok(());
            }
            _ => peer.write(frame(&payload, None))?,
        }
    }
    Ok(())
}
