//! Many short requests over several connections at once, from one epoll loop.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use portsplice_testkit::wire;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::route::Route;

/// Connections at once when each is kept alive.
const KEPT: usize = 32;
/// Connections at once when each carries one request.
const FRESH: usize = 16;
const SILENCE: Duration = Duration::from_secs(30);

/// The time that `count` requests for 1 KiB take over 32 kept-alive connections.
pub(crate) fn kept_alive(route: &Route, count: usize) -> anyhow::Result<Duration> {
    // Connections are opened and used once before the clock starts.
    let heads = Heads::new(route, KEPT + count)?;
    let mut swarm = Swarm::new(route.http, heads, KEPT, false)?;
    swarm.run(KEPT)?;
    let start = Instant::now();
    swarm.run(count)?;
    Ok(start.elapsed())
}

/// The time that `count` connections take, 16 at once, each opened, asked for 1 KiB once, and closed.
pub(crate) fn fresh(route: &Route, count: usize) -> anyhow::Result<Duration> {
    let heads = Heads::new(route, count)?;
    let mut swarm = Swarm::new(route.http, heads, FRESH, true)?;
    let start = Instant::now();
    swarm.run(count)?;
    Ok(start.elapsed())
}

/// Requests made before the clock starts: a signature is good for one request, and signing is not what is measured.
struct Heads {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    next: usize,
}

impl Heads {
    fn new(route: &Route, count: usize) -> anyhow::Result<Self> {
        let mut heads = Self { bytes: Vec::new(), ends: Vec::with_capacity(count), next: 0 };
        // An unsigned request may be sent again and again.
        let distinct = if route.signer.is_some() { count } else { 1 };
        for _ in 0..distinct {
            heads.bytes.extend(route.head("GET", "/k", "")?);
            heads.ends.push(heads.bytes.len());
        }
        Ok(heads)
    }

    fn next(&mut self) -> &[u8] {
        let at = self.next % self.ends.len();
        self.next += 1;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.bytes[start..self.ends[at]]
    }
}

struct Slot {
    stream: TcpStream,
    input: Vec<u8>,
    /// The request has been written and its answer is awaited.
    asked: bool,
}

struct Swarm {
    address: SocketAddr,
    heads: Heads,
    epoll: OwnedFd,
    slots: Vec<Option<Slot>>,
    /// A new connection for each request.
    fresh: bool,
    /// Requests still to be started.
    to_start: usize,
    /// Requests still to be answered.
    to_finish: usize,
}

impl Swarm {
    fn new(address: SocketAddr, heads: Heads, size: usize, fresh: bool) -> anyhow::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let slots = (0..size).map(|_| None).collect();
        Ok(Self { address, heads, epoll, slots, fresh, to_start: 0, to_finish: 0 })
    }

    /// Makes `count` requests, as many at once as there are slots.
    fn run(&mut self, count: usize) -> anyhow::Result<()> {
        (self.to_start, self.to_finish) = (count, count);
        for at in 0..self.slots.len() {
            self.start(at)?;
        }
        let timeout = SILENCE.try_into().context("timeout")?;
        let mut events = Vec::with_capacity(64);
        while self.to_finish > 0 {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(0) => bail!("no answer for {SILENCE:?}, {} requests missing", self.to_finish),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("wait for events"),
            }
            for event in &events {
                self.ready(event.data.u64() as usize)?;
            }
        }
        Ok(())
    }

    /// Begins the next request in slot `at`, if any is left.
    fn start(&mut self, at: usize) -> anyhow::Result<()> {
        if self.to_start == 0 {
            return Ok(());
        }
        self.to_start -= 1;
        match self.slots[at].as_mut() {
            Some(slot) => slot.ask(&mut self.heads),
            None => {
                let stream = connect(self.address)?;
                epoll::add(&self.epoll, &stream, EventData::new_u64(at as u64), EventFlags::OUT)?;
                self.slots[at] = Some(Slot { stream, input: Vec::with_capacity(4096), asked: false });
                Ok(())
            }
        }
    }

    fn ready(&mut self, at: usize) -> anyhow::Result<()> {
        let Some(slot) = self.slots[at].as_mut() else { return Ok(()) };
        if !slot.asked {
            if let Some(error) = slot.stream.take_error()? {
                return Err(error).with_context(|| format!("connect to {}", self.address));
            }
            epoll::modify(&self.epoll, &slot.stream, EventData::new_u64(at as u64), EventFlags::IN)?;
            return slot.ask(&mut self.heads);
        }
        if !slot.answered()? {
            return Ok(());
        }
        self.to_finish -= 1;
        if self.fresh {
            self.slots[at] = None;
        }
        self.start(at)
    }
}

impl Slot {
    fn ask(&mut self, heads: &mut Heads) -> anyhow::Result<()> {
        self.asked = true;
        self.input.clear();
        // A request of a few hundred bytes fits the empty send buffer of a connection that waits for each answer.
        self.stream.write_all(heads.next()).context("send a request")
    }

    /// Reads; whether the whole answer is there.
    fn answered(&mut self) -> anyhow::Result<bool> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the connection ended instead of answering"),
            Ok(n) => self.input.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("read an answer"),
        }
        let Some(head) = wire::head_length(&self.input) else { return Ok(false) };
        let head_bytes = &self.input[..head];
        ensure!(wire::status(head_bytes) == Some(200), "not 200: {}", String::from_utf8_lossy(head_bytes));
        let body = wire::content_length(head_bytes).context("a response without Content-Length")?;
        Ok((self.input.len() - head) as u64 == body)
    }
}

/// A connection under way; it is writable when it stands.
fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = rustix::net::socket_with(
        if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 },
        SocketType::STREAM,
        SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        None,
    )?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error).with_context(|| format!("connect to {address}")),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}
