//! One thread and edge-triggered epoll(7): the most demanding way to write.
//!
//! After a write that took less than it was given, or nothing, this server does not try again before the kernel tells of
//! room. Who takes less of it than there was room for, without an event later, stalls it for good.
//!
//! `GET /hold/N/M` announces N + M bytes and sends N of them; the rest follows once `GET /release` has come on any
//! connection.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::Tally;
use crate::http::Head;
use crate::pattern;

/// The most that one write(2) is given.
const STEP: u64 = 100_000;
/// The listener's mark among the events.
const LISTENER: u64 = 0;

/// A connection and what is to be sent on it.
struct Client {
    stream: TcpStream,
    input: Vec<u8>,
    ended: bool,
    writable: bool,
    /// Heads and small answers, before the content.
    text: Vec<u8>,
    at: u64,
    /// So far the content may be sent; the rest waits for a release.
    until: u64,
    end: u64,
}

/// Serves until the listener fails.
pub(super) fn run(listener: &TcpListener) -> io::Result<()> {
    let tally = Tally::default();
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut clients: HashMap<u64, Client> = HashMap::new();
    let mut events = Vec::with_capacity(1024);
    let mut last = LISTENER;
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        Tally::count(&tally.wakeups);
        for event in &events {
            // A copy: the kernel's structure is packed.
            let (key, flags) = (event.data.u64(), event.flags);
            if key == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    last += 1;
                    let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    epoll::add(&epoll, &stream, EventData::new_u64(last), flags)?;
                    clients.insert(last, Client::new(stream));
                }
                continue;
            }
            let Some(client) = clients.get_mut(&key) else { continue };
            client.writable |= flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP);
            match client.go_on(&tally) {
                Ok(Next::Wait) => {}
                Ok(Next::Close) | Err(_) => drop(clients.remove(&key)),
                Ok(Next::Release) => clients.retain(|_, client| client.release(&tally)),
            }
        }
    }
}

enum Next {
    /// The kernel will tell.
    Wait,
    /// All is done.
    Close,
    /// What the others hold may go.
    Release,
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        Self { stream, input: Vec::new(), ended: false, writable: false, text: Vec::new(), at: 0, until: 0, end: 0 }
    }

    fn go_on(&mut self, tally: &Tally) -> io::Result<Next> {
        let mut next = Next::Wait;
        self.read()?;
        loop {
            self.write(tally)?;
            if !self.text.is_empty() || self.at < self.end {
                return Ok(next);
            }
            match self.request(tally) {
                Some(released) if released => next = Next::Release,
                Some(_) => {}
                None if self.ended => {
                    self.stream.shutdown(Shutdown::Write)?;
                    return Ok(Next::Close);
                }
                None => return Ok(next),
            }
        }
    }

    /// Sends what was held back; whether the connection still stands.
    fn release(&mut self, tally: &Tally) -> bool {
        self.until = self.end;
        !matches!(self.go_on(tally), Err(_) | Ok(Next::Close))
    }

    /// Reads all there is, as edge-triggered events demand.
    fn read(&mut self) -> io::Result<()> {
        let mut part = [0; 16384];
        while !self.ended {
            match self.stream.read(&mut part) {
                Ok(0) => self.ended = true,
                Ok(n) => self.input.extend_from_slice(&part[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Takes the next request, if there is a whole one; whether it releases the others.
    fn request(&mut self, tally: &Tally) -> Option<bool> {
        let end = self.input.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = Head::parse(&self.input.drain(..end).collect::<Vec<_>>());
        let mut parts = head.target().trim_start_matches('/').split('/');
        let what = parts.next().unwrap_or_default().to_owned();
        let mut number = || parts.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        let (now, later) = (number(), number());
        let body = if what == "tally" { tally.page() } else { String::new() };
        let status =
            if matches!(what.as_str(), "bytes" | "hold" | "tally" | "release") { "200 OK" } else { "404 Not Found" };
        if matches!(what.as_str(), "bytes" | "hold") {
            (self.at, self.until, self.end) = (0, now, now + later);
        }
        let length = self.end - self.at + body.len() as u64;
        self.text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes();
        Some(what == "release")
    }

    /// Writes until the kernel takes no more.
    fn write(&mut self, tally: &Tally) -> io::Result<()> {
        while self.writable {
            let (part, is_text) = match self.text.as_slice() {
                [] if self.at < self.until => {
                    (pattern::slice(self.at, (self.until - self.at).min(STEP) as usize), false)
                }
                [] => return Ok(()),
                text => (text, true),
            };
            let given = part.len();
            match self.stream.write(part) {
                Ok(taken) => {
                    tally.wrote(given, taken);
                    self.writable = taken == given;
                    if is_text {
                        self.text.drain(..taken);
                    } else {
                        self.at += taken as u64;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    Tally::count(&tally.again);
                    self.writable = false;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
