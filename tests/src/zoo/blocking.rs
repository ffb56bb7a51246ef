//! A thread for each connection, and blocking system calls of all kinds.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendFlags, send};
use rustix::pipe::{SpliceFlags, pipe, splice};

use super::{ServerVariant, Tally, crowd, is_goodbye, uring};
use crate::HANG;
use crate::http::{Buffered, Head};
use crate::pattern::{self, PERIOD};

/// linux/errqueue.h
const SO_EE_ORIGIN_ZEROCOPY: u8 = 5;
/// The most that one system call is given.
const STEP: u64 = 65536;

/// Serves each connection on a thread of its own.
pub(super) fn run(listener: &TcpListener, manner: ServerVariant) {
    let tally = Arc::new(Tally::default());
    for stream in listener.incoming().flatten() {
        let tally = tally.clone();
        std::thread::spawn(move || {
            if let Err(error) = serve(&stream, manner, &tally)
                && !is_goodbye(&error)
            {
                #[expect(clippy::print_stderr, reason = "the test shows it when it fails")]
                {
                    eprintln!("{manner:?}: {error}");
                }
            }
        });
    }
}

fn serve(stream: &TcpStream, manner: ServerVariant, tally: &Tally) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(10 * HANG))?;
    stream.set_write_timeout(Some(10 * HANG))?;
    if manner == ServerVariant::Zerocopy {
        allow_zerocopy(stream)?;
    }
    match manner {
        ServerVariant::Fionread => requests(&mut Buffered::new(Careful(stream)), stream, manner, tally),
        _ => requests(&mut Buffered::new(stream), stream, manner, tally),
    }
}

fn requests<R: Read>(
    input: &mut Buffered<R>,
    stream: &TcpStream,
    manner: ServerVariant,
    tally: &Tally,
) -> io::Result<()> {
    while let Some(head) = input.head()? {
        let mut parts = head.target().trim_start_matches('/').split('/');
        let what = parts.next().unwrap_or_default();
        let n = parts.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        match what {
            "bytes" => {
                announce(stream, n)?;
                content(manner, stream, n, tally)?;
            }
            "crowd" => {
                announce(stream, n)?;
                crowd::write(stream, n)?;
            }
            "urgent" => {
                announce(stream, n)?;
                let half = n / 2;
                write(stream, 0, half, tally)?;
                send(stream, pattern::slice(half, 1), SendFlags::OOB)?;
                write(stream, half + 1, n, tally)?;
            }
            "sink" => answer(stream, &format!("{}\n", sink(input, &head)?))?,
            "tally" => answer(stream, &tally.page())?,
            _ => write_head(stream, "404 Not Found", 0)?,
        }
        if head.lists("connection", "close") {
            break;
        }
    }
    stream.shutdown(std::net::Shutdown::Write)
}

fn write_head(mut stream: &TcpStream, status: &str, length: u64) -> io::Result<()> {
    stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n").as_bytes())
}

fn announce(stream: &TcpStream, length: u64) -> io::Result<()> {
    write_head(stream, "200 OK", length)
}

fn answer(mut stream: &TcpStream, text: &str) -> io::Result<()> {
    announce(stream, text.len() as u64)?;
    stream.write_all(text.as_bytes())
}

fn sink<R: Read>(input: &mut Buffered<R>, head: &Head) -> io::Result<u64> {
    let mut cursor = pattern::Cursor::default();
    let mut fault = Ok(());
    input.body_into(head.request_framing(), &mut |part| {
        if fault.is_ok() {
            fault = cursor.take(part);
        }
    })?;
    fault.map_err(io::Error::other)?;
    Ok(cursor.offset())
}

