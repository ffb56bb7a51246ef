//! Servers that write in every way the kernel knows, each a process of its own: `zoo MANNER ADDRESS [SEND-BUFFER]`.
//!
//! How a server waits and writes decides what a relay's mistake does to it. A blocking sender sleeps for good, an
//! edge-triggered one waits for an event that never comes, a level-triggered one spins, a zero-copy one never gets its
//! pages back. What they count ([`Tally`]) is part of what they serve.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /bytes/N` | the pattern's first N bytes with a length |
//! | `GET /crowd/N` | N bytes from four threads that write to the one socket without any order between them ([`crowd`]) |
//! | `GET /urgent/N` | as `/bytes/N`, of which the byte in the middle is urgent (MSG_OOB) |
//! | `POST /sink` | how many of the pattern's bytes came: `N` and a line end |
//! | `GET /tally` | what was counted: `NAME N` lines |
//!
//! [`ServerVariant::Edge`] serves `/bytes`, `/tally` and `/hold/N` ([`edge`]) only.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use socket2::{Domain, Protocol, Socket, Type};

use crate::net::Netns;
use crate::process::Process;

pub mod blocking;
pub mod crowd;
pub mod edge;
mod uring;

/// How a server writes the content of its answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerVariant {
    /// write(2), 64 KiB each.
    Write,
    /// write(2) of 1 to 1,400 bytes.
    Small,
    /// writev(2) of pieces of odd sizes.
    Vectored,
    /// send(2) with MSG_MORE except for the last one.
    More,
    /// Four threads that take turns on the one socket.
    Turns,
    /// sendfile(2).
    Sendfile,
    /// splice(2) from a pipe.
    Splice,
    /// send(2) with MSG_ZEROCOPY; waits until the kernel has given all pages back.
    Zerocopy,
    /// io_uring: send.
    Uring,
    /// io_uring: zero-copy send, with its notifications.
    UringZerocopy,
    /// write(2); requests are read only as far as FIONREAD says, and none means that the client has ended.
    Fionread,
    /// write(2) on what a Multipath TCP listener accepted.
    Mptcp,
    /// One thread, edge-triggered epoll: a write that comes up short is not tried again before the next event.
    Edge,
}

impl ServerVariant {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Write,
        Self::Small,
        Self::Vectored,
        Self::More,
        Self::Turns,
        Self::Sendfile,
        Self::Splice,
        Self::Zerocopy,
        Self::Uring,
        Self::UringZerocopy,
        Self::Fionread,
        Self::Mptcp,
        Self::Edge,
    ];

    /// As the command line names it.
    #[must_use]
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The manner with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|manner| manner.name() == name)
    }
}

/// What a server counts, over all its connections.
#[derive(Debug, Default)]
pub struct Tally {
    /// System calls that wrote something.
    pub writes: AtomicU64,
    /// Of those, such as took less than they were given.
    pub short: AtomicU64,
    /// System calls that took nothing: EAGAIN.
    pub again: AtomicU64,
    /// Returns from epoll_wait(2).
    pub wakeups: AtomicU64,
    /// Zero-copy sends whose pages the kernel has given back.
    pub completed: AtomicU64,
}

impl Tally {
    fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a write of `given` bytes that took `taken`.
    fn wrote(&self, given: usize, taken: usize) {
        Self::count(&self.writes);
        if taken < given {
            Self::count(&self.short);
        }
    }

    /// The page that `/tally` gives.
    fn page(&self) -> String {
        let rows = [
            ("writes", &self.writes),
            ("short", &self.short),
            ("again", &self.again),
            ("wakeups", &self.wakeups),
            ("completed", &self.completed),
        ];
        rows.map(|(name, counter)| format!("{name} {}\n", counter.load(Ordering::Relaxed))).concat()
    }

    /// Reads a page that `/tally` gave.
    #[track_caller]
    #[must_use]
    pub fn parse(page: &str) -> Self {
        let value = |name: &str| {
            let line = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
            AtomicU64::new(line.unwrap_or_else(|| panic!("no {name} in {page:?}")))
        };
        Self {
            writes: value("writes "),
            short: value("short "),
            again: value("again "),
            wakeups: value("wakeups "),
            completed: value("completed "),
        }
    }
}

/// Listens and serves for ever; prints `port N` once it listens.
///
/// # Errors
/// What keeps it from listening.
#[expect(clippy::print_stdout, reason = "the test reads the port from here")]
pub fn run(manner: ServerVariant, address: &str, send_buffer: Option<usize>) -> anyhow::Result<()> {
    let listener = listen(manner, address)?;
    if let Some(bytes) = send_buffer {
        // Accepted sockets inherit it.
        socket2::SockRef::from(&listener).set_send_buffer_size(bytes).context("SO_SNDBUF")?;
    }
    println!("port {}", listener.local_addr()?.port());
    match manner {
        ServerVariant::Edge => edge::run(&listener)?,
        _ => blocking::run(&listener, manner),
    }
    Ok(())
}

fn listen(manner: ServerVariant, address: &str) -> anyhow::Result<TcpListener> {
    let address: SocketAddr = address.parse().with_context(|| format!("{address} is no address"))?;
    let protocol = if manner == ServerVariant::Mptcp { Protocol::MPTCP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol))
        .with_context(|| format!("a {protocol:?} socket (Multipath TCP: sysctl net.mptcp.enabled)"))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// A running server; killed when dropped.
pub struct Server {
    /// The port it listens on.
    pub port: u16,
    /// Its process.
    pub process: Process,
}

impl Server {
    /// Starts one on 127.0.0.1 of a namespace.
    #[track_caller]
    #[must_use]
    pub fn start(manner: ServerVariant, netns: &Netns) -> Self {
        Self::start_on(manner, netns, "127.0.0.1:0", None)
    }

    /// Starts one on an address of a namespace, perhaps with send buffers of a certain size.
    #[track_caller]
    #[must_use]
    pub fn start_on(manner: ServerVariant, netns: &Netns, address: &str, send_buffer: Option<usize>) -> Self {
        let mut command = Command::new(crate::tools::built("zoo"));
        command.arg(manner.name()).arg(address).args(send_buffer.map(|bytes| bytes.to_string()));
        let process = Process::spawn(&format!("{manner:?}"), &mut command, Some(netns));
        let port = process.line_with("port ").parse().expect("a port");
        Self { port, process }
    }
}

/// Whether an error says only that the client has gone.
fn is_goodbye(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}
