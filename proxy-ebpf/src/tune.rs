//! Fits servers' sockets to connections that never leave the host: small send buffers, and no congestion control to speak
//! of.
//!
//! When the client's connection is full, the server's own socket fills up, and only when all of that has been relayed
//! does the flow come back to the fast path. A send buffer that the kernel tunes itself grows to megabytes inside one
//! host, where 64 KiB keep a relay busy just as well. And nothing is lost or shared between two sockets of one namespace:
//! BBR, where it is the default, would put a timer between the segments.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_setsockopt};
use aya_ebpf::programs::SockOpsContext;
use proxy_common::Settings;

use crate::kernel::{self, offset};
use crate::socket_events::AF_INET6;

/// `SOL_SOCKET` and `SO_SNDBUF` of `include/uapi/asm-generic/socket.h`.
const SOL_SOCKET: i32 = 1;
const SO_SNDBUF: i32 = 7;
/// `IPPROTO_TCP` of `include/uapi/linux/in.h`, `TCP_CONGESTION` of `include/uapi/linux/tcp.h`.
const IPPROTO_TCP: i32 = 6;
const TCP_CONGESTION: i32 = 13;
/// Always there.
const RENO: [u8; 5] = *b"reno\0";

/// Tunes a socket that was just accepted from the daemon.
///
/// Inside one host the handshake runs in the system call of the side that connects, so the daemon is the current process;
/// and it connects to an address from that same address. Should the kernel finish the handshake elsewhere (in ksoftirqd),
/// the socket stays as it is: the flow then comes back to the fast path later, and that is all.
#[inline(always)]
pub fn accepted(ctx: &SockOpsContext, settings: &Settings) {
    if settings.daemon == 0 || !from_itself(ctx) || current_process() != settings.daemon {
        return;
    }
    let mut bytes = settings.server_sndbuf;
    let mut algorithm = RENO;
    // SAFETY: the helper reads as many bytes of each value as are said. A failure leaves the socket as it is.
    unsafe {
        bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_SNDBUF, (&raw mut bytes).cast(), size_of_val(&bytes) as i32);
        let length = size_of_val(&algorithm) as i32;
        bpf_setsockopt(ctx.as_ptr(), IPPROTO_TCP, TCP_CONGESTION, (&raw mut algorithm).cast(), length);
    }
}

/// Whether both ends of a connection have the same address.
#[inline(always)]
fn from_itself(ctx: &SockOpsContext) -> bool {
    if ctx.family() != AF_INET6 {
        return ctx.local_ip4() == ctx.remote_ip4();
    }
    // Word by word and volatile: the compiler would join the reads, and the verifier allows the context to be read in words
    // only.
    // SAFETY: the context is valid for the program's run.
    let (local, remote) = unsafe { (&raw const (*ctx.ops).local_ip6, &raw const (*ctx.ops).remote_ip6) };
    let same = |word: usize| {
        // SAFETY: both arrays have four words.
        unsafe { local.cast::<u32>().add(word).read_volatile() == remote.cast::<u32>().add(word).read_volatile() }
    };
    same(0) && same(1) && same(2) && same(3)
}

/// The process that the program runs in, as the initial pid namespace numbers it.
#[inline(always)]
pub fn current_process() -> u32 {
    // SAFETY: the helper has no arguments.
    let task = unsafe { bpf_get_current_task() };
    kernel::read(task, offset!(tgid))
}