/// Writes the pattern's first `n` bytes in a manner.
fn content(manner: ServerVariant, stream: &TcpStream, n: u64, tally: &Tally) -> io::Result<()> {
    match manner {
        ServerVariant::Write | ServerVariant::Fionread | ServerVariant::Mptcp | ServerVariant::Edge => {
            write(stream, 0, n, tally)
        }
        ServerVariant::Small => {
            steps(0, n, |at| 1 + at * 7 % 1400, |part, _| sent(part, (&*stream).write(part)?, tally))
        }
        ServerVariant::Vectored => vectored(stream, n, tally),
        ServerVariant::More => {
            let odd = |at: u64| 1 + at * 31 % 30_000;
            steps(0, n, odd, |part, last| {
                let flags = if last { SendFlags::empty() } else { SendFlags::MORE };
                sent(part, send(stream, part, flags)?, tally)
            })
        }
        ServerVariant::Turns => turns(stream, n, tally),
        ServerVariant::Sendfile => sendfile(stream, n, tally),
        ServerVariant::Splice => spliced(stream, n, tally),
        ServerVariant::Zerocopy => zerocopy(stream, n, tally),
        ServerVariant::Uring => uring::send(stream, n, tally),
        ServerVariant::UringZerocopy => uring::send_zerocopy(stream, n, tally),
    }
}

/// Goes through the pattern from `at` to `end` in steps; a step tells how much it took.
pub(super) fn steps(
    mut at: u64,
    end: u64,
    size: impl Fn(u64) -> u64,
    mut step: impl FnMut(&'static [u8], bool) -> io::Result<usize>,
) -> io::Result<()> {
    while at < end {
        let part = pattern::slice(at, (end - at).min(size(at)) as usize);
        let taken = step(part, at + part.len() as u64 == end)?;
        if taken == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        at += taken as u64;
    }
    Ok(())
}

fn sent(part: &[u8], taken: usize, tally: &Tally) -> io::Result<usize> {
    tally.wrote(part.len(), taken);
    Ok(taken)
}

fn write(mut stream: &TcpStream, at: u64, end: u64, tally: &Tally) -> io::Result<()> {
    steps(at, end, |_| STEP, |part, _| sent(part, stream.write(part)?, tally))
}

fn vectored(mut stream: &TcpStream, n: u64, tally: &Tally) -> io::Result<()> {
    steps(
        0,
        n,
        |_| 200_000,
        |part, _| {
            let mut pieces = Vec::new();
            let mut rest = part;
            while !rest.is_empty() && pieces.len() < 64 {
                let (piece, more) = rest.split_at(rest.len().min(1 + pieces.len() * 997 % 9000));
                pieces.push(IoSlice::new(piece));
                rest = more;
            }
            let given = part.len() - rest.len();
            let taken = stream.write_vectored(&pieces)?;
            tally.wrote(given, taken);
            Ok(taken)
        },
    )
}

/// Four threads, each of which writes the next piece when it gets its turn.
fn turns(stream: &TcpStream, n: u64, tally: &Tally) -> io::Result<()> {
    let next = Mutex::new(0);
    let take_turns = |mut stream: &TcpStream| loop {
        let mut at = next.lock().expect("no writer panics");
        if *at >= n {
            return Ok(());
        }
        let part = pattern::slice(*at, (n - *at).min(1 + *at * 13 % 70_000) as usize);
        let taken = stream.write(part)?;
        tally.wrote(part.len(), taken);
        *at += taken as u64;
    };
    std::thread::scope(|scope| {
        let writers = [(); 4].map(|()| scope.spawn(|| take_turns(stream)));
        writers.into_iter().try_for_each(|writer| writer.join().expect("no writer panics"))
    })
}

/// The pattern, once, in a file without a name.
fn pattern_file() -> io::Result<File> {
    let file = File::from(rustix::fs::memfd_create("pattern", rustix::fs::MemfdFlags::CLOEXEC)?);
    (&file).write_all(pattern::slice(0, PERIOD))?;
    Ok(file)
}

/// How far a system call may go at `at`, so that the file's end is not passed.
fn within_file(at: u64) -> (u64, u64) {
    let offset = at % PERIOD as u64;
    (offset, (PERIOD as u64 - offset).min(1 + at * 17 % 300_000))
}

fn sendfile(stream: &TcpStream, n: u64, tally: &Tally) -> io::Result<()> {
    let file = pattern_file()?;
    let mut at = 0;
    while at < n {
        let (mut offset, most) = within_file(at);
        let given = most.min(n - at) as usize;
        let taken = rustix::fs::sendfile(stream, &file, Some(&mut offset), given)?;
        tally.wrote(given, taken);
        at += taken as u64;
    }
    Ok(())
}

fn spliced(stream: &TcpStream, n: u64, tally: &Tally) -> io::Result<()> {
    let file = pattern_file()?;
    let (from, to) = pipe()?;
    let mut at = 0;
    while at < n {
        let (mut offset, most) = within_file(at);
        let given = most.min(n - at).min(STEP) as usize;
        let mut held = splice(&file, Some(&mut offset), &to, None, given, SpliceFlags::empty())?;
        at += held as u64;
        while held > 0 {
            let flags = if at < n { SpliceFlags::MORE } else { SpliceFlags::empty() };
            let taken = splice(&from, None, stream, None, held, flags)?;
            tally.wrote(held, taken);
            held -= taken;
        }
    }
    Ok(())
}

fn zerocopy(stream: &TcpStream, n: u64, tally: &Tally) -> io::Result<()> {
    /// Sends whose pages the kernel may hold at once; far below what it allows (ENOBUFS at `net.core.optmem_max`).
    const PENDING: u64 = 16;
    let flags = SendFlags::from_bits_retain(libc::MSG_ZEROCOPY.cast_unsigned());
    let mut pending = 0;
    steps(
        0,
        n,
        |at| 20_000 + at % 180_000,
        |part, _| {
            while pending >= PENDING {
                pending -= completions(stream, tally)?;
            }
            // The pattern is never changed, so the kernel may keep its pages for as long as it wants.
            let taken = send(stream, part, flags)?;
            pending += 1;
            sent(part, taken, tally)
        },
    )?;
    while pending > 0 {
        pending -= completions(stream, tally)?;
    }
    Ok(())
}

/// Sets SO_ZEROCOPY, which no safe interface offers.
fn allow_zerocopy(stream: &TcpStream) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `stream` is borrowed, and the kernel reads `len` bytes of `on`.
    let done = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ZEROCOPY, (&raw const on).cast(), len)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits for the kernel to give pages back; for how many sends it did.
