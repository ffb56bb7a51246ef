//! A thousand streams of server-sent events at once, as language models write to a cluster's users: how late an event
//! comes, and what it costs the machine.
//!
//! One thread reads them all, as one writes them (`origin::timed`), which begins when all are there and spreads their
//! events evenly over the time between two of one stream.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, bail};
use portsplice_testkit::conn::Conn;
use portsplice_testkit::wire;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use super::sse::take_event;
use crate::machine;
use crate::origin::timed::EVENT;
use crate::route::Route;

const STREAMS: usize = 1_000;
const INTERVAL_US: u64 = 50_000;
/// What is sent in the time after all streams stood does not count, in nanoseconds: it is the start of each stream.
const WARM_UP: u64 = 400_000_000;
/// Streams that are silent for so long have failed.
const SILENCE: Duration = Duration::from_secs(30);

/// What was seen.
pub(crate) struct Seen {
    /// How long each event took from the server's write to the reader's hand.
    pub(crate) delays: Vec<Duration>,
    /// CPU time of the whole machine for each event, in microseconds.
    pub(crate) cpu_us: f64,
}

/// Reads 1,000 streams of `events` each, 20 a second in each.
pub(crate) fn read(route: &Route, events: u64) -> anyhow::Result<Seen> {
    let mut readers = Readers::new()?;
    let target = format!("/sse/{events}/{INTERVAL_US}/{STREAMS}");
    for _ in 0..STREAMS {
        let mut conn = Conn::connect(route.http)?;
        conn.send(&route.head("GET", &target, "Accept: text/event-stream\r\n")?)?;
        conn.expect(200)?;
        readers.add(conn)?;
    }
    readers.run(wire::monotonic_ns() + WARM_UP)?;
    let (delays, before) = (readers.delays, readers.cpu_before.context("no event came after the warm-up")?);
    let spent = machine::cpu_seconds()? - before;
    Ok(Seen { cpu_us: spent * 1e6 / delays.len() as f64, delays })
}

struct Readers {
    epoll: OwnedFd,
    streams: Vec<(TcpStream, Vec<u8>)>,
    open: usize,
    delays: Vec<Duration>,
    /// CPU seconds of the machine at the first event that counts.
    cpu_before: Option<f64>,
}

impl Readers {
    fn new() -> anyhow::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, streams: Vec::with_capacity(STREAMS), open: 0, delays: Vec::new(), cpu_before: None })
    }

    fn add(&mut self, mut conn: Conn) -> anyhow::Result<()> {
        let early = std::mem::take(conn.input());
        conn.stream.set_nonblocking(true)?;
        let key = EventData::new_u64(self.streams.len() as u64);
        epoll::add(&self.epoll, &conn.stream, key, EventFlags::IN)?;
        self.streams.push((conn.stream, early));
        self.open += 1;
        Ok(())
    }

    /// Reads all to their ends; the events that were sent after `since` count.
    fn run(&mut self, since: u64) -> anyhow::Result<()> {
        let timeout = SILENCE.try_into().context("timeout")?;
        let mut ready = Vec::with_capacity(256);
        while self.open > 0 {
            ready.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), Some(&timeout)) {
                Ok(0) => bail!("no event for {SILENCE:?} in {} streams", self.open),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("wait for events"),
            }
            for event in &ready {
                self.read(event.data.u64() as usize, since)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, at: usize, since: u64) -> anyhow::Result<()> {
        let Some((stream, input)) = self.streams.get_mut(at) else { return Ok(()) };
        let mut buffer = [0; 16 * 1024];
        match stream.read(&mut buffer) {
            Ok(0) => bail!("a stream ended in the middle"),
            Ok(n) => input.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("read a stream"),
        }
        let now = wire::monotonic_ns();
        while let Some(sent) = take_event(input, EVENT) {
            if sent >= since {
                if self.cpu_before.is_none() {
                    self.cpu_before = Some(machine::cpu_seconds()?);
                }
                self.delays.push(Duration::from_nanos(now.saturating_sub(sent)));
            }
        }
        if input.ends_with(b"\r\n0\r\n\r\n") {
            epoll::delete(&self.epoll, &*stream)?;
            self.open -= 1;
        }
        Ok(())
    }
}
