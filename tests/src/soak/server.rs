//! The server's part of a play.

use std::io::{self, Read};

use super::Score;
use super::pace::{self, ReadError, Track};
use super::play::{Act, Body, Fault, Play, Stream};
use crate::http::{Framing, Head};
use crate::origin::Peer;

/// Why a server stops.
enum Stop {
    /// The connection failed; whether that was due is the client's to say.
    Gone,
    /// What came was not what the play says.
    Wrong(String),
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// Serves one connection: requests that name their play, or a tunnel that begins with its number.
pub(super) fn serve(peer: &mut Peer, seed: u64, score: &Score) {
    let mut index = u64::MAX;
    match converse(peer, seed, score, &mut index) {
        Ok(()) | Err(Stop::Gone) => {}
        Err(Stop::Wrong(what)) => score.failed(index, format!("server: {what}")),
    }
}

fn converse(peer: &mut Peer, seed: u64, score: &Score, index: &mut u64) -> Result<(), Stop> {
    // A tunnel's first byte is no method's.
    let mut first = [0];
    if peer.input().read(&mut first)? == 0 {
        return Ok(());
    }
    peer.input().unread(&first);
    if first == [b'#'] {
        let line = peer.input().line()?;
        *index = line[1..].parse().map_err(|_| Stop::Wrong(format!("a tunnel's first line {line:?}")))?;
        let play = Play::new(seed, *index);
        adjust(peer, &play)?;
        return tunnel(peer, &play, score);
    }
    while let Some(head) = peer.head()? {
        let mut parts = head.target().trim_start_matches('/').split('/').map(str::parse::<u64>);
        let (Some(Ok(number)), Some(Ok(nth))) = (parts.next(), parts.next()) else {
            return Err(Stop::Wrong(format!("asked for {:?}", head.target())));
        };
        *index = number;
        let play = Play::new(seed, number);
        adjust(peer, &play)?;
        if !answer(peer, &play, nth as usize, &head, score)? {
            return Ok(());
        }
    }
    Ok(())
}

fn adjust(peer: &Peer, play: &Play) -> io::Result<()> {
    let socket = socket2::SockRef::from(peer.stream());
    play.send_buffer.map_or(Ok(()), |bytes| socket.set_send_buffer_size(bytes))
}

/// How far the server writes, and whether it is to reset there.
fn extent(play: &Play, last: bool, len: u64) -> (u64, Option<Fault>) {
    match play.fault {
        Some(fault @ (Fault::ServerResets(at) | Fault::ServerEnds(at))) if last => (at, Some(fault)),
        _ => (len, None),
    }
}

/// Answers one request; whether the connection goes on.
fn answer(peer: &mut Peer, play: &Play, nth: usize, head: &Head, score: &Score) -> Result<bool, Stop> {
    let Some(Act::Request { up, down, framing, .. }) = play.acts.get(nth) else {
        return Err(Stop::Wrong(format!("a request number {nth}")));
    };
    take(peer, up, head)?;
    score.add(up.len);
    let field = match framing {
        Body::Length => format!("Content-Length: {}", down.len),
        Body::Chunked => "Transfer-Encoding: chunked".to_owned(),
        Body::Close => "Connection: close".to_owned(),
    };
    peer.write(format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n"))?;
    let last = nth + 1 == play.acts.len();
    let (until, fault) = extent(play, last, down.len);
    let mut out = peer.stream();
    match framing {
        Body::Chunked => pace::write(down, until, |part| pace::chunk(&mut out, part))?,
        Body::Length | Body::Close => pace::write(down, until, |part| io::Write::write_all(&mut out, part))?,
    }
    match fault {
        Some(Fault::ServerResets(_)) => peer.reset_on_close(),
        None if *framing == Body::Chunked => peer.write("0\r\n\r\n")?,
        _ => {}
    }
    Ok(fault.is_none() && *framing != Body::Close)
}

/// Reads a request's content.
fn take(peer: &mut Peer, up: &Stream, head: &Head) -> Result<(), Stop> {
    let wrong = |what: String| Stop::Wrong(format!("a request's content: {what}"));
    let framing = head.request_framing();
    match framing {
        Framing::Chunked => {}
        Framing::None if up.len == 0 => return Ok(()),
        Framing::Length(len) if len == up.len => {}
        other => return Err(wrong(format!("framed as {other:?} where {} bytes are due", up.len))),
    }
    let mut track = Track::new(up);
    let mut fault = None;
    peer.input().body_into(framing, &mut |part| {
        if fault.is_none() {
            track.step();
            fault = track.take(part).err();
        }
    })?;
    match fault {
        Some(ReadError::Wrong(what)) => Err(wrong(what)),
        _ if track.at() != up.len => Err(wrong(format!("{} bytes of {}", track.at(), up.len))),
        _ => Ok(()),
    }
}

fn tunnel(peer: &mut Peer, play: &Play, score: &Score) -> Result<(), Stop> {
    let Some(Act::Tunnel { up, down, .. }) = play.acts.first() else {
        return Err(Stop::Wrong("a tunnel".to_owned()));
    };
    let out = peer.stream().try_clone()?;
    let (until, fault) = extent(play, true, down.len);
    let read = std::thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let written = pace::write(down, until, |part| io::Write::write_all(&mut &out, part));
            if written.is_ok() && fault.is_none() {
                let _ = out.shutdown(std::net::Shutdown::Write);
            }
            if fault.is_some() {
                // Wakes the reader, who may have a long way to go; the reset follows.
                let _ = out.shutdown(std::net::Shutdown::Read);
            }
        });
        let read = pace::read(up, up.len, peer.input());
        let _ = writing.join();
        read
    });
    if fault.is_some() {
        peer.reset_on_close();
    }
    match read {
        Err(ReadError::Wrong(what)) => return Err(Stop::Wrong(what)),
        _ if fault.is_some() => return Ok(()),
        Ok(()) => score.add(up.len),
        Err(ReadError::Ended { error: Some(_), .. }) => return Err(Stop::Gone),
        // A client that goes ends its direction, too.
        Err(ReadError::Ended { .. }) if play.fault.is_some() => return Ok(()),
        // An end in order is a promise that this was all.
        Err(ReadError::Ended { at, error: None }) => {
            return Err(Stop::Wrong(format!("a tunnel ended in order after {at} of {}", up.len)));
        }
    }
    match peer.rest() {
        (more, Ok(())) if more.is_empty() => Ok(()),
        (more, Ok(())) => Err(Stop::Wrong(format!("{} bytes behind a tunnel's end", more.len()))),
        (_, Err(_)) => Err(Stop::Gone),
    }
}
