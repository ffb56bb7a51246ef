//! The client's part of a play.

use std::io::{self, Write};

use socket2::Socket;

use super::Score;
use super::pace::{self, ReadError, Track};
use super::play::{Act, Body, Fault, Play, Stream};
use crate::client::{Conn, End, Link, Proof};
use crate::http::Framing;
use crate::rig::Dialer;

/// Plays it; what did not go as the play says.
pub(super) fn perform(dialer: &Dialer<'_>, play: &Play, score: &Score) -> Result<(), String> {
    let play_it = || {
        let mut conn = dialer.connect_with(|socket| prepare(socket, play));
        for (nth, act) in play.acts.iter().enumerate() {
            let fault = play.fault.filter(|_| nth + 1 == play.acts.len());
            let go_on = match act {
                Act::Request { .. } => request(&mut conn, play.index, nth, act, fault, score)?,
                Act::Tunnel { up, down, half_closes } => {
                    tunnel(&mut conn, play.index, up, down, *half_closes, fault, score)?;
                    false
                }
            };
            if !go_on {
                break;
            }
        }
        if let Some(Fault::ClientResets(_)) = play.fault {
            conn.reset();
        }
        Ok(())
    };
    // The helpers of the tests assert; here a failed assertion is one play's failure.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(play_it)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
    })
}

fn prepare(socket: &Socket, play: &Play) -> io::Result<()> {
    play.receive_buffer.map_or(Ok(()), |bytes| socket.set_recv_buffer_size(bytes))?;
    play.segment.map_or(Ok(()), |bytes| socket.set_tcp_mss(bytes))
}

/// How far the client reads, and whether it goes then.
fn extent(fault: Option<Fault>, len: u64) -> (u64, bool) {
    match fault {
        Some(Fault::ClientResets(at) | Fault::ClientCloses(at)) => (at, true),
        _ => (len, false),
    }
}

/// What a cut answer must look like: part of it, then an end that nobody can take for the whole.
fn cut(error: ReadError, fault: Option<Fault>, framing: Option<Body>) -> Result<(), String> {
    match (error, fault) {
        (ReadError::Wrong(what), _) => Err(what),
        (ReadError::Ended { at, .. }, Some(Fault::ServerResets(most) | Fault::ServerEnds(most))) if at > most => {
            Err(format!("{at} bytes came of {most} that were sent"))
        }
        (ReadError::Ended { at, error: None }, Some(_)) if !matches!(framing, Some(Body::Length | Body::Chunked)) => {
            Err(format!("a reset came as an end in order, after {at}"))
        }
        (ReadError::Ended { error: Some(error), .. }, Some(Fault::ServerResets(_) | Fault::ServerEnds(_)))
            if error.kind() == io::ErrorKind::TimedOut =>
        {
            Err(format!("nobody told of the server's end: {error}"))
        }
        (ReadError::Ended { .. }, Some(Fault::ServerResets(_) | Fault::ServerEnds(_))) => Ok(()),
        (ReadError::Ended { at, error }, _) => Err(format!("ended after {at}: {error:?}")),
    }
}

fn request(
    conn: &mut Conn,
    index: u64,
    nth: usize,
    act: &Act,
    fault: Option<Fault>,
    score: &Score,
) -> Result<bool, String> {
    let Act::Request { up, up_chunked, down, framing } = act else { return Err("no request".to_owned()) };
    send(conn, &format!("/{index}/{nth}"), up, *up_chunked).map_err(|e| format!("request {nth}: {e}"))?;
    let early = matches!(fault, Some(Fault::ServerResets(_) | Fault::ServerEnds(_)));
    let announced = match conn.final_head_or_end(Proof::Owed) {
        Ok((head, announced)) if head.status() == 200 => announced,
        // A reset may overtake the head; the gateway then says so in its own words.
        Ok((head, _)) if early && head.status() == 502 => return Ok(false),
        Err(_) if early => return Ok(false),
        Ok((head, _)) => return Err(format!("answer {nth}: {head:?}")),
        Err(error) => return Err(format!("no answer {nth}: {error}")),
    };
    let expected = match framing {
        Body::Length => Framing::Length(down.len),
        Body::Chunked => Framing::Chunked,
        Body::Close => Framing::UntilClose,
    };
    if announced != expected {
        return Err(format!("answer {nth}: framed as {announced:?} in place of {expected:?}"));
    }
    let (until, goes) = extent(fault, down.len);
    let read = match framing {
        Body::Chunked => read_chunks(conn, down, until, goes),
        Body::Length | Body::Close => pace::read(down, until, conn.input()),
    };
    match read {
        Err(error) => cut(error, fault, Some(*framing)).map(|()| false).map_err(|e| format!("answer {nth}: {e}")),
        Ok(()) if goes => Ok(false),
        Ok(()) if early => Err(format!("answer {nth} came whole though the server cut it")),
        Ok(()) => {
            score.add(down.len);
            let ends = *framing == Body::Close;
            if ends && conn.end() != End::Clean {
                return Err(format!("answer {nth}: cut at its end"));
            }
            Ok(!ends)
        }
    }
}

