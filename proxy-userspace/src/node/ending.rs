//! How a client's connection is closed. A reset is ahead of whatever waits in a socket's queues and destroys it there; so
//! nothing is reset before all that belongs to the client has left, however slowly it reads.

use std::future::{Future, pending, poll_fn};
use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use portsplice_net::deadline::deadline;
use portsplice_relay::Stream;
use portsplice_relay::buffer::ReadBuffer;

/// How long, and for how many bytes, a connection is read after its last response, so that the peer gets to see it:
/// closing with unread bytes would send RST, which may destroy the response on its way (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;

/// A client that takes nothing for so long will not be waited for.
const STALLED: Duration = Duration::from_secs(60);

/// How often it is checked whether a client has taken everything: the kernel does not tell.
const POLL_INTERVALS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(200)];

/// Ends the connection so that the last response arrives.
pub(super) async fn in_order(client: &Stream, timeout: Duration) {
    client.end_on_close();
    // With TLS the last record may have to wait for a slow reader, like any other.
    let shutdown = while_reading(client, client.shutdown());
    if !matches!(timeout_at(deadline(timeout), shutdown).await, Ok(Some(Ok(())))) {
        return;
    }
    if !linger(client).await {
        // It still sends: what comes is answered by a reset from the close on, and what is not read makes the close one.
        flushed(client, timeout).await;
    }
}

/// Ends the connection so that the client knows that bytes are missing, after those that came.
pub(super) async fn broken_off(client: &Stream, timeout: Duration) {
    // First, in case that this is not waited for to its end.
    client.reset_on_close();
    flushed(client, timeout).await;
}

/// Waits until the client's kernel has all that was written.
async fn flushed(client: &Stream, timeout: Duration) {
    let timeout = if timeout.is_zero() { STALLED } else { timeout.min(STALLED) };
    let (mut left, mut since, mut pause) = (client.unsent(), Instant::now(), POLL_INTERVALS[0]);
    let waiting = async {
        while left > 0 && since.elapsed() < timeout {
            sleep(pause).await;
            pause = (pause * 2).min(POLL_INTERVALS[1]);
            let now = client.unsent();
            if now != left {
                (left, since) = (now, Instant::now());
            }
        }
    };
    while_reading(client, waiting).await;
}

/// Does what waits for the client to take something, and reads on meanwhile: one that sends all of its request before it reads the
/// answer would take nothing otherwise. `None` where the client is gone, which takes nothing more.
async fn while_reading<T>(client: &Stream, work: impl Future<Output = T>) -> Option<T> {
    let gone = async {
        if discard(client, usize::MAX).await.is_ok() {
            client.broken().await;
        }
    };
    tokio::select! {
        biased;
        // First: what is done at once need not be waited for.
        done = work => Some(done),
        () = gone => None,
    }
}

/// Reads a connection that was shut down until the peer has ended it too, for a while and a number of bytes. Beyond these
/// it is no longer read, but not closed before the time is over: the closed window stops a peer that still sends. Gives whether
/// it has ended.
pub(super) async fn linger(client: &Stream) -> bool {
    let discarded = async {
        if let Ok(true) = discard(client, LINGER_BYTES).await {
            pending().await
        }
    };
    // Running out of time is an ordinary end here.
    timeout(LINGER, discarded).await.is_ok()
}

/// Reads and forgets, until the peer has ended or, which gives `true`, so many bytes have come.
async fn discard(client: &Stream, mut left: usize) -> io::Result<bool> {
    // Holds memory only while it reads.
    let mut discarded = ReadBuffer::default();
    while left > 0 {
        match poll_fn(|cx| discarded.poll_fill(cx, client)).await? {
            0 => return Ok(false),
            n => {
                left = left.saturating_sub(n);
                discarded.consume(n);
            }
        }
    }
    Ok(true)
}
