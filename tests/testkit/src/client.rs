//! The controller's side: connections with control over each byte, and requests that carry a credential.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::PollFlags;

use crate::http::{Buffered, Fields, Framing, Head};
use crate::sign::{self, Call, Channel, Credential, Scheme};

mod link;
mod tls;

pub use link::Link;
pub use tls::Version;

/// How the other side ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order: FIN, and under TLS a `close_notify` before it.
    Clean,
    /// Cut: RST, or under TLS a FIN without `close_notify`.
    Cut,
}

/// Who signs, and for which port of which container.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The cluster's secret.
    pub root: String,
    /// The container's own secret where that is not derived from `root`.
    pub key: Option<String>,
    /// Which credential to present.
    pub scheme: Scheme,
    /// The container's name.
    pub uuid: String,
    /// The port in the container.
    pub port: u16,
}

impl Caller {
    /// The container's secret.
    #[must_use]
    pub fn key(&self) -> String {
        self.key.clone().unwrap_or_else(|| sign::container_key(&self.root, &self.uuid))
    }

    /// A fresh credential for one request over a connection.
    #[must_use]
    pub fn credential(&self, method: &str, target: &str, channel: &Channel) -> Credential {
        match self.scheme {
            Scheme::Certificate => {
                sign::certificate(&self.key(), channel.certificate.as_ref().expect("`certificate` needs TLS"))
            }
            Scheme::Timestamp => sign::timestamp(&self.root, &sign::nonce(), sign::now()),
            Scheme::Bound => {
                let call = Call { uuid: &self.uuid, port: &self.port.to_string(), method, target };
                sign::bound(&self.key(), &call, channel, &sign::nonce(), sign::now())
            }
        }
    }

    /// The three header lines that carry a credential.
    #[must_use]
    pub fn lines(&self, credential: &str) -> String {
        sign::fields(&self.uuid, &self.port.to_string(), credential)
    }
}

/// What a response must say about the gateway's own knowledge of the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The right `X-Arvados-Authorization-Response`.
    Owed,
    /// None at all: the request was not authenticated, and an answer would let anyone have any text signed.
    Absent,
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    /// Interim responses that came before it.
    pub interim: Vec<Head>,
    /// Its head.
    pub head: Head,
    /// Its content.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: Fields,
}

impl Response {
    /// The status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// The content as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

struct Owed {
    method: String,
    answer: Option<String>,
}

/// A connection to the gateway, or directly to a container's server.
pub struct Conn {
    link: Link,
    input: Buffered<Link>,
    /// Who signs; nobody when the connection leads directly to the server.
    pub caller: Option<Caller>,
    owed: VecDeque<Owed>,
}

impl Conn {
    /// Over plain TCP.
    #[track_caller]
    #[must_use]
    pub fn plain(stream: TcpStream, caller: Option<Caller>) -> Self {
        Self::over(Link::new(stream, None), caller)
    }

    /// Over TLS.
    #[track_caller]
    #[must_use]
    pub fn tls(stream: TcpStream, version: Version, caller: Option<Caller>) -> Self {
        let session = tls::handshake(&stream, version).expect("TLS handshake");
        Self::over(Link::new(stream, Some(session)), caller)
    }

    fn over(link: Link, caller: Option<Caller>) -> Self {
        Self { input: Buffered::new(link.clone()), link, caller, owed: VecDeque::new() }
    }

    /// The client's own address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.link.stream().local_addr().expect("connected")
    }

