//! Portsplice's programs in the kernel: thin entry points; the logic is in the modules.
//!
//! - `socket_events` (sock_ops) counts what the sockets of registered network namespaces do, and tells the daemon which
//!   begin and cease to listen.
//! - `verdict` (sk_msg) sends what a container's server sends straight to the client's connection, if that is safe.
//! - `attach` and `drain` are run by the daemon: they put a server's socket under the verdict, and take it out again.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod attach;
mod caller;
mod chunked;
mod kernel;
mod listeners;
mod maps;
mod socket_events;
mod tune;
mod verdict;

use aya_ebpf::macros::{classifier, sk_msg, sock_ops};
use aya_ebpf::programs::{SkMsgContext, SockOpsContext, TcContext};

/// The value for "go on": anything else makes the kernel take the callback for failed.
const PROCEED: u32 = 1;

/// Called for the callbacks of every TCP socket in the cgroup that it is attached to, for most of them without success;
/// so what it does first is the cheapest test there is.
#[sock_ops]
pub fn socket_events(ctx: SockOpsContext) -> u32 {
    socket_events::handle(&ctx);
    PROCEED
}

/// Called for each message that an attached server's socket sends, with that socket locked.
#[sk_msg]
pub fn verdict(ctx: SkMsgContext) -> u32 {
    verdict::handle(&ctx)
}

/// Run by the daemon in the container's network namespace; see [`attach::attach`].
#[classifier]
pub fn attach(ctx: TcContext) -> i32 {
    attach::attach(&ctx) as i32
}

/// Run by the daemon; see [`attach::drain`].
#[classifier]
pub fn drain(ctx: TcContext) -> i32 {
    attach::drain(&ctx) as i32
}

/// Run by the daemon; returns its process id.
#[classifier]
pub fn process(_ctx: TcContext) -> i32 {
    tune::current_process() as i32
}

/// Run by the daemon, with the place of a task's registers as the argument; returns what stands there as the number of the
/// system call.
#[classifier]
pub fn call(ctx: TcContext) -> i32 {
    attach::call(&ctx) as i32
}

/// Never called, and never part of the object: a path that panics would not get past the verifier.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// What the kernel is told: it lends some helpers only to programs under a licence that it takes for compatible with
/// its own, and of the two licences of this crate MIT is one.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
