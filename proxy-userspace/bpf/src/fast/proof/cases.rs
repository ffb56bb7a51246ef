//! The items of the proof.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use proxy_common::{AttachStatus, Framing};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFlags, Timespec, epoll};
use socket2::SockRef;

use super::Finding;
use super::rig::{PATIENCE, Rig, TestSockets, claim, drain, expect, pattern, relay, wait};
use crate::fast::kernel_flow::AttachFailure;
use portsplice_relay::bypass::FastFlow;

type Case = fn(&Rig<'_>) -> Result<Finding>;

pub(super) const FIONREAD: &str = "FIONREAD shows a server what there is to read";

pub(super) const ALL: [(&str, Case); 14] = [
    ("order under a reader that is slow at first", order),
    ("the end of the stream comes after the last byte", end),
    ("sendfile", sendfile),
    ("an edge-triggered server gets every event that it waits for", edge_triggered),
    ("a client that has closed its sending side still gets its response", half_close),
    ("a client's reset reaches the server", reset),
    ("the last message of a response passes the daemon", last_message),
    ("chunks are followed, and the last one passes the daemon", chunks),
    (FIONREAD, fionread),
    ("a server that sends without copying is left alone", zero_copy),
    ("a socket with TLS in the kernel is left alone", protocol),
    ("urgent data passes", urgent),
    ("a message waits for one before it that is still on its way", crossing),
    ("nothing is redirected while the daemon writes, nor beyond the response", turns),
];

const MIB: usize = 1024 * 1024;

/// When the client of [`send`] begins to read.
#[derive(PartialEq)]
enum Reader {
    AtOnce,
    /// When its connection is full, and the fast path had to let a message pass.
    OnceFull,
}

/// Sends `bytes` through a flow, by `serve`, while a relay runs and a client reads. Gives how many went fast and how many
/// passed.
fn send(
    rig: &Rig<'_>,
    bytes: &[u8],
    reader: Reader,
    serve: impl FnOnce(&TcpStream) -> Result<()> + Send,
) -> Result<(u64, u64)> {
    let mut sockets = rig.sockets()?;
    let flow = rig.attach(&sockets)?;
    let mut k = sockets.k.try_clone()?;
    let sockets = &mut sockets;
    scope(|scope| {
        let server = scope.spawn(|| {
            let served = serve(&sockets.s);
            sockets.s.shutdown(Shutdown::Write).context("cannot end the stream").and(served)
        });
        let relayed = scope.spawn(|| relay(sockets, &flow));
        if reader == Reader::OnceFull {
            // Whether it became full is judged by the numbers. The server's thread may have to wait for a processor.
            let began = Instant::now();
            while flow.fallback_messages() == 0 && !server.is_finished() && began.elapsed() < PATIENCE {
                sleep(Duration::from_micros(200));
            }
        }
        let read = expect(&mut k, bytes);
        if read.is_err() {
            // Whoever still waits for somebody shall not.
            for socket in [&sockets.s, &sockets.k] {
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        let relayed = relayed.join().map_err(|_| anyhow!("the relay panicked"))?;
        server.join().map_err(|_| anyhow!("the server panicked"))?.context("the server")?;
        read?;
        Ok((flow.fast_bytes(), relayed.context("the relay")?))
    })
}

fn shares((fast, slow): (u64, u64)) -> Result<Finding> {
    ensure!(fast > 0, "nothing was redirected ({slow} bytes passed)");
    Ok(Finding::Holds(format!("{fast} bytes went fast, {slow} passed")))
}

fn order(rig: &Rig<'_>) -> Result<Finding> {
    let bytes = pattern(4 * MIB);
    let counts =
        send(rig, &bytes, Reader::OnceFull, |mut s| bytes.chunks(50_000).try_for_each(|part| Ok(s.write_all(part)?)))?;
    ensure!(counts.1 > 0, "nothing passed although the reader did not read");
    shares(counts)
}

fn end(rig: &Rig<'_>) -> Result<Finding> {
    let bytes = pattern(300_000);
    let mut all = (0, 0);
    for _ in 0..5 {
        let counts = send(rig, &bytes, Reader::AtOnce, |mut s| Ok(s.write_all(&bytes)?))?;
        all = (all.0 + counts.0, all.1 + counts.1);
    }
    shares(all)
}

fn sendfile(rig: &Rig<'_>) -> Result<Finding> {
    let bytes = pattern(2 * MIB);
    let file = rustix::fs::memfd_create("proof", rustix::fs::MemfdFlags::CLOEXEC)?;
    std::fs::File::from(file.try_clone()?).write_all(&bytes)?;
    let counts = send(rig, &bytes, Reader::AtOnce, |s| {
        let mut offset = 0;
        while offset < bytes.len() as u64 {
            let left = bytes.len() - offset as usize;
            ensure!(rustix::fs::sendfile(s, &file, Some(&mut offset), left)? > 0, "sendfile sent nothing");
        }
        Ok(())
    })?;
    shares(counts)
}

/// The server that every earlier proxy of this kind has hung: it stops at EAGAIN and goes on only when it is told.
fn edge_triggered(rig: &Rig<'_>) -> Result<Finding> {
    let bytes = pattern(4 * MIB);
    let mut waits = 0;
    let counts = send(rig, &bytes, Reader::OnceFull, |s| {
        s.set_nonblocking(true)?;
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&poller, s, epoll::EventData::new_u64(0), epoll::EventFlags::OUT | epoll::EventFlags::ET)?;
        let mut events = Vec::with_capacity(4);
        let mut left = &bytes[..];
        while !left.is_empty() {
            match (&*s).write(left) {
                Ok(n) => left = &left[n..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    waits += 1;
                    events.clear();
                    let patience = Timespec { tv_sec: 2, tv_nsec: 0 };
                    epoll::wait(&poller, spare_capacity(&mut events), Some(&patience))?;
                    ensure!(!events.is_empty(), "the server was told to wait and never to continue");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    })?;
    ensure!(waits < 2_000, "the server was told to wait {waits} times: it would spin");
    shares(counts)
}

fn half_close(rig: &Rig<'_>) -> Result<Finding> {
    let sockets = rig.sockets()?;
    let flow = rig.attach(&sockets)?;
    sockets.k.shutdown(Shutdown::Write)?;
    let bytes = pattern(200_000);
    let mut k = sockets.k.try_clone()?;
    let slow = scope(|scope| {
        let relayed = scope.spawn(|| relay(&sockets, &flow));
        let served = (&sockets.s).write_all(&bytes).and_then(|()| sockets.s.shutdown(Shutdown::Write));
        let read = expect(&mut k, &bytes);
        served?;
        read?;
        relayed.join().map_err(|_| anyhow!("the relay panicked"))?
    })?;
    shares((flow.fast_bytes(), slow))
}

fn reset(rig: &Rig<'_>) -> Result<Finding> {
    let sockets = rig.sockets()?;
    let flow = rig.attach(&sockets)?;
    (&sockets.s).write_all(&[1; 1000])?;
    SockRef::from(&sockets.k).set_linger(Some(Duration::ZERO))?;
    let TestSockets { k, c, u, s } = sockets;
    drop(k);
    wait(&c, PollFlags::IN)?;
    let before = flow.fast_bytes();
    let told = (0..10).find_map(|_| (&s).write_all(&[2; 1000]).err());
    ensure!(flow.fast_bytes() == before, "messages are still redirected to a connection that was reset");
    drop((flow, c, u));
    Ok(Finding::Holds(match told {
        Some(error) => format!("its next send says: {error}"),
        None => "its messages pass from then on, and the daemon, which sees the reset, ends the connection".to_owned(),
    }))
}

fn last_message(rig: &Rig<'_>) -> Result<Finding> {
    let sockets = rig.sockets()?;
    let flow = rig.try_attach(&sockets, 1000).map_err(|reason| anyhow!("the flow was not attached: {reason}"))?;
    (&sockets.s).write_all(&[1; 400])?;
    ensure!((flow.fast_bytes(), flow.budget()) == (400, 600), "the first message was not redirected");
    (&sockets.s).write_all(&[2; 600])?;
    ensure!((flow.fast_bytes(), flow.budget()) == (400, 600), "the last message was redirected");
    drain(&flow)?;
    Ok(Finding::Holds("it came to the daemon's socket".to_owned()))
}

fn chunks(rig: &Rig<'_>) -> Result<Finding> {
    let sockets = rig.sockets()?;
    let flow = rig
        .try_attach_framed(&sockets, Framing::Chunked, 0)
        .map_err(|reason| anyhow!("the flow was not attached: {reason}"))?;
    let messages: [(&[u8], Option<u64>); 5] = [
        (b"5\r\nhello\r\n", Some(0)),
        (b"1\r\n!\r\na\r\n0123", Some(8)),
        (b"456789\r\n00C\r\n", Some(14)),
        (b"twelve bytes\r\n", Some(0)),
        (b"0\r\n\r\n", None),
    ];
    let mut fast = 0;
    for (number, (message, left)) in messages.iter().enumerate() {
        (&sockets.s).write_all(message)?;
        fast += left.map_or(0, |_| message.len() as u64);
        let seen = (flow.fast_bytes(), left.map(|_| flow.budget()));
        ensure!(seen == (fast, *left), "message {number} left {seen:?} instead of {:?}", (fast, left));
    }
    drain(&flow)?;
    Ok(Finding::Holds(format!("{fast} bytes went fast")))
}

fn urgent(rig: &Rig<'_>) -> Result<Finding> {
    let sockets = rig.sockets()?;
    let flow = rig.attach(&sockets)?;
    let server = SockRef::from(&sockets.s);
    server.send(b"plain")?;
    ensure!(flow.fast_bytes() == 5, "an ordinary message was not redirected");
    server.send_out_of_band(b"urgent")?;
    ensure!(flow.fast_bytes() == 5, "urgent data was redirected");
    Ok(Finding::Holds("it came to the daemon's socket".to_owned()))
}

/// Another thread's message is on its way to C while C's numbers do not add up; here they are made not to.
fn crossing(rig: &Rig<'_>) -> Result<Finding> {
    let sockets = rig.sockets()?;
    let flow = rig.attach(&sockets)?;
    let unknown = |_| anyhow!("C cannot be queried");
    (&sockets.s).write_all(b"hello")?;
    sockets.c.send(b"?")?;
    (&sockets.s).write_all(b"hello")?;
    ensure!(flow.fast_bytes() == 5, "it overtook the other one");
    ensure!(!flow.try_claim().map_err(unknown)?, "the daemon would write it before the other one");
    ensure!(flow.take(1) == 1 && flow.try_claim().map_err(unknown)?, "the daemon would wait for ever");
    Ok(Finding::Holds("it passes, and waits in the daemon".to_owned()))
}

/// What a container can move (here: what S sends, as if nothing had passed) gives no turn to a second writer.
fn turns(rig: &Rig<'_>) -> Result<Finding> {
    let sockets = rig.sockets()?;
    let flow = rig.try_attach(&sockets, 1000).map_err(|reason| anyhow!("the flow was not attached: {reason}"))?;
    let send = |bytes: &[u8]| (&sockets.s).write_all(bytes);
    send(&[1; 100])?;
    claim(&flow)?;
    send(&[2; 100])?;
    ensure!(flow.fast_bytes() == 100, "a message was redirected while it was the daemon's turn");
    // As if what the daemon holds had been put into U by somebody else: S's own number is where the verdict wants it.
    ensure!(flow.take(850) == 850 && flow.take(100) == 50 && flow.budget() == 0, "the budget was not what was left");
    sockets.c.send(&[3; 900])?;
    flow.release(100);
    send(&[4; 1])?;
    ensure!(flow.fast_bytes() == 100, "more was redirected than was to come");
    drain(&flow)?;
    send(&[5; 1])?;
    ensure!(flow.fast_bytes() == 100, "a message was redirected after the end");

    let sockets = rig.sockets()?;
    let flow = rig.try_attach(&sockets, 1000).map_err(|reason| anyhow!("the flow was not attached: {reason}"))?;
    (&sockets.s).write_all(&[1; 100])?;
    sockets.c.send(&[9; 1])?;
    ensure!(matches!(flow.try_drain(), Ok(false)), "a byte more than was to come was not noticed");
    Ok(Finding::Holds("it passes, and what reaches the client is counted".to_owned()))
}

fn fionread(rig: &Rig<'_>) -> Result<Finding> {
    let sockets = rig.sockets()?;
    let _flow = rig.attach(&sockets)?;
    sockets.u.send(b"hello")?;
    wait(&sockets.s, PollFlags::IN)?;
    match rustix::io::ioctl_fionread(&sockets.s)? {
        5 => Ok(Finding::Holds("also in a socket map".to_owned())),
        wrong => Ok(Finding::WorkedAround(format!(
            "this kernel says {wrong} instead of 5 for a socket in a socket map, so a server's socket is there only \
             while there is nothing to read"
        ))),
    }
}

fn zero_copy(rig: &Rig<'_>) -> Result<Finding> {
    let sockets = rig.sockets()?;
    set_option(&sockets.s, libc::SOL_SOCKET, libc::SO_ZEROCOPY, &1_i32.to_ne_bytes()).context("SO_ZEROCOPY")?;
    match rig.try_attach(&sockets, 1000) {
        Err(AttachFailure::Program(AttachStatus::ZeroCopy)) => {
            Ok(Finding::Holds("its flow is not attached".to_owned()))
        }
        other => Err(anyhow!("its flow was attached, or failed for another reason: {:?}", other.map(|_| ()))),
    }
}

fn protocol(rig: &Rig<'_>) -> Result<Finding> {
    let sockets = rig.sockets()?;
    if set_option(&sockets.s, libc::IPPROTO_TCP, libc::TCP_ULP, b"tls").is_err() {
        return Ok(Finding::Holds("this kernel has no TLS".to_owned()));
    }
    match rig.try_attach(&sockets, 1000) {
        Err(AttachFailure::Program(AttachStatus::Protocol) | AttachFailure::Client) => {
            Ok(Finding::Holds("its flow is not attached".to_owned()))
        }
        other => Err(anyhow!("its flow was attached, or failed for another reason: {:?}", other.map(|_| ()))),
    }
}

/// Sets a socket option that socket2 does not know.
fn set_option(socket: &impl AsFd, level: i32, name: i32, value: &[u8]) -> std::io::Result<()> {
    let length = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads so many bytes through the pointer, and it points to as many.
    let result = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
