//! Scripted servers: threads of the test that listen inside a container's namespace and do exactly what a test says.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::HANG;
use crate::http::{Buffered, Fields, Framing, Head};
use crate::net::Netns;

pub mod contract;

/// A request with its content, as a server read it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its head.
    pub head: Head,
    /// Its content.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: Fields,
}

/// A server's end of one connection.
pub struct Peer {
    /// How many connections the server had accepted before this one.
    pub index: usize,
    stream: Arc<TcpStream>,
    input: Buffered<Shared>,
}

#[derive(Clone)]
struct Shared(Arc<TcpStream>);

impl Read for Shared {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(buf)
    }
}

impl Peer {
    /// Takes over a connection.
    #[must_use]
    pub fn new(stream: Arc<TcpStream>, index: usize) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_read_timeout(Some(HANG)).expect("a timeout");
        stream.set_write_timeout(Some(HANG)).expect("a timeout");
        Self { index, input: Buffered::new(Shared(stream.clone())), stream }
    }

    /// The next request's head; `None` when the client has ended.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        self.input.head()
    }

    /// The next request with its body; `None` when the client has ended.
    pub fn request(&mut self) -> io::Result<Option<Request>> {
        let Some(head) = self.input.head()? else { return Ok(None) };
        let (body, trailers) = self.input.body(head.request_framing())?;
        Ok(Some(Request { head, body, trailers }))
    }

    /// The next request, which must come.
    pub fn must_request(&mut self) -> io::Result<Request> {
        self.request()?.ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "no request came"))
    }

    /// Reads the body of a request whose head was read by [`Peer::head`].
    pub fn body(&mut self, framing: Framing) -> io::Result<(Vec<u8>, Fields)> {
        self.input.body(framing)
    }

    /// The reader, for what the methods here do not do.
    pub fn input(&mut self) -> &mut Buffered<impl Read + use<>> {
        &mut self.input
    }

    /// Writes all of it.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        (&*self.stream).write_all(bytes.as_ref())
    }

    /// A response with a length.
    pub fn respond(&mut self, status: &str, body: impl AsRef<[u8]>) -> io::Result<()> {
        let body = body.as_ref();
        let mut all = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        all.extend_from_slice(body);
        self.write(all)
    }

    /// Ends the sending direction (FIN).
    pub fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// Makes the close at the handler's end a reset (RST).
    pub fn reset_on_close(&mut self) {
        socket2::SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    /// All that still comes, and whether the client ended in order.
    pub fn rest(&mut self) -> (Vec<u8>, io::Result<()>) {
        self.input.rest()
    }

    /// The socket below.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// A server inside a namespace: one thread accepts, one serves each connection.
///
/// A handler's I/O error ends its connection. A handler's panic is a failed assertion, raised again when the server is
/// dropped or [`Origin::check`]ed.
pub struct Origin {
    address: SocketAddr,
    state: Arc<State>,
    accepting: Option<JoinHandle<()>>,
    listener: TcpListener,
}

#[derive(Default)]
struct State {
    accepted: AtomicUsize,
    open: AtomicUsize,
    live: Mutex<Vec<Weak<TcpStream>>>,
    panics: Mutex<Vec<String>>,
}

impl Origin {
    /// Listens on `address` inside `netns` and serves each connection with `handler`.
    #[track_caller]
    #[must_use]
    pub fn start(
        netns: &Netns,
        address: &str,
        handler: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::on(netns.listen(address), handler)
    }

    /// Serves a listener that stands already.
    #[track_caller]
    #[must_use]
    pub fn on(listener: TcpListener, handler: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static) -> Self {
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(State::default());
        let accept = {
            let (listener, state, handler) =
                (listener.try_clone().expect("another handle"), state.clone(), Arc::new(handler));
            move || accept_all(&listener, &state, &handler)
        };
        Self { address, state, accepting: Some(std::thread::spawn(accept)), listener }
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections it has accepted.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// How many connections its handlers still serve.
    #[must_use]
    pub fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Fails the test when a handler's assertion failed.
    #[track_caller]
    pub fn check(&self) {
        let panics = self.state.panics.lock().expect("panics");
        assert!(panics.is_empty(), "in a server's handler: {panics:#?}");
    }

    /// Stops listening; what runs goes on.
    pub fn stop_listening(&mut self) {
        // A listening socket that is shut down fails accept(2), on Linux, at once.
        let _ = socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop_listening();
        for stream in self.state.live.lock().expect("live").iter().filter_map(Weak::upgrade) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        if !std::thread::panicking() {
            self.check();
        }
    }
}

fn accept_all<H>(listener: &TcpListener, state: &Arc<State>, handler: &Arc<H>)
where
    H: Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static,
{
    while let Ok((stream, _)) = listener.accept() {
        let stream = Arc::new(stream);
        let index = state.accepted.fetch_add(1, Ordering::SeqCst);
        state.open.fetch_add(1, Ordering::SeqCst);
        {
            let mut live = state.live.lock().expect("live");
            live.retain(|weak| weak.strong_count() > 0);
            live.push(Arc::downgrade(&stream));
        }
        let (state, handler) = (state.clone(), handler.clone());
        std::thread::spawn(move || {
            let mut peer = Peer::new(stream, index);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(&mut peer)));
            if let Err(panic) = outcome {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                state.panics.lock().expect("panics").push(text.unwrap_or_default());
            }
            drop(peer);
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}
