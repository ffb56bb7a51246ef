//! What a controller does: it has a request signed, sends it to the node, reads the answer.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portsplice_testkit::conn::Conn;
use portsplice_testkit::websocket::{self, Message};
use portsplice_testkit::wire;
use sha2::{Digest, Sha256};

use crate::origin::PORT;

/// The node as its clients see it.
pub(crate) struct Client {
    /// Where it listens.
    pub(crate) node: SocketAddr,
    /// The program that signs, too.
    pub(crate) binary: PathBuf,
    /// The folder with the secrets.
    pub(crate) folder: PathBuf,
}

/// An answer with a short body.
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The body, as text.
    pub(crate) body: String,
}

impl Client {
    /// The header lines that let `uuid`'s port be asked for `target`, made by `portsplice sign` with `secret`, which is
    /// a flag and the name of a file.
    pub(crate) fn sign(&self, uuid: &str, target: &str, secret: (&str, &str)) -> anyhow::Result<String> {
        let port = PORT.to_string();
        let mut sign = Command::new(&self.binary);
        sign.args(["sign", "--uuid", uuid, "--port", &port, "--method", "GET", "--target", target]);
        output(sign.arg(secret.0).arg(self.path(secret.1)))
    }

    /// What a command of the operator's prints, `ps` say.
    pub(crate) fn tell(&self, command: &str) -> anyhow::Result<String> {
        output(Command::new(&self.binary).arg(command).arg("--socket").arg(self.path("node.sock")))
    }

    /// A file of the demo.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Sends a request with the header `lines` as they are.
    fn ask(&self, target: &str, lines: &str, extra: &str) -> anyhow::Result<Conn> {
        let lines: String = lines.lines().flat_map(|line| [line.trim_end(), "\r\n"]).collect();
        let head = format!("GET {target} HTTP/1.1\r\nHost: {}\r\n{lines}{extra}\r\n", self.node);
        let mut conn = Conn::connect(self.node)?;
        conn.send(head.as_bytes())?;
        Ok(conn)
    }

    /// A request with a short answer, whatever its status.
    pub(crate) fn get(&self, target: &str, lines: &str) -> anyhow::Result<Answer> {
        let mut conn = self.ask(target, lines, "")?;
        let head = conn.read_head()?;
        let status = wire::status(&head).context("an answer without a status")?;
        let length = wire::content_length(&head).context("an answer without Content-Length")?;
        let body = conn.read_body(length)?;
        Ok(Answer { status, body: String::from_utf8_lossy(&body).trim().to_owned() })
    }

    /// Downloads `target`: its SHA-256 in hex, its size, the time it took to arrive.
    pub(crate) fn download(&self, target: &str, lines: &str) -> anyhow::Result<(String, u64, Duration)> {
        let start = Instant::now();
        let mut conn = self.ask(target, lines, "")?;
        let head = conn.expect(200)?;
        let length = wire::content_length(&head).context("a response without Content-Length")?;
        let body = conn.read_body(length)?;
        let took = start.elapsed();
        Ok((hex::encode(Sha256::digest(&body)), length, took))
    }

    /// Reads a stream of server-sent events to its end, handing each to `each` when it arrives.
    pub(crate) fn events(&self, target: &str, lines: &str, mut each: impl FnMut(&str)) -> anyhow::Result<()> {
        let mut conn = self.ask(target, lines, "Accept: text/event-stream\r\n")?;
        conn.expect(200)?;
        loop {
            while let Some(event) = take_event(conn.input()) {
                each(&event);
            }
            // The last chunk: no event contains it.
            if conn.input().ends_with(b"0\r\n\r\n") {
                return Ok(());
            }
            ensure!(conn.read_more()? > 0, "the stream was cut");
        }
    }

    /// Opens a WebSocket, says `words`, and returns what comes back.
    pub(crate) fn echo(&self, target: &str, lines: &str, words: &str) -> anyhow::Result<String> {
        let key = websocket::KEY;
        let extra = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        );
        let mut conn = self.ask(target, lines, &extra)?;
        let head = conn.expect(101)?;
        let proof = wire::field(&head, b"sec-websocket-accept").unwrap_or_default();
        ensure!(proof.trim_ascii() == websocket::accept(key).as_bytes(), "the answer proves no WebSocket");
        conn.stream.write_all(&websocket::frame(websocket::TEXT, words.as_bytes(), Some([0x5a, 0x17, 0xc3, 0x88])))?;
        loop {
            match websocket::take(conn.input()) {
                Ok(Some(Message { opcode: websocket::TEXT, payload })) => return Ok(String::from_utf8(payload)?),
                Ok(Some(_)) => {}
                Ok(None) => ensure!(conn.read_more()? > 0, "the WebSocket was cut"),
                Err(_) => anyhow::bail!("the WebSocket sent what no WebSocket sends"),
            }
        }
    }
}

/// Takes the next whole event out of a chunked stream, whatever the chunk lines around it.
fn take_event(input: &mut Vec<u8>) -> Option<String> {
    let start = input.windows(6).position(|w| w == b"data: ")? + 6;
    let length = input[start..].windows(2).position(|w| w == b"\n\n")?;
    let event = String::from_utf8_lossy(&input[start..start + length]).into_owned();
    input.drain(..start + length + 2);
    Some(event)
}

/// Writes a secret that only its owner may read.
pub(crate) fn write_secret(path: &Path, secret: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("create {}", path.display()))?;
    file.write_all(secret.as_bytes())?;
    Ok(())
}

/// What a command prints; its complaint, if it fails.
fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_one_by_one() {
        let mut input = b"9\r\ndata: a b\n\n\r\n8\r\ndata: c".to_vec();
        assert_eq!(take_event(&mut input).as_deref(), Some("a b"));
        assert_eq!(take_event(&mut input), None);
        input.extend(b"\n\n\r\n0\r\n\r\n");
        assert_eq!(take_event(&mut input).as_deref(), Some("c"));
        assert!(input.ends_with(b"0\r\n\r\n"));
    }
}
