//! Portsplice's programs in the kernel: thin entry points; the logic is in the modules.
//!
//! Today there is one, `socket_events`: it counts what the sockets of registered network namespaces do.
//!
//! The fast path, on which the answers of a container's server go straight to the controller's connection, will live
//! beside it: an `sk_msg` entry point here, its verdict in a module of its own, its flow table in [`maps`], and the value
//! types with their layout rules in `proxy-common`. It shares with `socket_events` the table of registered namespaces.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod maps;
mod socket_events;

use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;

/// The value for "go on": anything else makes the kernel take the callback for failed.
const PROCEED: u32 = 1;

/// Called for the callbacks of every TCP socket in the cgroup that it is attached to, for most of them in vain; so what it
/// does first is the cheapest test there is.
#[sock_ops]
pub fn socket_events(ctx: SockOpsContext) -> u32 {
    socket_events::handle(&ctx);
    PROCEED
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
