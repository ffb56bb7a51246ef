//! TCP's urgent data (`MSG_OOB`): each octet stays in its place in the stream, and none keeps what follows it waiting.

use std::io::{self, ErrorKind, Write};
use std::net::TcpStream;

use portsplice_tests::client::{Conn, Link, Proof};
use portsplice_tests::http::Framing;
use portsplice_tests::origin::{Origin, Peer};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::{HANG, over_paths, pattern};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};

use crate::tunnels::open_tunnel;

/// Bytes between two urgent ones, in turn: below and above what is copied, what a pipe holds, and what a window does.
const GAPS: [usize; 8] = [1, 5, 1_000, 16_384, 16_385, 70_000, 300_001, 1_000_000];
const LEN: u64 = 24 << 20;

/// One who sends the pattern, part after part.
struct Sender<W> {
    out: W,
    /// The socket, where the last octet of a part is to be urgent. Within TLS there is no such thing.
    socket: Option<TcpStream>,
    at: u64,
}

impl<W: Write> Sender<W> {
    fn new(out: W, socket: Option<&TcpStream>) -> Self {
        let socket = socket.map(|socket| socket.try_clone().expect("another handle"));
        Self { out, socket, at: 0 }
    }

    fn ordinary(&mut self, len: usize) -> io::Result<()> {
        self.out.write_all(pattern::slice(self.at, len))?;
        self.at += len as u64;
        Ok(())
    }

    fn urgent(&mut self, len: usize) -> io::Result<()> {
        let Some(socket) = &self.socket else { return self.ordinary(len) };
        let mut bytes = pattern::slice(self.at, len);
        while !bytes.is_empty() {
            match send(socket, bytes, SendFlags::OOB | SendFlags::NOSIGNAL) {
                Ok(n) => bytes = &bytes[n..],
                Err(Errno::AGAIN) => {
                    let timeout = Timespec { tv_sec: HANG.as_secs() as i64, tv_nsec: 0 };
                    if poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&timeout))? == 0 {
                        return Err(ErrorKind::TimedOut.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.at += len as u64;
        Ok(())
    }

    /// Sends the pattern up to `end`, urgent octets among it.
    fn sprinkle(&mut self, end: u64) -> io::Result<()> {
        for gap in GAPS.into_iter().cycle() {
            let gap = gap.min((end - self.at) as usize);
            if gap == 0 {
                break;
            }
            self.urgent(gap)?;
        }
        Ok(())
    }

    /// Sends what [`read_round`] expects.
    fn round(&mut self, round: usize) -> io::Result<()> {
        let (parts, rest) = sizes(round);
        parts.into_iter().try_for_each(|part| self.urgent(part))?;
        self.ordinary(rest)
    }
}

/// What is sent at once: parts whose last octets are urgent, and an ordinary rest.
fn sizes(round: usize) -> ([usize; 3], usize) {
    ([0, 1, 2].map(|turn| GAPS[(round * 3 + turn) % (GAPS.len() - 1)]), round % 3 * 7)
}

fn read_round(input: &mut impl io::Read, check: &mut pattern::Check, round: usize) -> io::Result<()> {
    let (parts, rest) = sizes(round);
    let mut bytes = vec![0; parts.iter().sum::<usize>() + rest];
    input.read_exact(&mut bytes)?;
    check.update(&bytes);
    Ok(())
}

/// The client's end.
fn client(conn: &Conn, path: Path) -> Sender<Link> {
    inline(conn.stream());
    Sender::new(conn.writer(), (path != Path::Tls).then(|| conn.stream()))
}

/// The server's end.
fn server(peer: &Peer) -> io::Result<Sender<TcpStream>> {
    Ok(Sender::new(peer.stream().try_clone()?, Some(peer.stream())))
}

/// What a receiver needs to find urgent octets in the stream; behind a gateway they come as ordinary ones.
fn inline<'s>(socket: impl Into<socket2::SockRef<'s>>) {
    socket.into().set_out_of_band_inline(true).expect("SO_OOBINLINE");
}

/// As [`Rig::serve`], with urgent octets in the stream from the first byte on.
fn serve(rig: &Rig, handler: impl Fn(&mut Peer) -> io::Result<()> + Send + Sync + 'static) -> Origin {
    let listener = rig.netns.listen("127.0.0.1:0");
    inline(&listener);
    let origin = Origin::on(listener, handler);
    rig.use_port(origin.port());
    origin
}

over_paths! {
    /// A tunnel, both directions at once and in bulk.
    fn tunnel_in_bulk(path) {
        let rig = Rig::new(path);
        let origin = serve(&rig, |peer| {
            let mut sender = server(peer)?;
            // Not before the client, when it is connected directly, has set its socket's option.
            peer.stream().peek(&mut [0])?;
            let writing = std::thread::spawn(move || sender.sprinkle(LEN));
            pattern::read_from(peer.input(), LEN, 65_536)?;
            writing.join().expect("written")
        });
        let mut conn = rig.connect();
        open_tunnel(&mut conn);
        let mut sender = client(&conn, path);
        std::thread::scope(|scope| {
            scope.spawn(move || sender.sprinkle(LEN).expect("taken"));
            pattern::read_from(&mut conn, LEN, 65_536).expect("the whole stream");
        });
        origin.check();
    }

    /// Each waits for the other's last byte each time: nothing may stay behind until more comes.
    fn nothing_waits_at_the_mark(path) {
        const ROUNDS: usize = 60;
        let rig = Rig::new(path);
        let origin = serve(&rig, |peer| {
            let (mut sender, mut check) = (server(peer)?, pattern::Check::default());
            for round in 0..ROUNDS {
                read_round(peer.input(), &mut check, round)?;
                sender.round(round)?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        open_tunnel(&mut conn);
        let (mut sender, mut check) = (client(&conn, path), pattern::Check::default());
        for round in 0..ROUNDS {
            sender.round(round).expect("taken");
            read_round(&mut conn, &mut check, round).unwrap_or_else(|e| panic!("round {round}: {e}"));
        }
        origin.check();
    }

    /// Bodies with a length, both ways, and the message after them is found where it begins.
    fn bodies(path) {
        let rig = Rig::new(path);
        let origin = serve(&rig, |peer| {
            while let Some(head) = peer.head()? {
                let Framing::Length(length) = head.request_framing() else { panic!("{head:?}") };
                pattern::read_from(peer.input(), length, 65_536)?;
                peer.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {LEN}\r\n\r\n"))?;
                server(peer)?.sprinkle(LEN)?;
            }
            Ok(())
        });
        let mut conn = rig.connect();
        for _ in 0..2 {
            let head = conn.head_for("POST", "/", &[&format!("Content-Length: {LEN}")]);
            conn.write(&head);
            client(&conn, path).sprinkle(LEN).expect("taken");
            let (_, _, framing) = conn.final_head(Proof::Owed);
            assert_eq!(framing, Framing::Length(LEN));
            pattern::read_from(&mut conn, LEN, 65_536).expect("the whole body");
        }
        // A server that blocks gets a new connection after an answer on the fast path.
        assert!(origin.accepted() == 1 || path == Path::Fast, "{} connections", origin.accepted());
        origin.check();
    }
}
