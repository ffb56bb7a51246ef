//! The other side of the control socket, for commands: one request at a time, without a runtime.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::wire::{Answer, Call, Fault, Frame, Frames, Id, Notification, code};

/// How long an answer may take. The daemon answers at once; this is for one that hangs.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest answer. A list of a hundred thousand connections takes some 40 MiB.
const ANSWER: usize = 1 << 30;

/// Why a request was not answered with a result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nobody is there.
    #[error("no daemon at {}: start `portsplice node`, or name its socket with --socket", path.display())]
    NoDaemon {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The caller may not use the socket.
    #[error("{}: {reason}", path.display())]
    NotAllowed {
        /// The socket.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The daemon's own words.
    #[error("{}", .0.message)]
    Refused(Fault),
    /// The connection broke, or did not work from the beginning.
    #[error("the control socket {}: {error}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
    /// The daemon speaks another language.
    #[error("invalid response from the daemon: {0}")]
    Strange(String),
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: UnixStream,
    frames: Frames,
    next: i64,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When there is no daemon, or the caller may not talk to it.
    pub fn to(path: &Path) -> Result<Self, Failure> {
        let path = path.to_owned();
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) => {
                return Err(match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Failure::NoDaemon { path },
                    io::ErrorKind::PermissionDenied => Failure::NotAllowed {
                        path,
                        reason: "permission denied: become root, or join the group that `control.group` names".into(),
                    },
                    _ => Failure::Io { path, error },
                });
            }
        };
        let connect = Self { path, stream, frames: Frames::with_limit(ANSWER), next: 1 };
        connect.set_timeout(Some(RESPONSE_TIMEOUT))?;
        Ok(connect)
    }

    /// How long to wait for whatever comes next; `None` is for ever.
    ///
    /// # Errors
    /// When the socket refuses.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<(), Failure> {
        self.stream.set_read_timeout(timeout).map_err(|error| self.io(error))
    }

    /// Asks, and waits for the answer. For connections that have subscribed to nothing.
    ///
    /// # Errors
    /// Why there is no result.
    pub fn call<R: DeserializeOwned>(&mut self, method: &str, params: &impl Serialize) -> Result<R, Failure> {
        let value = serde_json::to_value(params).map_err(strange)?;
        serde_json::from_value(self.call_raw(method, &value)?).map_err(strange)
    }

    /// The same with JSON as it is.
    ///
    /// # Errors
    /// As for [`Self::call`].
    pub fn call_raw(&mut self, method: &str, params: &Value) -> Result<Value, Failure> {
        let id = self.next;
        self.next += 1;
        // One that was rejected may be told why, though it is not read any more.
        let written = self.stream.write_all(&Call::line(id, method, params));
        let answer: Answer = match self.line() {
            Ok(line) => serde_json::from_slice(&line).map_err(strange)?,
            Err(failure) => return Err(written.err().map_or(failure, |error| self.io(error))),
        };
        match answer {
            Answer { error: Some(fault), .. } if fault.code == code::NOT_ALLOWED => {
                Err(Failure::NotAllowed { path: self.path.clone(), reason: fault.message })
            }
            Answer { error: Some(fault), .. } => Err(Failure::Refused(fault)),
            Answer { id: answered, .. } if answered != Id::Number(id) => {
                Err(Failure::Strange("it is for another request".to_owned()))
            }
            Answer { result, .. } => Ok(result.unwrap_or_default()),
        }
    }

    /// Waits for a notification, after `events.subscribe`; none when the daemon has stopped.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn notification(&mut self) -> Result<Option<Notification>, Failure> {
        match self.line() {
            Ok(line) => serde_json::from_slice(&line).map(Some).map_err(strange),
            Err(Failure::Io { error, .. }) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, Failure> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.frames.take() {
                Some(Frame::Line(line)) => return Ok(line),
                Some(Frame::TooLong) => return Err(Failure::Strange("it is too long".to_owned())),
                None => {}
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(self.io(io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => self.frames.push(&buffer[..n]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let error = io::Error::new(io::ErrorKind::TimedOut, "the daemon does not respond");
                    return Err(self.io(error));
                }
                Err(error) => return Err(self.io(error)),
            }
        }
    }

    fn io(&self, error: io::Error) -> Failure {
        Failure::Io { path: self.path.clone(), error }
    }
}

fn strange(error: serde_json::Error) -> Failure {
    Failure::Strange(error.to_string())
}
