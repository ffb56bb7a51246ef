//! One client: reads its lines, answers them in their order, and tells it what it has subscribed to.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::timeout;

use super::Control;
use super::methods::After;
use super::subscriptions::Subscriptions;
use portsplice_control::wire::{Answer, Call, Fault, Frame, Frames, Id, LIMIT, code};
use portsplice_discovery::container::Peer;

/// How long a client may take no byte of what is written to it.
const UNREAD: Duration = Duration::from_secs(10);
/// How long a line that has begun may get no further byte.
const UNFINISHED: Duration = Duration::from_secs(30);
/// How much is read at a time.
const READ: usize = 16 * 1024;

/// One client.
pub(super) struct Client {
    control: Arc<Control>,
    stream: UnixStream,
    frames: Frames,
    subscriptions: Subscriptions,
    peer: Peer,
}

/// What a client waits for.
enum Next {
    Bytes(usize),
    Subscriptions(Vec<u8>),
}

impl Client {
    pub(super) fn new(control: Arc<Control>, stream: UnixStream) -> Self {
        let peer = Peer::of(&stream);
        Self { control, stream, frames: Frames::default(), subscriptions: Subscriptions::default(), peer }
    }

    /// Serves it until it goes, or does not read.
    pub(super) async fn run(mut self) {
        match self.serve().await {
            Ok(()) => tracing::debug!("control client disconnected"),
            Err(error) => tracing::debug!(%error, "control client dropped"),
        }
    }

    async fn serve(&mut self) -> io::Result<()> {
        // One for the life of the client: what is read goes into the lines at once.
        let mut buffer = vec![0; READ];
        loop {
            while let Some(frame) = self.frames.take() {
                self.answer(frame).await?;
            }
            match self.next(&mut buffer).await? {
                Next::Bytes(0) => return Ok(()),
                Next::Bytes(n) => self.frames.push(&buffer[..n]),
                Next::Subscriptions(lines) => self.write(&lines).await?,
            }
        }
    }

    async fn next(&mut self, buffer: &mut [u8]) -> io::Result<Next> {
        let Self { control, stream, frames, subscriptions, .. } = self;
        let unfinished = async {
            match frames.pending() {
                0 => std::future::pending().await,
                _ => tokio::time::sleep(UNFINISHED).await,
            }
        };
        tokio::select! {
            read = read(stream, buffer) => read.map(Next::Bytes),
            lines = subscriptions.next(&control.parts) => Ok(Next::Subscriptions(lines)),
            () = unfinished => Err(io::Error::new(io::ErrorKind::TimedOut, "it did not finish its line")),
        }
    }

    async fn answer(&mut self, frame: Frame) -> io::Result<()> {
        let line = match frame {
            Frame::Line(line) => line,
            Frame::TooLong => {
                let text =
                    format!("the line is longer than {LIMIT} bytes and was dropped; the next line is read as usual");
                return self.write(&Answer::new(Id::Null(()), Err(Fault::new(code::TOO_LONG, text))).line()).await;
            }
        };
        match Call::parse(&line) {
            Ok(call) => {
                let id = call.id.clone();
                let (result, after) = self.control.call(call, &mut self.subscriptions, &self.peer).await;
                if let Some(id) = id {
                    self.write(&Answer::new(id, result).line()).await?;
                }
                if after == After::Drain {
                    self.control.drain.notify_one();
                }
                Ok(())
            }
            Err((id, fault)) => self.write(&Answer::new(id, Err(fault)).line()).await,
        }
    }

    async fn write(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match timeout(UNREAD, self.stream.writable()).await {
                Ok(ready) => ready?,
                Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not read its responses")),
            }
            match self.stream.try_write(bytes) {
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Reads what there is; dropping the future loses nothing.
async fn read(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// Says why somebody is not served. A fresh connection takes these few bytes at once or never.
pub(super) fn reject_connection(stream: &UnixStream, code: i32, message: String) {
    tracing::debug!(message, "control client rejected");
    let _ = stream.try_write(&Answer::new(Id::Null(()), Err(Fault::new(code, message))).line());
}
