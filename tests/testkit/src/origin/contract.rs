//! What every server of the tests offers, whatever it is written in, so that one set of scenarios runs over all.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /bytes/N` | the pattern's first N bytes with a length |
//! | `GET /chunked/N` | the same, chunked |
//! | `GET /close/N` | the same, delimited by the connection's end |
//! | `POST` or `PUT /sink` | length and SHA-256 of what came: `N HASH` and a line end |
//! | `POST /echo` | what came, chunked, as it comes |
//! | `GET /events/N` | N server-sent events, `data: I` |
//! | `GET /head` | the request line and fields as received, one per line |
//! | `GET /status/N` | that status without content |

use std::io;

use sha2::{Digest, Sha256};

use super::Peer;
use crate::http::{Framing, Head};
use crate::pattern;

const STEP: u64 = 65536;

/// Serves a connection's requests, one after the other, until the client ends or asks to close.
pub fn serve(peer: &mut Peer) -> io::Result<()> {
    while let Some(head) = peer.head()? {
        if head.lists("expect", "100-continue") {
            peer.write("HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let last = !answer(peer, &head)? || head.lists("connection", "close");
        if last {
            return peer.finish();
        }
    }
    Ok(())
}

/// Answers one request; gives whether the connection may go on.
fn answer(peer: &mut Peer, head: &Head) -> io::Result<bool> {
    let framing = head.request_framing();
    let mut parts = head.target().trim_start_matches('/').split(['/', '?']);
    let what = parts.next().unwrap_or_default();
    let n = parts.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    match what {
        "sink" => sink(peer, framing)?,
        "echo" => echo(peer, framing)?,
        _ => {
            peer.body(framing)?;
            match what {
                "bytes" => {
                    peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n"))?;
                    if head.method() != "HEAD" {
                        each_step(n, |part| peer.write(part))?;
                    }
                }
                "chunked" => {
                    peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                    each_step(n, |part| chunk(peer, part))?;
                    peer.write("0\r\n\r\n")?;
                }
                "close" => {
                    peer.write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
                    each_step(n, |part| peer.write(part))?;
                    return Ok(false);
                }
                "events" => {
                    peer.write(
                        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
                    )?;
                    for i in 0..n {
                        chunk(peer, format!("data: {i}\n\n").as_bytes())?;
                    }
                    peer.write("0\r\n\r\n")?;
                }
                "head" => {
                    let fields: String = head.fields.iter().map(|(n, v)| format!("{n}: {v}\n")).collect();
                    peer.respond("200 OK", format!("{}\n{fields}", head.line))?;
                }
                "status" if matches!(n, 204 | 304) => peer.write(format!("HTTP/1.1 {n} Fine\r\n\r\n"))?,
                "status" => peer.write(format!("HTTP/1.1 {n} Fine\r\nContent-Length: 0\r\n\r\n"))?,
                _ => peer.respond("404 Not Found", "not here\n")?,
            }
        }
    }
    Ok(true)
}

fn each_step(n: u64, mut write: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut at = 0;
    while at < n {
        let part = pattern::slice(at, (n - at).min(STEP) as usize);
        write(part)?;
        at += part.len() as u64;
    }
    Ok(())
}

/// Writes one chunk.
pub fn chunk(peer: &mut Peer, data: &[u8]) -> io::Result<()> {
    let mut all = format!("{:x}\r\n", data.len()).into_bytes();
    all.extend_from_slice(data);
    all.extend_from_slice(b"\r\n");
    peer.write(all)
}

fn sink(peer: &mut Peer, framing: Framing) -> io::Result<()> {
    let mut hash = Sha256::new();
    let mut len = 0_u64;
    peer.input().body_into(framing, &mut |part| {
        len += part.len() as u64;
        hash.update(part);
    })?;
    peer.respond("200 OK", format!("{len} {}\n", hex::encode(hash.finalize())))
}

fn echo(peer: &mut Peer, framing: Framing) -> io::Result<()> {
    peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let stream = peer.stream.clone();
    let mut failed = None;
    peer.input.body_into(framing, &mut |part| {
        if !part.is_empty() && failed.is_none() {
            let mut all = format!("{:x}\r\n", part.len()).into_bytes();
            all.extend_from_slice(part);
            all.extend_from_slice(b"\r\n");
            failed = io::Write::write_all(&mut &*stream, &all).err();
        }
    })?;
    match failed {
        Some(e) => Err(e),
        None => peer.write("0\r\n\r\n"),
    }
}
