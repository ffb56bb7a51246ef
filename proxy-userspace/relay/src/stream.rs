//! One end of a relayed connection: a plain socket, or TLS over one.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use crate::meter::Meter;
use portsplice_model::Direction;
use portsplice_net::sock::{Flight, Sock, TailStatus, Tails};

/// A connection that two futures of one task may read and write through a shared reference.
#[derive(Debug)]
pub enum Stream {
    /// TCP as it is.
    Plain(Sock),
    /// TLS in userspace. The lock is held within a single poll only and both directions live in one task, so it is
    /// never contended; it exists because a TLS read may have to write and the other way round.
    Tls(Box<Mutex<TlsStream<Sock>>>),
}

impl Stream {
    /// Wraps an established TLS session.
    pub fn tls(stream: impl Into<TlsStream<Sock>>) -> Self {
        let mut stream = stream.into();
        // A relay writes one buffer at a time and flushes it before the next. Sealed whole it leaves in one system call;
        // by default rustls takes no more than 64 KiB at once.
        match &mut stream {
            TlsStream::Client(end) => end.get_mut().1.set_buffer_limit(None),
            TlsStream::Server(end) => end.get_mut().1.set_buffer_limit(None),
        }
        Self::Tls(Box::new(Mutex::new(stream)))
    }

    /// The socket, if bytes on it are the stream's bytes: what splice(2) needs.
    pub fn plain(&self) -> Option<&Sock> {
        match self {
            Self::Plain(sock) => Some(sock),
            Self::Tls(_) => None,
        }
    }

    /// Reads into `buf`; 0 is the end of the stream.
    ///
    /// Over TLS the end should be told by close_notify. A client's connection that ends without is broken. Many servers leave it
    /// out, though, and what they sent counts all the same, for curl and for browsers: where the body is framed, its framing
    /// tells whether it is whole; else FIN ends it as it does without TLS, and only a reset breaks it off.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(sock) => sock.poll_recv(cx, buf),
            Self::Tls(tls) => {
                let mut buf = ReadBuf::new(buf);
                let mut tls = tls.lock();
                match ready!(Pin::new(&mut *tls).poll_read(cx, &mut buf)) {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && is_servers(&tls) => {
                        Poll::Ready(Ok(0))
                    }
                    result => Poll::Ready(result.map(|()| buf.filled().len())),
                }
            }
        }
    }

    /// Writes from `buf`; may take less than all of it, and with TLS may keep it until [`Self::poll_flush`].
    pub fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(sock) => sock.poll_send(cx, buf),
            Self::Tls(tls) => Pin::new(&mut *tls.lock()).poll_write(cx, buf),
        }
    }

    /// Hands what TLS still holds to the kernel; nothing to do for a plain socket.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(&mut *tls.lock()).poll_flush(cx),
        }
    }

    /// Ends this direction: FIN, after close_notify where there is TLS.
    ///
    /// # Errors
    /// The error of the socket; one that is already gone is no error.
    pub async fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Plain(sock) => sock.shutdown_write(),
            Self::Tls(tls) => poll_fn(|cx| Pin::new(&mut *tls.lock()).poll_shutdown(cx)).await,
        }
    }

    /// Writes all of `bytes` and flushes; every part that leaves counts as activity on `meter`.
    ///
    /// # Errors
    /// The error of the write; a stream that takes no more bytes is `WriteZero`.
    pub async fn write_all(&self, bytes: &[u8], meter: &Meter, direction: Direction) -> io::Result<()> {
        self.write_noting(bytes, |n| meter.moved(direction, n)).await
    }

    /// The same for what does not count as activity.
    ///
    /// # Errors
    /// As [`Self::write_all`].
    pub async fn write_idly(&self, bytes: &[u8], meter: &Meter, direction: Direction) -> io::Result<()> {
        self.write_noting(bytes, |n| meter.counted(direction, n)).await
    }

    async fn write_noting(&self, mut bytes: &[u8], note: impl Fn(u64)) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            note(n as u64);
            bytes = &bytes[n..];
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Waits until the connection is found broken (a reset, a timeout), not merely ended.
    pub async fn broken(&self) -> io::Error {
        let error = match self {
            Self::Plain(sock) => sock.broken().await,
            // Not by reading, which may be over: below TLS a reset is seen all the same.
            Self::Tls(_) => self.with_sock(Sock::breakage).await,
        };
        error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    }

    /// Waits until the peer has ended its direction, or reset the connection. Behind bytes that nobody has read yet this is not
    /// seen; [`Self::peer_has_ended`] sees it.
    pub async fn ended(&self) {
        if let Ok(true) = poll_fn(|cx| self.with_sock(|sock| sock.poll_peek(cx))).await {
            std::future::pending().await
        }
    }

    /// Whether something (bytes nobody asked for, or the end) has come on a connection that should be silent.
    pub fn poll_disturbed(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(sock) => sock.poll_peek(cx).map(|_| ()),
            Self::Tls(_) => self.poll_read(cx, &mut [0; 1]).map(|_| ()),
        }
    }

    /// The socket at the bottom.
    fn with_sock<T>(&self, look: impl FnOnce(&Sock) -> T) -> T {
        match self {
            Self::Plain(sock) => look(sock),
            Self::Tls(tls) => look(tls.lock().get_ref().0),
        }
    }

    /// Whether the peer can send nothing more, see [`Sock::peer_has_ended`].
    pub fn peer_has_ended(&self) -> bool {
        self.with_sock(Sock::peer_has_ended)
    }

    /// Whether something waits to be read that [`Self::poll_disturbed`] may not know of yet, see [`Sock::has_news`].
    pub fn has_news(&self) -> bool {
        self.with_sock(Sock::has_news)
    }

    /// What became of the bytes that were sent, see [`Sock::flight`]. With TLS those of its records.
    pub fn flight(&self) -> Option<Flight> {
        self.with_sock(Sock::flight)
    }

    /// Makes the coming close an abort (RST), so that the peer learns that bytes are missing.
    pub fn reset_on_close(&self) {
        self.with_sock(Sock::reset_on_close);
    }

    /// Makes the coming close an orderly one again.
    pub fn end_on_close(&self) {
        self.with_sock(Sock::end_on_close);
    }

    /// Bytes that are not with the peer, see [`Sock::unsent`].
    pub fn unsent(&self) -> usize {
        self.with_sock(Sock::unsent)
    }

    /// Takes out what a connection still holds whose peer's container has ended, see [`Sock::part`].
    pub fn take_tail(&self, cx: &mut Context<'_>, tails: &Arc<Tails>, limit: u64) -> (bool, Poll<TailStatus>) {
        self.with_sock(|sock| sock.take_tail(cx, tails, limit))
    }

    /// Whether the connection has ended and all of it is in memory, or was.
    pub fn tail_taken(&self) -> bool {
        self.with_sock(Sock::tail_taken)
    }
}

/// Whether the other end is a server's.
fn is_servers(tls: &TlsStream<Sock>) -> bool {
    matches!(tls, TlsStream::Client(_))
}
