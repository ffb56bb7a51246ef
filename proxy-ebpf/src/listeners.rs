//! Tells the daemon which sockets begin and cease to listen.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_probe_read_kernel, bpf_skc_to_tcp_sock,
};
use aya_ebpf::programs::SockOpsContext;
use proxy_common::{ListenEvent, Pace, byte_order};

use crate::atomic;
use crate::kernel::{self, is_known, offset};
use crate::maps::{LISTENERS, LISTENERS_LOST, PACES};
use crate::socket_events::AF_INET6;

/// Sends an event, or counts it among the lost ones.
#[inline(always)]
pub fn announce(ctx: &SockOpsContext, kind: u16, netns: u64) {
    let Some(pace) = PACES.get_ptr_mut(&netns) else { return };
    // SAFETY: the helper has no arguments.
    let time = unsafe { bpf_ktime_get_ns() };
    if admit(pace, time) && send(ctx, kind, netns, time) {
        return;
    }
    // SAFETY: the pointers come from maps; fields of a map's value are aligned.
    unsafe {
        atomic::add(&raw mut (*pace).lost, 1);
        if let Some(lost) = LISTENERS_LOST.get_ptr_mut(0) {
            atomic::add(lost, 1);
        }
    }
}

/// Whether the namespace may send one more event now.
#[inline(always)]
fn admit(pace: *mut Pace, time: u64) -> bool {
    // SAFETY: the pointer comes from a map whose values are of this type. Other CPUs write to it too: each of these is one
    // load or store of an aligned integer.
    unsafe {
        let (window, sent) = (&raw mut (*pace).window, &raw mut (*pace).sent);
        let Some(next) = Pace::admit(window.read_volatile(), sent.read_volatile(), time) else { return false };
        window.write_volatile(next.0);
        sent.write_volatile(next.1);
    }
    true
}

/// Puts an event into the ring. The daemon is woken for it at once, unless it is reading already.
#[inline(always)]
fn send(ctx: &SockOpsContext, kind: u16, netns: u64, time: u64) -> bool {
    let is_v6 = ctx.family() == AF_INET6;
    let mut event = ListenEvent {
        time,
        netns,
        // SAFETY: the helper takes the context of a sock_ops program.
        socket: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        address: [0; 16],
        process: [0; 16],
        port: byte_order::local_port(ctx.local_port()),
        kind,
        family: if is_v6 { ListenEvent::IPV6 } else { ListenEvent::IPV4 },
        v6only: if is_v6 { v6only(ctx) } else { 0 },
    };
    if is_v6 {
        event.address = byte_order::ipv6(ctx.local_ip6());
    } else {
        event.address[..4].copy_from_slice(&byte_order::ipv4(ctx.local_ip4()).to_be_bytes());
    }
    // At its end a socket may be closed by anybody, or by nobody: that says nothing.
    if kind == ListenEvent::BEGINS {
        event.process = process();
    }
    LISTENERS.output::<ListenEvent>(&event, 0).is_ok()
}

/// Whether a socket of IPv6 takes no IPv4.
#[inline(always)]
fn v6only(ctx: &SockOpsContext) -> u16 {
    let bit = offset!(v6only_bit);
    // SAFETY: the context is valid for the program's run; the verifier checks each access.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    if sk.is_null() || !is_known(bit) {
        return ListenEvent::UNKNOWN;
    }
    // SAFETY: `sk` is the callback's socket. The helper makes its address a number that can be read at.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast()) } as u64;
    if tcp == 0 {
        return ListenEvent::UNKNOWN;
    }
    let octet: u8 = kernel::read(tcp, bit / 8);
    u16::from(octet >> (bit % 8) & 1)
}

/// The name of the process that the program runs in. Threads have names of their own: the first one's is the process's.
#[inline(always)]
fn process() -> [u8; 16] {
    let mut name = [0; 16];
    let (leader, comm) = (offset!(group_leader), offset!(comm));
    if is_known(leader) && is_known(comm) {
        // SAFETY: the helper has no arguments.
        let task = unsafe { bpf_get_current_task() };
        let leader: u64 = kernel::read(task, leader);
        let source = leader.wrapping_add(u64::from(comm)) as *const core::ffi::c_void;
        // SAFETY: the helper checks the source itself and writes as many bytes as the name has; on failure zeroes.
        unsafe { bpf_probe_read_kernel((&raw mut name).cast(), size_of_val(&name) as u32, source) };
    }
    name
}
