//! A blocking connection that sends heads and reads answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::wire;

/// A peer that is silent for so long has failed the run.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection with what was read from it beyond the last head.
pub struct Conn {
    /// The socket.
    pub stream: TcpStream,
    input: Vec<u8>,
}

impl Conn {
    /// Connects; writes leave at once, and a silent peer is an error in the end.
    pub fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, SILENCE).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        Ok(Self { stream, input: Vec::new() })
    }

    /// Sends a head.
    pub fn send(&mut self, head: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(head).context("send a request")
    }

    /// Reads a response head of whatever status.
    pub fn read_head(&mut self) -> anyhow::Result<Vec<u8>> {
        loop {
            if let Some(length) = wire::head_length(&self.input) {
                let rest = self.input.split_off(length);
                return Ok(std::mem::replace(&mut self.input, rest));
            }
            ensure!(self.read_more()? > 0, "the connection ended instead of answering");
        }
    }

    /// Reads a response head, which must carry `status`.
    pub fn expect(&mut self, status: u16) -> anyhow::Result<Vec<u8>> {
        let head = self.read_head()?;
        ensure!(
            wire::status(&head) == Some(status),
            "expected {status}, got: {}",
            String::from_utf8_lossy(&head).trim()
        );
        Ok(head)
    }

    /// Reads what comes next into the input, and says how much came; 0 at the end of the stream.
    pub fn read_more(&mut self) -> anyhow::Result<usize> {
        let mut buffer = [0; 8192];
        let n = self.stream.read(&mut buffer).context("read an answer")?;
        self.input.extend_from_slice(&buffer[..n]);
        Ok(n)
    }

    /// What was read and not yet taken.
    pub fn input(&mut self) -> &mut Vec<u8> {
        &mut self.input
    }

    /// Reads and drops `length` bytes of body.
    pub fn discard(&mut self, length: u64, buffer: &mut [u8]) -> anyhow::Result<()> {
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

    /// Reads a body of `length` bytes.
    pub fn read_body(&mut self, length: u64) -> anyhow::Result<Vec<u8>> {
        let length = usize::try_from(length).context("a body too large to hold")?;
        let mut body = std::mem::take(&mut self.input);
        ensure!(body.len() <= length, "the body is longer than announced");
        let early = body.len();
        body.resize(length, 0);
        self.stream.read_exact(&mut body[early..]).context("read a body")?;
        Ok(body)
    }

    /// Sends `head` and reads the whole answer, which must be 200 with a Content-Length; its body is dropped.
    pub fn get(&mut self, head: &[u8]) -> anyhow::Result<()> {
        self.send(head)?;
        let head = self.expect(200)?;
        let length = wire::content_length(&head).context("a response without Content-Length")?;
        self.discard(length, &mut [0; 16 * 1024])
    }
}
