//! The server in the container: as light as a server can be, so that what is measured is the way to it.
//!
//! Short answers come from one epoll loop; a connection that asks for anything long moves to a thread of its own and
//! stays there. A second port echoes raw bytes.

pub(crate) mod timed;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use portsplice_testkit::wire;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

/// Port that speaks HTTP.
pub(crate) const HTTP_PORT: u16 = 8080;
/// Port that sends every byte back.
pub(crate) const ECHO_PORT: u16 = 8081;
/// The protocol name with which `/echo` is upgraded to.
pub(crate) const ECHO_PROTOCOL: &str = "bench-echo";
/// Size of a token of `/sse`, so that a reader can find its timestamp.
pub(crate) const TOKEN: usize = 64;

const SSE_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
                          Transfer-Encoding: chunked\r\n\r\n";
const SMALL_BODY: usize = 1024;
const BULK_WRITE: usize = 128 * 1024;
const READ_BUFFER: usize = 256 * 1024;

/// Serves until the process is killed. Prints `ready` when both ports listen.
pub(crate) fn serve() -> anyhow::Result<()> {
    let http = TcpListener::bind((Ipv4Addr::UNSPECIFIED, HTTP_PORT)).context("listen")?;
    let echo = TcpListener::bind((Ipv4Addr::UNSPECIFIED, ECHO_PORT)).context("listen")?;
    thread::spawn(move || {
        for stream in echo.incoming().flatten() {
            thread::spawn(move || echo_all(stream, &[]));
        }
    });
    println!("ready");
    Loop::new(http)?.run()
}

/// The epoll loop: accepts, answers `GET /k`, hands everything else to threads.
struct Loop {
    epoll: std::os::fd::OwnedFd,
    listener: TcpListener,
    clients: HashMap<RawFd, Client>,
    timed: Sender<timed::Stream>,
    small: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Loop {
    fn new(listener: TcpListener) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, key(listener.as_raw_fd()), EventFlags::IN)?;
        Ok(Self { epoll, listener, clients: HashMap::new(), timed: timed::start(), small: small() })
    }

    fn run(mut self) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(256);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("wait for events"),
            }
            for event in &events {
                let fd = event.data.u64() as RawFd;
                if fd == self.listener.as_raw_fd() {
                    self.accept();
                } else {
                    self.readable(fd);
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let fd = stream.as_raw_fd();
            let ready = stream.set_nonblocking(true).is_ok()
                && stream.set_nodelay(true).is_ok()
                && epoll::add(&self.epoll, &stream, key(fd), EventFlags::IN).is_ok();
            if ready {
                self.clients.insert(fd, Client { stream, input: Vec::new() });
            }
        }
    }

    fn readable(&mut self, fd: RawFd) {
        let Some(client) = self.clients.get_mut(&fd) else { return };
        match client.step(&self.small) {
            Ok(Step::Wait) => {}
            // Closing the descriptor takes it out of the epoll set.
            Ok(Step::End) | Err(_) => drop(self.clients.remove(&fd)),
            Ok(Step::Long) => {
                let Some(client) = self.clients.remove(&fd) else { return };
                if epoll::delete(&self.epoll, &client.stream).is_ok() && client.stream.set_nonblocking(false).is_ok() {
                    let timed = self.timed.clone();
                    thread::spawn(move || serve_blocking(client.stream, client.input, &timed));
                }
            }
        }
    }
}

/// The answer to `GET /k`, the same to the octet from the loop and from threads.
fn small() -> Vec<u8> {
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {SMALL_BODY}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + SMALL_BODY, b'k');
    answer
}

fn key(fd: RawFd) -> EventData {
    EventData::new_u64(fd as u64)
}

enum Step {
    Wait,
    End,
    Long,
}

impl Client {
    /// Reads what is there and answers short requests.
    fn step(&mut self, small: &[u8]) -> io::Result<Step> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => return Ok(Step::End),
            Ok(n) => self.input.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Step::Wait),
            Err(error) => return Err(error),
        }
        while let Some(length) = wire::head_length(&self.input) {
            if !self.input.starts_with(b"GET /k ") {
                return Ok(Step::Long);
            }
            // An answer of 1.1 KB always fits the send buffer of a client that waits for it before it asks again.
            self.stream.write_all(small)?;
            self.input.drain(..length);
        }
        Ok(Step::Wait)
    }
}