fn send(conn: &mut Conn, target: &str, up: &Stream, chunked: bool) -> io::Result<()> {
    let field = match (up.len, chunked) {
        (0, _) => "Accept: */*".to_owned(),
        (_, true) => "Transfer-Encoding: chunked".to_owned(),
        (len, false) => format!("Content-Length: {len}"),
    };
    let method = if up.len == 0 { "GET" } else { "POST" };
    let head = conn.head_for(method, target, &[&field]);
    conn.write_all(&head)?;
    if up.len > 0 && chunked {
        pace::write(up, up.len, |part| pace::chunk(conn, part))?;
        conn.write_all(b"0\r\n\r\n")?;
    } else {
        pace::write(up, up.len, |part| conn.write_all(part))?;
    }
    Ok(())
}

/// Reads a chunked body up to `until`; to its very end, unless the client goes before.
fn read_chunks(conn: &mut Conn, down: &Stream, until: u64, goes: bool) -> Result<(), ReadError> {
    let mut track = Track::new(down);
    loop {
        if goes && track.at() >= until {
            return Ok(());
        }
        track.step();
        let mut fault = None;
        let read = conn.input().chunk(&mut |part| {
            if fault.is_none() {
                fault = track.take(part).err();
            }
        });
        if let Some(fault) = fault {
            return Err(fault);
        }
        match read {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(ReadError::Ended { at: track.at(), error: Some(error) }),
        }
    }
    if track.at() != down.len {
        return Err(ReadError::Wrong(format!("the last chunk came after {} of {}", track.at(), down.len)));
    }
    let trailers = conn.input().trailers();
    trailers.map(drop).map_err(|error| ReadError::Ended { at: track.at(), error: Some(error) })
}

fn tunnel(
    conn: &mut Conn,
    index: u64,
    up: &Stream,
    down: &Stream,
    half_closes: bool,
    fault: Option<Fault>,
    score: &Score,
) -> Result<(), String> {
    conn.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
    let (_, head, _) = conn.final_head(Proof::Owed);
    if head.status() != 101 {
        return Err(format!("no tunnel: {head:?}"));
    }
    let (until, goes) = extent(fault, down.len);
    let writer = conn.writer();
    let (read, written) = std::thread::scope(|scope| {
        let writing = scope.spawn(move || tunnel_up(writer, index, up, half_closes));
        let read = pace::read(down, until, conn.input());
        if goes || read.is_err() {
            // Nobody reads any more, so the writer may never get through.
            let _ = conn.stream().shutdown(std::net::Shutdown::Both);
        }
        (read, writing.join().expect("the writer does not panic"))
    });
    match read {
        // The kernel tells of a reset once; if it was the writer that was told, the reader sees an end in order.
        Err(ReadError::Ended { at, error: None }) if written.is_err() => {
            let error = Some(io::ErrorKind::ConnectionReset.into());
            return cut(ReadError::Ended { at, error }, fault, None).map_err(|e| format!("tunnel: {e}"));
        }
        Err(error) => return cut(error, fault, None).map_err(|e| format!("tunnel: {e}")),
        Ok(()) if goes => return Ok(()),
        // All was read before the server's reset came: what came after is for the end below to tell.
        Ok(()) => score.add(down.len),
    }
    if fault.is_some() {
        return Err("a tunnel came whole though the server reset it".to_owned());
    }
    written.map_err(|e| format!("tunnel, upwards: {e}"))?;
    if !half_closes {
        conn.half_close();
    }
    match conn.end() {
        End::Clean => Ok(()),
        End::Cut => Err("a tunnel was cut at its end".to_owned()),
    }
}

fn tunnel_up(mut writer: Link, index: u64, up: &Stream, half_closes: bool) -> io::Result<()> {
    writer.write_all(format!("#{index}\r\n").as_bytes())?;
    pace::write(up, up.len, |part| writer.write_all(part))?;
    if half_closes { writer.half_close() } else { Ok(()) }
}