    /// What the connection adds to a credential.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        self.link.channel()
    }

    /// The socket below.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        self.link.stream()
    }

    /// Another handle for writing, for a second thread.
    #[must_use]
    pub fn writer(&self) -> Link {
        self.link.clone()
    }

    /// A signed head: request line, `Host`, the given lines, the credential. The answer it is owed is remembered.
    pub fn head_for(&mut self, method: &str, target: &str, fields: &[&str]) -> Vec<u8> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: container.test\r\n");
        for field in fields {
            head.push_str(field);
            head.push_str("\r\n");
        }
        let mut answer = None;
        if let Some(caller) = &self.caller {
            let credential = caller.credential(method, target, self.link.channel());
            head.push_str(&caller.lines(&credential.value));
            answer = credential.answer;
        }
        head.push_str("\r\n");
        self.owed.push_back(Owed { method: method.to_owned(), answer });
        head.into_bytes()
    }

    /// Notes that a request which the test wrote byte by byte is owed a response.
    pub fn owe(&mut self, method: &str, answer: Option<String>) {
        self.owed.push_back(Owed { method: method.to_owned(), answer });
    }

    /// Writes all of it.
    #[track_caller]
    pub fn write(&mut self, bytes: &[u8]) {
        self.link.write_all(bytes).unwrap_or_else(|e| panic!("cannot write: {e}"));
    }

    /// Sends a signed request with a body that `fields` must announce.
    #[track_caller]
    pub fn send(&mut self, method: &str, target: &str, fields: &[&str], body: &[u8]) {
        let mut request = self.head_for(method, target, fields);
        request.extend_from_slice(body);
        self.write(&request);
    }

    /// Sends a GET and reads its response.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Response {
        self.send("GET", target, &[], b"");
        self.response()
    }

    /// Sends a POST with a length and reads its response.
    #[track_caller]
    pub fn post(&mut self, target: &str, body: &[u8]) -> Response {
        self.send("POST", target, &[&format!("Content-Length: {}", body.len())], body);
        self.response()
    }

    /// The next response's head, whatever it is; without a check of the gateway's proof.
    #[track_caller]
    pub fn any_head(&mut self) -> Head {
        match self.input.head() {
            Ok(Some(head)) => head,
            Ok(None) => panic!("the connection ended where a response was due"),
            Err(e) => panic!("no response: {e}"),
        }
    }

    /// The head of the next final response (or 101), after any interim ones, and how its body is framed.
    #[track_caller]
    pub fn final_head(&mut self, proof: Proof) -> (Vec<Head>, Head, Framing) {
        let owed = self.owed.pop_front().expect("a request was sent");
        let mut interim = Vec::new();
        loop {
            let head = self.any_head();
            let status = head.status();
            if (100..200).contains(&status) && status != 101 {
                interim.push(head);
                continue;
            }
            let given = head.get("x-arvados-authorization-response").map(str::to_owned);
            match proof {
                Proof::Absent => assert_eq!(given, None, "no proof is due: {head:?}"),
                Proof::Owed if self.caller.is_some() => assert_eq!(given, owed.answer, "the gateway's proof: {head:?}"),
                Proof::Owed => {}
            }
            let framing = if status == 101 { Framing::None } else { head.response_framing(&owed.method) };
            return (interim, head, framing);
        }
    }

    /// As [`Conn::final_head`] without the interim ones, where it may be that none comes.
    ///
    /// # Errors
    /// How the connection ended instead.
    #[track_caller]
    pub fn final_head_or_end(&mut self, proof: Proof) -> io::Result<(Head, Framing)> {
        match self.input.peek_head() {
            Ok(true) => {}
            Ok(false) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) => return Err(e),
        }
        let (_, head, framing) = self.final_head(proof);
        Ok((head, framing))
    }

    /// The next final response, whose proof must be right.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.response_with(Proof::Owed)
    }

    /// The next final response.
    #[track_caller]
    pub fn response_with(&mut self, proof: Proof) -> Response {
        let (interim, head, framing) = self.final_head(proof);
        let (body, trailers) = self.input.body(framing).unwrap_or_else(|e| panic!("body of {head:?}: {e}"));
        Response { interim, head, body, trailers }
    }

    /// Gives the body to `sink` as it comes.
    #[track_caller]
    pub fn body_into(&mut self, framing: Framing, sink: &mut dyn FnMut(&[u8])) -> io::Result<Fields> {
        self.input.body_into(framing, sink)
    }

    /// The reader, for what the methods here do not do.
    pub fn input(&mut self) -> &mut Buffered<Link> {
        &mut self.input
    }

    /// All that still comes, and how the other side ended.
    #[track_caller]
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        let (bytes, end) = self.input.rest();
        match end {
            Ok(()) => (bytes, End::Clean),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => panic!("the connection was not ended: {e}"),
            Err(_) => (bytes, End::Cut),
        }
    }

    /// Waits for the end, before which nothing may come.
    #[track_caller]
    pub fn end(&mut self) -> End {
        let (bytes, end) = self.rest();
        assert!(bytes.is_empty(), "nothing more was due: {:?}", String::from_utf8_lossy(&bytes));
        end
    }

    /// Whether nothing has come and the connection still stands. A glance, not a wait.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.input.pending().is_empty() && !self.link.ready(PollFlags::IN, Duration::ZERO)
    }

    /// Ends the sending direction only: FIN, under TLS after `close_notify`.
    #[track_caller]
    pub fn half_close(&mut self) {
        self.link.half_close().expect("half-close");
    }

    /// Resets the connection (RST).
    pub fn reset(self) {
        let socket = socket2::SockRef::from(self.link.stream());
        socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
        // Both handles go here; the last one closes, which sends the RST.
    }

    /// Sets how many bytes the kernel takes in before the other side is held back; for slow readers.
    pub fn set_receive_buffer(&self, bytes: usize) {
        socket2::SockRef::from(self.link.stream()).set_recv_buffer_size(bytes).expect("SO_RCVBUF");
    }
}

impl Read for Conn {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.input.read(buf)
    }
}

impl Write for Conn {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.link.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
