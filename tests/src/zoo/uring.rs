//! Sending through io_uring.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::Tally;
use super::blocking::steps;

/// Writes the pattern's first `n` bytes; every other send asks the kernel to go on until all is taken (MSG_WAITALL).
pub(super) fn send(stream: &TcpStream, n: u64, tally: &Tally) -> io::Result<()> {
    let mut ring = ring()?;
    let fd = types::Fd(stream.as_raw_fd());
    let mut all = false;
    steps(
        0,
        n,
        |at| 1 + at * 11 % 200_000,
        |part, _| {
            all = !all;
            let flags = if all { libc::MSG_WAITALL } else { 0 };
            let entry = opcode::Send::new(fd, part.as_ptr(), part.len() as u32).flags(flags).build();
            submit(&mut ring, &entry)?;
            let (taken, _) = complete(&mut ring)?;
            tally.wrote(part.len(), taken);
            Ok(taken)
        },
    )
}

/// Writes the pattern's first `n` bytes without copies, and waits for each notification.
///
/// A socket may not offer that (EOPNOTSUPP): the kernel says so of one that is or was in a socket map, whatever it said
/// before. Then this server goes on with copies, as io_uring_prep_send_zc(3) has it.
pub(super) fn send_zerocopy(stream: &TcpStream, n: u64, tally: &Tally) -> io::Result<()> {
    let mut ring = ring()?;
    let fd = types::Fd(stream.as_raw_fd());
    let (mut sends, mut notified, mut copying) = (0_u64, 0_u64, false);
    steps(
        0,
        n,
        |at| 1 + at * 11 % 200_000,
        |part, _| loop {
            let (start, len) = (part.as_ptr(), part.len() as u32);
            let entry = match copying {
                true => opcode::Send::new(fd, start, len).build(),
                false => opcode::SendZc::new(fd, start, len).build(),
            };
            submit(&mut ring, &entry)?;
            let sent = loop {
                match complete(&mut ring) {
                    Ok((_, flags)) if cqueue::notif(flags) => notified += 1,
                    sent => break sent,
                }
            };
            match sent {
                Ok((taken, flags)) => {
                    sends += u64::from(cqueue::more(flags));
                    tally.wrote(part.len(), taken);
                    return Ok(taken);
                }
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) && !copying => copying = true,
                Err(error) => return Err(error),
            }
        },
    )?;
    while notified < sends {
        let (_, flags) = complete(&mut ring)?;
        notified += u64::from(cqueue::notif(flags));
    }
    tally.completed.fetch_add(notified, std::sync::atomic::Ordering::Relaxed);
    Ok(())
}

fn ring() -> io::Result<IoUring> {
    IoUring::new(64).map_err(|e| io::Error::new(e.kind(), format!("io_uring (sysctl kernel.io_uring_disabled): {e}")))
}

fn submit(ring: &mut IoUring, entry: &squeue::Entry) -> io::Result<()> {
    // SAFETY: the entry points to a part of the pattern, which lives and stays as it is until the process ends, and
    // names a descriptor that is open until its completion has been taken.
    unsafe { ring.submission().push(entry) }.map_err(io::Error::other)
}

/// The next completion: how much was taken, and its flags.
fn complete(ring: &mut IoUring) -> io::Result<(usize, u32)> {
    loop {
        if let Some(entry) = ring.completion().next() {
            return match usize::try_from(entry.result()) {
                Ok(taken) => Ok((taken, entry.flags())),
                Err(_) => Err(io::Error::from_raw_os_error(-entry.result())),
            };
        }
        ring.submit_and_wait(1)?;
    }
}
