//! The two directions of a client's connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ClientConnection;

use super::tls;
use crate::HANG;
use crate::sign::Channel;

struct Shared {
    stream: TcpStream,
    tls: Option<Mutex<ClientConnection>>,
    channel: Channel,
}

/// A connection's two directions, usable from two threads at once, TLS or not.
///
/// The socket is non-blocking; waiting happens in poll(2) outside the TLS session's lock, so that a blocked writer does
/// not keep the reader from what has come.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

impl Link {
    pub(super) fn new(stream: TcpStream, tls: Option<ClientConnection>) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_nonblocking(true).expect("non-blocking");
        let channel = tls.as_ref().map_or_else(Channel::default, tls::channel);
        Self(Arc::new(Shared { stream, tls: tls.map(Mutex::new), channel }))
    }

    pub(super) fn ready(&self, flags: PollFlags, within: Duration) -> bool {
        let mut fds = [PollFd::new(&self.0.stream, flags)];
        let timeout = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: i64::from(within.subsec_nanos()) };
        poll(&mut fds, Some(&timeout)).is_ok_and(|n| n > 0)
    }

    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        match self.ready(flags, HANG) {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing moved for {HANG:?}"))),
        }
    }

    /// The socket below.
    pub(super) fn stream(&self) -> &TcpStream {
        &self.0.stream
    }

    /// What the connection adds to a credential.
    pub(super) fn channel(&self) -> &Channel {
        &self.0.channel
    }

    /// Hands what the session wants to send to the kernel, as far as it takes it at once.
    fn push(&self, session: &mut ClientConnection) -> io::Result<()> {
        while session.wants_write() {
            session.write_tls(&mut &self.0.stream)?;
        }
        Ok(())
    }

    /// Ends the sending direction.
    pub fn half_close(&self) -> io::Result<()> {
        if let Some(tls) = &self.0.tls {
            tls.lock().expect("session").send_close_notify();
            self.drain()?;
        }
        self.0.stream.shutdown(Shutdown::Write)
    }

    fn drain(&self) -> io::Result<()> {
        let Some(tls) = &self.0.tls else { return Ok(()) };
        loop {
            let pushed = self.push(&mut tls.lock().expect("session"));
            match pushed {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                done => return done,
            }
        }
    }

    fn read_tls(&self, tls: &Mutex<ClientConnection>, buf: &mut [u8]) -> io::Result<usize> {
        let mut session = tls.lock().expect("session");
        loop {
            match session.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            session.read_tls(&mut &self.0.stream)?;
            let processed = session.process_new_packets().map_err(io::Error::other);
            // Whether what the session wants to say still goes out is the writer's concern: the other side may have
            // stopped reading and yet have sent an answer.
            let _ = self.push(&mut session);
            processed?;
        }
    }
}

impl Read for Link {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let got = match &self.0.tls {
                Some(tls) => self.read_tls(tls, buf),
                None => (&self.0.stream).read(buf),
            };
            match got {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::IN)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl Write for Link {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if let Some(tls) = &self.0.tls {
            let n = tls.lock().expect("session").writer().write(buf)?;
            self.drain()?;
            return Ok(n);
        }
        loop {
            match (&self.0.stream).write(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.wait(PollFlags::OUT)?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
