//! A non-blocking TCP socket that every path of the relay can use.
//!
//! [`Sock`] differs from `tokio::net::TcpStream` in two ways the relay needs. All its operations take `&self` and poll
//! with a context, so the two directions of one connection can be driven by two futures of one task without a lock or a
//! split. And it exposes the descriptor's readiness for system calls that tokio does not know, above all `splice(2)`.

use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use self::receive::ReceiveBuffer;
use self::tails::Tail;

mod receive;
mod tails;

pub use self::tails::{TailStatus, Tails};

/// A connected (or connecting) non-blocking stream socket, registered with the runtime's reactor.
#[derive(Debug)]
pub struct Sock {
    /// Another one takes its place when the connection is [parted](Sock::part) from.
    fd: ArcSwap<AsyncFd<Socket>>,
    /// What was taken out of it then.
    tail: OnceLock<Box<Mutex<Tail>>>,
    /// Connected a moment ago: it takes bytes, though the reactor has not yet had the time to say so.
    fresh: AtomicBool,
    /// A write was told of the peer's reset. The kernel tells it once, and a read would afterwards see an orderly end.
    reset: AtomicBool,
    /// How big its receive buffer may be.
    receive: ReceiveBuffer,
}

impl Sock {
    /// Registers `socket` with the reactor of the current runtime and makes it non-blocking.
    ///
    /// # Errors
    /// The error of `fcntl(2)` or `epoll_ctl(2)`.
    pub fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Self::register(socket)
    }

    /// Accepts a connection, a non-blocking one, without registering it anywhere yet. `SO_OOBINLINE` is on. A peer that came
    /// by IPv4 has an IPv4 address, also on a socket that listens on both.
    ///
    /// # Errors
    /// The error of `accept4(2)`; `WouldBlock` when none waits.
    pub fn accept(listener: &Socket) -> io::Result<(Socket, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, peer) = acceptfrom_with(listener, flags)?;
        // A peer without an IP address cannot happen on a TCP socket.
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok()).ok_or(ErrorKind::Unsupported)?;
        let peer = canonical(peer);
        let socket = Socket::from(socket);
        // Otherwise an octet of urgent data would be taken out of the stream, and lost. The listener could pass the option
        // on, but not to connections that waited on an inherited one before it was ours.
        socket.set_out_of_band_inline(true)?;
        Ok((socket, peer))
    }

    /// Registers a socket that is non-blocking already.
    ///
    /// # Errors
    /// The error of `epoll_ctl(2)`.
    pub fn register(socket: Socket) -> io::Result<Self> {
        let fd = Self::registered(socket)?;
        Ok(Self {
            fd: ArcSwap::from_pointee(fd),
            tail: OnceLock::new(),
            fresh: AtomicBool::new(false),
            reset: AtomicBool::new(false),
            receive: ReceiveBuffer::default(),
        })
    }

    fn registered(socket: Socket) -> io::Result<AsyncFd<Socket>> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::ERROR | Interest::PRIORITY;
        // SAFETY: `Socket` owns its descriptor, always returns the same one, and `AsyncFd` drops its registration before
        // the socket; nothing here ever gives out a mutable reference with which the socket could be replaced.
        Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
    }

    /// Connects `socket`, a non-blocking one, to `peer`; the socket decides in which network namespace.
    ///
    /// # Errors
    /// The error of `connect(2)`, also when it is reported later through `SO_ERROR`.
    pub async fn connect(socket: Socket, peer: SocketAddr) -> io::Result<Self> {
        let address = peer.into();
        let first = socket.connect(&address);
        // Inside one host the handshake is over when the first call returns, though it says EINPROGRESS; asking again
        // costs less than waiting for the reactor to tell.
        let second = match first {
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => socket.connect(&address),
            done => done,
        };
        match second {
            Ok(()) => return Self::register_fresh(socket),
            Err(e) if e.raw_os_error() == Some(libc::EISCONN) => return Self::register_fresh(socket),
            Err(e) if matches!(e.raw_os_error(), Some(libc::EALREADY | libc::EINPROGRESS)) => {}
            Err(e) => return Err(e),
        }
        let sock = Self::register(socket)?;
        poll_fn(|cx| sock.fd.load().poll_write_ready(cx).map_ok(|mut guard| guard.retain_ready())).await?;
        match sock.socket().take_error()? {
            Some(error) => Err(error),
            None => Ok(sock),
        }
    }

    fn register_fresh(socket: Socket) -> io::Result<Self> {
        let sock = Self::register(socket)?;
        sock.fresh.store(true, Relaxed);
        Ok(sock)
    }

    /// Reads into `buf`; 0 is the end of the stream.
    pub fn poll_recv(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Some(tail) = self.tail.get()
            && let Some(result) = tail.lock().read(buf)
        {
            return Poll::Ready(result);
        }
        let fd = self.fd.load();
        loop {
            let mut guard = ready!(fd.poll_read_ready(cx))?;
            match self.receive.during(fd.get_ref(), || fd.get_ref().read(buf)) {
                Ok(0) if self.reset.load(Relaxed) && !buf.is_empty() => {
                    return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
                }
                Ok(n) => {
                    // A short read emptied the queue: epoll is edge triggered and tells us of anything newer (an end of
                    // stream seen together with the data stays set as "read closed"). This saves one EAGAIN a message.
                    if n > 0 && n < buf.len() && !self.had_urgent_data() {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(n));
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => guard.clear_ready(),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }

    /// Whether the reactor has told of urgent data (`MSG_OOB`, tcp(7)), or of the end of the stream, since the socket was
    /// made.
    ///
    /// A read stops before the urgent octet, and splice(2) does not get past it at all (`tcp_recvmsg_locked` and
    /// `__tcp_read_sock` in net/ipv4/tcp.c), with more in the queue that epoll has told of already. So on such a socket
    /// only a read that says `WouldBlock` proves that nothing waits. What the reactor does not know of yet, it still has
    /// to tell, and that wakes the reader.
    fn had_urgent_data(&self) -> bool {
        self.fd.load().try_io(Interest::PRIORITY, |_| Ok(())).is_ok()
    }

    /// Writes from `buf`; may take less than all of it.
    pub fn poll_send(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.fresh.swap(false, Relaxed) {
            match (&*self.socket()).write(buf) {
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                result => return Poll::Ready(self.noting_reset(result)),
            }
        }
        self.poll_writable(cx, |socket| (&*socket).write(buf))
    }

    /// Looks at the next byte without taking it: `Ok(true)` when there is one, `Ok(false)` at the end of the stream.
    pub fn poll_peek(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if let Some(more) = self.tail.get().and_then(|tail| tail.lock().peek()) {
            return Poll::Ready(Ok(more));
        }
        self.poll_readable(cx, |socket| {
            let mut byte = [std::mem::MaybeUninit::<u8>::uninit()];
            socket.peek(&mut byte).map(|n| n > 0)
        })
    }

    /// Runs `call` when the socket is readable, again whenever it says `WouldBlock`.
    pub fn poll_readable<T>(
        &self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(&Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let fd = self.fd.load();
        loop {
            let mut guard = ready!(fd.poll_read_ready(cx))?;
            match self.receive.during(fd.get_ref(), || call(fd.get_ref())) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => guard.clear_ready(),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Runs `call` when the socket is writable, again whenever it says `WouldBlock`.
    pub fn poll_writable<T>(
        &self,
        cx: &mut Context<'_>,
        mut call: impl FnMut(&Socket) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        if self.tail_taken() {
            return Poll::Pending;
        }
        let fd = self.fd.load();
        loop {
            let mut guard = ready!(fd.poll_write_ready(cx))?;
            match call(fd.get_ref()) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => guard.clear_ready(),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                result => return Poll::Ready(self.noting_reset(result)),
            }
        }
    }

    fn noting_reset<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset) {
            self.reset.store(true, Relaxed);
        }
        result
    }

    /// Sends FIN. A connection that is already gone is no error: its end is what was asked for.
    ///
    /// # Errors
    /// The error of `shutdown(2)` other than `ENOTCONN`.
    pub fn shutdown_write(&self) -> io::Result<()> {
        match self.socket().shutdown(Shutdown::Write) {
            Err(e) if e.kind() == ErrorKind::NotConnected => Ok(()),
            result => result,
        }
    }

    /// Waits until the kernel reports an error on the socket, such as a reset; gives it where it can still be read.
    pub async fn broken(&self) -> Option<io::Error> {
        broken(&self.fd.load_full()).await
    }

    /// The same for whoever cannot borrow the socket as long. It keeps the descriptor open.
    pub fn breakage(&self) -> impl Future<Output = Option<io::Error>> + use<> {
        let fd = self.fd.load_full();
        async move { broken(&fd).await }
    }

    /// What became of the bytes that were sent (`tcp_info`, linux/tcp.h); also after the connection's end. `None` where the
    /// kernel does not tell.
    pub fn flight(&self) -> Option<Flight> {
        // Offsets of the fields, which have stood where they are since Linux 4.19; libc's structure ends before them.
        const BYTES_ACKED: usize = 120;
        const BYTES_SENT: usize = 200;
        const BYTES_RETRANS: usize = 208;
        let mut info = [0_u8; 216];
        let mut length = info.len() as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` octets to `info`, and both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result != 0 || (length as usize) < info.len() {
            return None;
        }
        let field = |at: usize| info[at..at + 8].try_into().map_or(0, u64::from_ne_bytes);
        let sent = field(BYTES_SENT).saturating_sub(field(BYTES_RETRANS));
        // The handshake's SYN counts as an acknowledged byte, and as none that was sent.
        let acknowledged = field(BYTES_ACKED).saturating_sub(1);
        Some(Flight { sent, unacknowledged: sent.saturating_sub(acknowledged) })
    }

    /// Whether the peer can send nothing more: its FIN or RST has come, read or not.
    pub fn peer_has_ended(&self) -> bool {
        // include/net/tcp_states.h; libc has no names for them.
        const ESTABLISHED: u8 = 1;
        const FIN_WAIT1: u8 = 4;
        const FIN_WAIT2: u8 = 5;
        self.tail_taken() || self.state().is_some_and(|state| !matches!(state, ESTABLISHED | FIN_WAIT1 | FIN_WAIT2))
    }

    /// Whether the receive queue holds something, or the end, that the reactor may not have told of yet.
    pub fn has_news(&self) -> bool {
        let mut octet = [std::mem::MaybeUninit::<u8>::uninit()];
        if self.has_tail() {
            return true;
        }
        let peeked = self.socket().peek(&mut octet);
        !matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Keeps the receive buffer at `bytes`, as `SO_RCVBUF` takes them (the kernel doubles them), so that little waits in it; 0
    /// lets the kernel enlarge it again, as a fast reader needs.
    pub fn keep_receive_buffer(&self, bytes: u32) {
        self.receive.keep(bytes);
    }

    /// Makes the coming close an abort (RST) instead of an orderly end, so that the peer learns that bytes are missing.
    pub fn reset_on_close(&self) {
        // Failing here means the connection is already gone, and then there is nobody left to tell.
        let _ = self.socket().set_linger(Some(Duration::ZERO));
    }

    /// Makes the coming close an orderly one again, see [`Sock::reset_on_close`].
    pub fn end_on_close(&self) {
        // As above.
        let _ = self.socket().set_linger(None);
    }

    /// Bytes that the peer's kernel has not acknowledged; none once the connection is gone (`SIOCOUTQ`, tcp(7)).
    pub fn unsent(&self) -> usize {
        // include/net/tcp_states.h
        const CLOSE: u8 = 7;
        if self.state() == Some(CLOSE) {
            return 0;
        }
        let mut unsent: libc::c_int = 0;
        // SAFETY: the kernel writes one int, which outlives the call.
        let result = unsafe { libc::ioctl(self.as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) };
        if result == 0 { usize::try_from(unsent).unwrap_or(0) } else { 0 }
    }

    /// Takes out what the connection still holds, up to its end, and lets go of the socket then: its peer's container has
    /// ended, and the namespace that the socket is in is to end too. Reads go on with what was taken out; nothing more can be
    /// written. `limit` is what all of `tails` may use.
    ///
    /// Gives whether anything was taken out, and whether it is done; while neither the end has come nor the memory is used up,
    /// the task is woken when there is more.
    pub fn take_tail(&self, cx: &mut Context<'_>, tails: &Arc<Tails>, limit: u64) -> (bool, Poll<TailStatus>) {
        let mut tail = self.tail.get_or_init(Box::default).lock();
        let mut taken = false;
        let status = loop {
            let filled = self.poll_readable(cx, |socket| {
                tail.fill(tails, limit, |buf| match (&*socket).read(buf) {
                    Ok(0) if self.reset.load(Relaxed) => Err(ErrorKind::ConnectionReset.into()),
                    result => result,
                })
            });
            match filled {
                Poll::Ready(Ok(None)) => taken = true,
                Poll::Ready(Ok(Some(status))) => break status,
                // `fill` keeps what a read fails with; what is left is the reactor's, at the end of its runtime.
                Poll::Ready(Err(_)) | Poll::Pending => return (taken, Poll::Pending),
            }
        };
        if status == TailStatus::Complete
            && let Ok(Ok(other)) = Socket::new(Domain::IPV4, Type::STREAM, None).map(|socket| {
                socket.set_nonblocking(true)?;
                Self::registered(socket)
            })
        {
            // One that is connected to nothing, on which every call is harmless.
            self.fd.store(Arc::new(other));
        }
        (taken, Poll::Ready(status))
    }

    /// Whether a part of the stream, its end at least, is in memory: calls of the caller's own on the socket would miss it.
    pub fn has_tail(&self) -> bool {
        self.tail.get().is_some_and(|tail| tail.lock().peek().is_some())
    }

    /// Whether the connection has ended and all of it is in memory, or was.
    pub fn tail_taken(&self) -> bool {
        self.tail.get().is_some_and(|tail| tail.lock().has_ended())
    }

    /// The state of the connection (`tcp_info.tcpi_state`, tcp(7)).
    fn state(&self) -> Option<u8> {
        // It is the first octet of the structure, and the kernel gives as much of it as is asked for.
        let mut state = 0_u8;
        let mut length: libc::socklen_t = 1;
        // SAFETY: the kernel writes at most `length` octets to `state`, and both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                self.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut state).cast(),
                &raw mut length,
            )
        };
        (result == 0).then_some(state)
    }

    /// The socket itself, for options and addresses.
    pub fn socket(&self) -> impl Deref<Target = Socket> + use<> {
        Held(self.fd.load_full())
    }
}

/// Bytes on their way to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flight {
    /// Bytes that were ever sent, each counted once.
    pub sent: u64,
    /// Of those, the ones that the peer's kernel has not acknowledged.
    pub unacknowledged: u64,
}

async fn broken(fd: &AsyncFd<Socket>) -> Option<io::Error> {
    match fd.ready(Interest::ERROR).await {
        Ok(_) => fd.get_ref().take_error().ok().flatten(),
        Err(error) => Some(error),
    }
}

/// A socket that stays open while this is held.
struct Held(Arc<AsyncFd<Socket>>);

impl Deref for Held {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        self.0.get_ref()
    }
}

impl AsRawFd for Sock {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.load().as_raw_fd()
    }
}

impl AsyncRead for Sock {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let n = ready!(self.poll_recv(cx, buf.initialize_unfilled()))?;
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sock {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_writable(cx, |socket| (&*socket).write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown_write())
    }
}

/// Sets an option of the type `int` that socket2 does not know.
///
/// # Errors
/// That of setsockopt(2).
pub fn set_option(socket: &Socket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads an int of the given size, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A peer's address as it is meant: one that came by IPv4 to a socket that listens on both has its address written in IPv6
/// (RFC 4291, 2.5.5.2).
#[must_use]
pub fn canonical(peer: SocketAddr) -> SocketAddr {
    match peer.ip().to_canonical() {
        IpAddr::V4(address) => (address, peer.port()).into(),
        // With its scope, which tells link-local addresses apart.
        IpAddr::V6(_) => peer,
    }
}
