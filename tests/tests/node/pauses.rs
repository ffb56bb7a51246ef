//! A client that stops reading for a while: when it reads again, the stream goes on at once.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Barrier;
use std::thread::sleep;
use std::time::{Duration, Instant};

use portsplice_tests::client::Conn;
use portsplice_tests::origin::{Peer, contract};
use portsplice_tests::rig::Rig;
use portsplice_tests::{HANG, over_paths};

/// How many clients read nothing at the same time.
const STREAMS: usize = 24;
/// For how long. A server whose segment was dropped in the beginning sends it again after some 0.2, 0.6, 1.4, 3, 6.2 and 12.6 s.
const PAUSE: Duration = Duration::from_secs(7);
/// How long none of them may be silent afterwards, however busy the machine is.
const SILENCE: Duration = Duration::from_secs(3);
/// What each of them reads then: more than all buffers on the way hold, of a server that autotunes its own too.
const MORE: usize = 7_000_000;

/// Small messages, more and more quickly, as long as the client stays.
fn pour(peer: &mut Peer) -> io::Result<()> {
    let target = peer.must_request()?.head.target().to_owned();
    let framing = match target.as_str() {
        "/length" => "Content-Length: 20000000000\r\n",
        "/chunked" => "Transfer-Encoding: chunked\r\n",
        _ => "",
    };
    peer.write(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n"))?;
    let event = format!("data: {}\n\n", "x".repeat(2010));
    for i in 0_u32.. {
        match target.as_str() {
            "/chunked" => contract::chunk(peer, event.as_bytes())?,
            _ => peer.write(&event)?,
        }
        if i < 30 {
            sleep(Duration::from_millis(10));
        }
    }
    Ok(())
}

/// Reads so many bytes as they are on the wire; gives the longest time without any.
fn longest_silence(mut stream: &TcpStream, bytes: usize) -> Duration {
    // What waits otherwise is the reader of responses, which is not used here.
    stream.set_nonblocking(false).expect("blocking");
    stream.set_read_timeout(Some(HANG)).expect("a timeout");
    let mut buf = vec![0; 1 << 18];
    let (mut longest, mut last, mut got) = (Duration::ZERO, Instant::now(), 0);
    while got < bytes {
        let n = stream.read(&mut buf).expect("the stream goes on");
        assert_ne!(n, 0, "the stream ended");
        longest = longest.max(last.elapsed());
        last = Instant::now();
        got += n;
    }
    longest
}

/// How often the container's kernel dropped what had come for a socket that had no memory left for it (`TcpExt` of netstat(8)).
fn dropped(rig: &Rig) -> u64 {
    let text = rig.netns.enter(|| std::fs::read_to_string("/proc/thread-self/net/netstat").expect("counters"));
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt: ")).map(|line| line.split(' '));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let (_, value) = names.zip(values).find(|(name, _)| *name == "TCPRcvQDrop").expect("there since Linux 4.16");
    value.parse().expect("a number")
}

over_paths! {
    /// Segments that the container's kernel let the server send are not dropped while the client does not read: the server
    /// would be in the back-off of their retransmission when it reads again.
    fn streams_go_on_at_once(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(pour);
        let dialer = rig.dialer(origin.port());
        let connect = |target: &str| {
            let mut conn = dialer.connect_with(|socket| socket.set_recv_buffer_size(64 * 1024));
            conn.send("GET", target, &[], b"");
            conn
        };
        let conns: Vec<Conn> = (0..STREAMS).map(|i| connect(["/length", "/chunked", "/close"][i % 3])).collect();
        sleep(PAUSE);
        assert_eq!(dropped(&rig), 0, "segments were dropped that the server was allowed to send");
        let start = Barrier::new(STREAMS);
        let read = |conn: &Conn| {
            start.wait();
            longest_silence(conn.stream(), MORE)
        };
        std::thread::scope(|scope| {
            let readers: Vec<_> = conns.iter().map(|conn| scope.spawn(|| read(conn))).collect();
            for reader in readers {
                let silence = reader.join().expect("a reader");
                assert!(silence <= SILENCE, "silent for {silence:?} after a pause of {PAUSE:?}");
            }
        });
    }
}
