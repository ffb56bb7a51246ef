//! The sizes of the sockets' buffers on the fast path: a big one where bytes may wait, small ones where they are in the way.

use std::time::Duration;

use rustix::net::sockopt;
use socket2::Socket;

/// Send buffer of C. One call of a server comes as messages of up to 17 pieces of 32 KiB, and C must have room for twice a
/// message; the kernel doubles what it is asked for.
const CLIENT_SNDBUF: usize = 2 * 1024 * 1024;

/// A server's thread can only wait inside C when the kernel is short of memory, since the verdict sends nothing there that
/// has no room. This bounds the wait, even when the daemon is gone. The daemon's own writes never wait.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

/// Prepares C for being attached. What fails here costs speed only.
pub(super) fn prepare(client: &Socket) {
    // A limit on what is not sent yet would make C full too early (tcp(7), TCP_NOTSENT_LOWAT).
    let _ = client.set_tcp_notsent_lowat(u32::MAX);
    let _ = client.set_write_timeout(Some(CLIENT_PATIENCE));
    if client.send_buffer_size().is_ok_and(|bytes| bytes < 2 * CLIENT_SNDBUF)
        && sockopt::set_socket_send_buffer_size_force(client, CLIENT_SNDBUF).is_err()
    {
        let _ = client.set_send_buffer_size(CLIENT_SNDBUF);
    }
}
