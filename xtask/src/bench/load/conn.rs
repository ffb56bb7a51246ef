//! A blocking connection that sends heads and reads answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::bench::route::Route;
use crate::bench::wire;

/// A peer that is silent for so long has failed the run.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection with what was read from it beyond the last head.
pub(crate) struct Conn {
    /// The socket.
    pub(crate) stream: TcpStream,
    input: Vec<u8>,
}

impl Conn {
    /// Connects; writes leave at once, and a silent peer is an error in the end.
    pub(crate) fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, SILENCE).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(Self { stream, input: Vec::new() })
    }

    /// Sends a head.
    pub(crate) fn send(&mut self, head: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(head).context("send a request")
    }

    /// Reads a response head, which must carry `status`.
    pub(crate) fn expect(&mut self, status: u16) -> anyhow::Result<Vec<u8>> {
        let length = loop {
            if let Some(length) = wire::head_length(&self.input) {
                break length;
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer).context("read a response head")? {
                0 => bail!("the connection ended instead of answering"),
                n => self.input.extend_from_slice(&buffer[..n]),
            }
        };
        let rest = self.input.split_off(length);
        let head = std::mem::replace(&mut self.input, rest);
        ensure!(
            wire::status(&head) == Some(status),
            "expected {status}, got: {}",
            String::from_utf8_lossy(&head).trim()
        );
        Ok(head)
    }

    /// Takes what was read behind the head.
    pub(crate) fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// Reads and drops `length` bytes of body.
    pub(crate) fn discard(&mut self, length: u64, buffer: &mut [u8]) -> anyhow::Result<()> {
        let early = self.input.len() as u64;
        ensure!(early <= length, "the body is longer than announced");
        self.input.clear();
        let mut left = length - early;
        while left > 0 {
            let most = left.min(buffer.len() as u64) as usize;
            match self.stream.read(&mut buffer[..most]) {
                Ok(0) => bail!("the body ended {left} bytes early"),
                Ok(n) => left -= n as u64,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("read a body"),
            }
        }
        Ok(())
    }

    /// One GET with its whole answer; returns the body's length.
    pub(crate) fn get(&mut self, route: &Route, target: &str) -> anyhow::Result<u64> {
        self.send(&route.head("GET", target, "")?)?;
        let head = self.expect(200)?;
        let length = wire::content_length(&head).context("a response without Content-Length")?;
        self.discard(length, &mut [0; 16 * 1024])?;
        Ok(length)
    }
}