/// Serves one connection to its end, one blocking request after the other.
fn serve_blocking(mut stream: TcpStream, mut input: Vec<u8>, timed: &Sender<timed::Stream>) {
    // A client that leaves in mid-answer is no error.
    while let Ok(true) = answer(&mut stream, &mut input, timed) {}
}

/// Answers one request; false when the connection has ended.
fn answer(stream: &mut TcpStream, input: &mut Vec<u8>, timed: &Sender<timed::Stream>) -> io::Result<bool> {
    let mut buffer = vec![0; READ_BUFFER];
    let length = loop {
        if let Some(length) = wire::head_length(input) {
            break length;
        }
        match stream.read(&mut buffer)? {
            0 => return Ok(false),
            n => input.extend_from_slice(&buffer[..n]),
        }
    };
    let head: Vec<u8> = input.drain(..length).collect();
    let target = wire::request_target(&head).unwrap_or_default().to_owned();
    let mut path = target.split('/').skip(1);
    let name = path.next().unwrap_or_default();
    let mut number = || path.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    match name {
        "bulk" => send_bulk(stream, number())?,
        "sse" => {
            let (count, interval, crowd) = (number(), number(), number());
            stream.write_all(SSE_HEAD)?;
            if crowd == 0 {
                send_tokens(stream, count, Duration::from_micros(interval))?;
            } else {
                hand_over(stream, timed, count, interval, crowd)?;
                return Ok(false);
            }
        }
        "sink" => receive(stream, wire::content_length(&head).unwrap_or(0), input, &mut buffer)?,
        "echo" => {
            write!(
                stream,
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {ECHO_PROTOCOL}\r\n\r\n"
            )?;
            echo_all(stream.try_clone()?, input);
            return Ok(false);
        }
        "k" => stream.write_all(&small())?,
        _ => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
    }
    Ok(true)
}

fn send_bulk(stream: &mut TcpStream, length: u64) -> io::Result<()> {
    let block = vec![b'b'; BULK_WRITE];
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n")?;
    let mut left = length;
    while left > 0 {
        let size = left.min(BULK_WRITE as u64) as usize;
        stream.write_all(&block[..size])?;
        left -= size as u64;
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, length: u64, input: &mut Vec<u8>, buffer: &mut [u8]) -> io::Result<()> {
    let early = length.min(input.len() as u64);
    input.drain(..early as usize);
    let mut left = length - early;
    while left > 0 {
        let most = left.min(buffer.len() as u64) as usize;
        match stream.read(&mut buffer[..most])? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => left -= n as u64,
        }
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
}

/// Sends `count` server-sent events, one each `interval`, each carrying the monotonic time at which it was sent.
fn send_tokens(stream: &mut TcpStream, count: u64, interval: Duration) -> io::Result<()> {
    let mut chunk = Vec::with_capacity(TOKEN + 8);
    for _ in 0..count {
        thread::sleep(interval);
        chunk.clear();
        write!(chunk, "{TOKEN:x}\r\ndata: {:020} {:.<35}\n\n\r\n", wire::monotonic_ns(), "token")?;
        stream.write_all(&chunk)?;
    }
    stream.write_all(b"0\r\n\r\n")
}

/// Leaves the stream to the thread that serves many: `count` events, one each `interval` microseconds, once `crowd` streams
/// are there.
fn hand_over(
    stream: &TcpStream,
    timed: &Sender<timed::Stream>,
    count: u64,
    interval: u64,
    crowd: u64,
) -> io::Result<()> {
    let socket = stream.try_clone()?;
    socket.set_nonblocking(true)?;
    let stream = timed::Stream { socket, left: count, interval: interval * 1000, crowd: crowd as usize };
    timed.send(stream).map_err(|_| ErrorKind::BrokenPipe.into())
}

fn echo_all(mut stream: TcpStream, early: &[u8]) {
    let mut buffer = [0; 16 * 1024];
    let mut run = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.write_all(early)?;
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                n => stream.write_all(&buffer[..n])?,
            }
        }
    };
    // The client ends it, by whatever way.
    let _ = run();
}

/// Where the server is reached by the routed path.
pub(crate) fn address(port: u16) -> SocketAddr {
    (crate::topology::CONTAINER, port).into()
}