fn completions(stream: &TcpStream, tally: &Tally) -> io::Result<u64> {
    // Waits for the error queue only: poll(2) reports it whatever was asked for.
    wait(stream, PollFlags::empty())?;
    // struct sock_extended_err in a control message (linux/errqueue.h): ee_info and ee_data, the last two words of the
    // first sixteen bytes, are the first and the last send that it is about. rustix does not parse it, libc does.
    let mut control = [0_u64; 16];
    let mut header = libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: std::ptr::null_mut(),
        msg_iovlen: 0,
        msg_control: control.as_mut_ptr().cast(),
        msg_controllen: size_of_val(&control),
        msg_flags: 0,
    };
    // SAFETY: the header describes one buffer, `control`, which lives until after the last use of the header.
    let got = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut header, libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT) };
    if got < 0 {
        let error = io::Error::last_os_error();
        return if error.kind() == io::ErrorKind::WouldBlock { gone(stream) } else { Err(error) };
    }
    // SAFETY: recvmsg(2) has filled the header; CMSG_FIRSTHDR gives null or a header inside `control`, and the kernel
    // puts a whole struct behind one of this level and type. It is read unaligned since only u64 is promised.
    let error = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        if first.is_null() {
            return Err(io::Error::other("an error queue without a message"));
        }
        libc::CMSG_DATA(first).cast::<libc::sock_extended_err>().read_unaligned()
    };
    if error.ee_origin != SO_EE_ORIGIN_ZEROCOPY {
        return Err(io::Error::from_raw_os_error(error.ee_errno.cast_signed()));
    }
    let sends = u64::from(error.ee_data.wrapping_sub(error.ee_info)) + 1;
    tally.completed.fetch_add(sends, std::sync::atomic::Ordering::Relaxed);
    Ok(sends)
}

/// An event without a completion: the connection has failed.
fn gone(stream: &TcpStream) -> io::Result<u64> {
    Err(stream.take_error()?.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
}

fn wait(fd: impl AsFd, flags: PollFlags) -> io::Result<()> {
    let timeout = Timespec { tv_sec: 10 * HANG.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut [PollFd::new(&fd, flags)], Some(&timeout))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Reads as nginx, Java and .NET do: only what FIONREAD announces, and readable without a byte is the end.
struct Careful<'a>(&'a TcpStream);

impl Read for Careful<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        wait(self.0, PollFlags::IN)?;
        let announced = rustix::io::ioctl_fionread(self.0)?;
        let most = buf.len().min(usize::try_from(announced).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        self.0.read(&mut buf[..most])
    }
}
