//! Many streams of server-sent events at set times, all from one thread: that of 1,000 streams costs no more than the
//! writes themselves.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use portsplice_testkit::wire;

/// Size of an event, so that a reader can find its timestamp.
pub(crate) const EVENT: usize = 200;
/// How long the thread sleeps while there is no stream.
const IDLE: Duration = Duration::from_secs(3600);
/// From the moment at which all streams of a crowd are there to the first event, in nanoseconds: the reader has to be told.
const LEAD: u64 = 100_000_000;

/// A stream whose response head has been sent.
pub(super) struct Stream {
    /// Where it goes.
    pub(super) socket: TcpStream,
    /// Events still to be sent.
    pub(super) left: u64,
    /// The time between two, in nanoseconds.
    pub(super) interval: u64,
    /// How many streams there shall be before the first event of any.
    pub(super) crowd: usize,
}

/// Starts the thread; what it is sent, it serves to the end.
pub(super) fn start() -> Sender<Stream> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || Server::default().run(&receiver));
    sender
}

#[derive(Default)]
struct Server {
    /// Those whose crowd is not complete.
    gathering: Vec<Stream>,
    /// Those that run, by the time at which the next event is due, in nanoseconds of the monotonic clock; the number tells
    /// apart what is due at the same time.
    running: BTreeMap<(u64, usize), Stream>,
    event: Vec<u8>,
}

impl Server {
    fn run(&mut self, incoming: &Receiver<Stream>) {
        loop {
            self.send_what_is_due();
            let next = self.running.first_key_value().map(|((due, _), _)| due.saturating_sub(wire::monotonic_ns()));
            match incoming.recv_timeout(next.map_or(IDLE, Duration::from_nanos)) {
                Ok(stream) => self.add(stream),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Spreads the events of a crowd evenly over the time between two of a stream.
    fn add(&mut self, stream: Stream) {
        let (crowd, interval) = (stream.crowd, stream.interval);
        self.gathering.push(stream);
        if self.gathering.len() >= crowd {
            let first = wire::monotonic_ns() + LEAD;
            let due = |number| first + number as u64 * interval / crowd as u64;
            let all = self.gathering.drain(..).enumerate();
            self.running.extend(all.map(|(number, stream)| ((due(number), number), stream)));
        }
    }

    fn send_what_is_due(&mut self) {
        while let Some(first) = self.running.first_entry()
            && first.key().0 <= wire::monotonic_ns()
        {
            let ((due, number), mut stream) = first.remove_entry();
            // A client that has gone, or is so slow that its socket is full, has ended its stream.
            if stream.send(&mut self.event).is_ok() && stream.left > 0 {
                self.running.insert((due + stream.interval, number), stream);
            }
        }
    }
}

impl Stream {
    /// Sends an event that says when it was sent, and after the last one the end.
    fn send(&mut self, event: &mut Vec<u8>) -> io::Result<()> {
        event.clear();
        write_event(event, wire::monotonic_ns())?;
        self.left -= 1;
        if self.left == 0 {
            event.extend_from_slice(b"0\r\n\r\n");
        }
        match self.socket.write(event)? {
            n if n == event.len() => Ok(()),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// An event as a chunk.
pub(crate) fn write_event(into: &mut Vec<u8>, sent: u64) -> io::Result<()> {
    write!(into, "{EVENT:x}\r\ndata: {sent:020} {:.<171}\n\n\r\n", "event")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    #[test]
    fn a_crowd_is_served_to_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = start();
        let mut clients: Vec<_> = (0..3)
            .map(|_| {
                let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (socket, _) = listener.accept().unwrap();
                sender.send(Stream { socket, left: 4, interval: 3_000_000, crowd: 3 }).unwrap();
                client
            })
            .collect();
        let mut one = Vec::new();
        write_event(&mut one, 0).unwrap();
        assert_eq!(one.len(), 4 + EVENT + 2);
        for client in &mut clients {
            let mut all = Vec::new();
            client.read_to_end(&mut all).unwrap();
            assert_eq!(all.len(), 4 * one.len() + 5);
            assert!(all.ends_with(b"\n\n\r\n0\r\n\r\n"));
        }
    }
}
