//! A receive buffer that stays small, and yet takes whatever its window has allowed.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use socket2::Socket;

use super::set_option;

/// Keeps the receive buffer of one socket small, when asked to.
///
/// The kernel sizes the window by how well the biggest segments so far have filled their memory. Smaller ones need more, so
/// what the window has allowed may not fit, and then it depends on `SOCK_RCVBUF_LOCK`, which `SO_RCVBUF` sets. With the lock
/// such segments are dropped, the window is closed, and the sender is in the back-off of a retransmission until the queue
/// has been read; nothing tells it then that there is room again (`tcp_prune_queue` and `tcp_data_queue` in
/// net/ipv4/tcp_input.c). Without it the buffer grows by as much as they need (`tcp_clamp_window`), but also with each read
/// (`tcp_rcvbuf_grow`), to megabytes inside one host. So the lock is on while there is a read, which also brings the buffer
/// back to its size, and off while there is none.
#[derive(Debug, Default)]
pub(super) struct ReceiveBuffer {
    /// 0: as the kernel sees fit.
    bytes: AtomicU32,
}

impl ReceiveBuffer {
    /// Sets the size from the next read on, as `SO_RCVBUF` takes it; 0 leaves it to the kernel again.
    pub(super) fn keep(&self, bytes: u32) {
        self.bytes.store(bytes, Relaxed);
    }

    /// Runs `read`, a system call that may read from `socket`.
    pub(super) fn during<T>(&self, socket: &Socket, read: impl FnOnce() -> T) -> T {
        let bytes = self.bytes.load(Relaxed);
        if bytes == 0 {
            return read();
        }
        // What fails here costs speed only. Kernels before 5.14 do not know how to take the lock away, and drop.
        let _ = socket.set_recv_buffer_size(bytes as usize);
        let result = read();
        // Takes `SOCK_RCVBUF_LOCK` away, and `SOCK_SNDBUF_LOCK`, which nothing here sets.
        let _ = set_option(socket, libc::SOL_SOCKET, libc::SO_BUF_LOCK, 0);
        result
    }
}
