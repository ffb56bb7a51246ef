//! Load over TLS. The client shall not be what is measured: it seals its requests before the clock starts, and counts
//! the content of the records that come by their headers, without opening them. That a way answers rightly is made sure
//! of before, by a request whose answer is opened.

use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use portsplice_testkit::wire;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::peers::TLS_NAME;
use crate::route::Route;

/// Connections at once.
const KEPT: usize = 32;
const BUFFER: usize = 256 * 1024;
/// More than a head and whatever else a server seals beside a body.
const MOST_BESIDE_BODY: u64 = 64 * 1024;
const SILENCE: Duration = Duration::from_secs(30);

/// The client's side of handshakes: TLS 1.3 with AES-128-GCM and nothing else, so that all systems do the same work.
pub(crate) fn client(certificate: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let pem = fs::read(certificate).with_context(|| format!("read {}", certificate.display()))?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem).context("the certificate of this run")?)?;
    let mut provider = ring::default_provider();
    provider.cipher_suites = vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Asks for 1 KiB once, as a system is asked until it answers.
pub(crate) fn probe(route: &Route) -> anyhow::Result<()> {
    Session::connect(route)?.get(route).map(drop)
}

/// Downloads `bytes` over one connection; the time from the request to the connection's end behind the body.
pub(crate) fn download(route: &Route, bytes: u64) -> anyhow::Result<Duration> {
    let mut session = Session::connect(route)?;
    let request = session.seal(route, &format!("/bulk/{bytes}"), "Connection: close\r\n")?;
    let (mut buffer, mut records, mut content) = (vec![0; BUFFER], Records::default(), 0);
    let start = Instant::now();
    session.stream.write_all(&request).context("send a request")?;
    loop {
        match session.stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => content += records.count(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("read a body"),
        }
    }
    let time = start.elapsed();
    ensure!((bytes..bytes + MOST_BESIDE_BODY).contains(&content), "asked for {bytes} bytes, got {content}");
    Ok(time)
}

/// The time that `count` requests for 1 KiB take over 32 kept-alive connections.
pub(crate) fn kept_alive(route: &Route, count: usize) -> anyhow::Result<Duration> {
    // A quick connection may take twice its share.
    let mut slots =
        (0..KEPT).map(|_| Slot::new(route, 2 * count.div_ceil(KEPT))).collect::<anyhow::Result<Vec<_>>>()?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    for (at, slot) in slots.iter().enumerate() {
        epoll::add(&epoll, &slot.stream, EventData::new_u64(at as u64), EventFlags::IN)?;
    }
    let timeout = SILENCE.try_into().context("timeout")?;
    let mut events = Vec::with_capacity(KEPT);
    let (mut to_start, mut to_finish) = (count, count);
    let start = Instant::now();
    for slot in &mut slots {
        to_start -= slot.ask(to_start)?;
    }
    while to_finish > 0 {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(0) => bail!("no answer for {SILENCE:?}, {to_finish} requests missing"),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait for events"),
        }
        for event in &events {
            let slot = &mut slots[event.data.u64() as usize];
            if slot.answered()? {
                to_finish -= 1;
                to_start -= slot.ask(to_start)?;
            }
        }
    }
    Ok(start.elapsed())
}

/// A connection after its handshake.
struct Session {
    stream: TcpStream,
    tls: ClientConnection,
    exporter: [u8; 32],
}

impl Session {
    fn connect(route: &Route) -> anyhow::Result<Self> {
        let (address, config) = route.tls.clone().context("a way without TLS")?;
        let mut stream = connect(address)?;
        let mut tls = ClientConnection::new(config, ServerName::try_from(TLS_NAME)?)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).with_context(|| format!("handshake with {address}"))?;
        }
        // RFC 9266: this label, a context of length zero.
        let exporter = tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b""))?;
        Ok(Self { stream, tls, exporter })
    }

    /// A request, as it goes over the wire. Records must be sent in the order in which they were sealed.
    fn seal(&mut self, route: &Route, target: &str, extra: &str) -> anyhow::Result<Vec<u8>> {
        let head = route.head_over_tls(&self.exporter, "GET", target, extra)?;
        self.tls.writer().write_all(&head)?;
        let mut sealed = Vec::with_capacity(head.len() + 64);
        while self.tls.wants_write() {
            self.tls.write_tls(&mut sealed)?;
        }
        Ok(sealed)
    }

    /// Asks for 1 KiB and opens the answer; gives its length, head and body.
    fn get(&mut self, route: &Route) -> anyhow::Result<u64> {
        let request = self.seal(route, "/k", "")?;
        self.stream.write_all(&request).context("send a request")?;
        let mut answer = Vec::new();
        loop {
            if let Some(head) = wire::head_length(&answer) {
                let text = &answer[..head];
                ensure!(wire::status(text) == Some(200), "not 200: {}", String::from_utf8_lossy(text).trim());
                let body = wire::content_length(text).context("a response without Content-Length")?;
                if answer.len() as u64 >= head as u64 + body {
                    return Ok(answer.len() as u64);
                }
            }
            ensure!(self.tls.read_tls(&mut self.stream)? > 0, "the connection ended instead of answering");
            let state = self.tls.process_new_packets()?;
            let at = answer.len();
            answer.resize(at + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut answer[at..])?;
        }
    }
}

fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, SILENCE).with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}

/// A kept-alive connection with the requests that it will send.
struct Slot {
    stream: TcpStream,
    sealed: VecDeque<Vec<u8>>,
    records: Records,
    /// Octets of content that an answer has; all have the same.
    answer: u64,
    /// Octets of it still to come.
    left: u64,
}

impl Slot {
    fn new(route: &Route, requests: usize) -> anyhow::Result<Self> {
        let mut session = Session::connect(route)?;
        let answer = session.get(route)?;
        let sealed = (0..requests).map(|_| session.seal(route, "/k", "")).collect::<anyhow::Result<_>>()?;
        session.stream.set_nonblocking(true)?;
        Ok(Self { stream: session.stream, sealed, records: Records::default(), answer, left: 0 })
    }

    /// Sends the next request if `left` of them are to be sent still, and there is one; gives how many were sent.
    fn ask(&mut self, left: usize) -> anyhow::Result<usize> {
        let Some(request) = (left > 0).then(|| self.sealed.pop_front()).flatten() else { return Ok(0) };
        // A request of a few hundred bytes fits the empty send buffer of a connection that waits for each answer.
        self.stream.write_all(&request).context("send a request")?;
        self.left = self.answer;
        Ok(1)
    }

    /// Reads; whether the whole answer is there.
    fn answered(&mut self) -> anyhow::Result<bool> {
        let mut buffer = [0; 4096];
        let content = match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the connection ended instead of answering"),
            Ok(n) => self.records.count(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error).context("read an answer"),
        };
        let left = self.left.checked_sub(content);
        self.left = left.with_context(|| format!("an answer of more than {} octets, unlike the first", self.answer))?;
        Ok(self.left == 0 && self.records.between())
    }
}

/// Counts the content of a stream of sealed records (RFC 8446 section 5.2).
#[derive(Default)]
struct Records {
    head: Vec<u8>,
    /// Octets of the present record still to come.
    left: usize,
}

/// Type, version, length.
const HEAD: usize = 5;
/// What is sealed besides the content: its type, and the tag.
const OVERHEAD: u64 = 1 + 16;

impl Records {
    /// Whether the last record has come to its end.
    fn between(&self) -> bool {
        self.left == 0 && self.head.is_empty()
    }

    /// Octets of content in the records that begin in `bytes`, the next part of the stream.
    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut content = 0;
        while !bytes.is_empty() {
            if self.left == 0 {
                let (more, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
                self.head.extend_from_slice(more);
                bytes = rest;
                if let [_, _, _, high, low] = self.head[..] {
                    self.left = usize::from(u16::from_be_bytes([high, low]));
                    content += (self.left as u64).saturating_sub(OVERHEAD);
                    self.head.clear();
                }
            }
            let part = self.left.min(bytes.len());
            self.left -= part;
            bytes = &bytes[part..];
        }
        content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_counted_however_the_stream_is_cut() {
        let mut stream = Vec::new();
        for length in [17_u16, 18, 1017, 16_401] {
            stream.extend_from_slice(&[23, 3, 3]);
            stream.extend_from_slice(&length.to_be_bytes());
            stream.resize(stream.len() + usize::from(length), 0);
        }
        for cut in [1, 2, 3, 7, 1000, stream.len()] {
            let mut records = Records::default();
            let counted: u64 = stream.chunks(cut).map(|part| records.count(part)).sum();
            assert_eq!(counted, 1 + 1000 + 16_384, "cut into pieces of {cut}");
        }
    }
}
