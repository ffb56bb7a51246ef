//! Counts the socket events of registered network namespaces, and passes those of listeners on.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::bpf_get_netns_cookie;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::debug;
use proxy_common::{Counters, ListenEvent, SocketEvent, byte_order, op};

use crate::maps::{NAMESPACES, SETTINGS, TOTAL};
use crate::{atomic, listeners, tune};

pub const AF_INET6: u32 = 10;

/// Counts the event behind a callback, if it is one and its namespace is registered.
///
/// It never sets a reply: other programs of the same cgroup share the reply field, and for callbacks such as
/// `BPF_SOCK_OPS_TIMEOUT_INIT` it is theirs to give.
pub fn handle(ctx: &SockOpsContext) {
    let Some(event) = SocketEvent::of(ctx.op(), ctx.arg(0), ctx.arg(1)) else { return };
    // SAFETY: the helper is available to sock_ops programs since Linux 5.15 and takes their context.
    let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let Some(counters) = NAMESPACES.get_ptr_mut(&cookie) else { return };

    count(counters, event);
    if let Some(total) = TOTAL.get_ptr_mut(0) {
        count(total, event);
    }
    if event.opens() {
        ask_for_the_end(ctx);
    }
    match event {
        SocketEvent::ListenOpened => listeners::announce(ctx, ListenEvent::BEGINS, cookie),
        SocketEvent::ListenClosed => listeners::announce(ctx, ListenEvent::ENDS, cookie),
        _ => {}
    }
    let Some(settings) = SETTINGS.get(0) else { return };
    if event == SocketEvent::EstablishedPassive {
        tune::accepted(ctx, settings);
    }
    if settings.log_events != 0 {
        log(ctx, event, cookie);
    }
}

#[inline(always)]
fn count(counters: *mut Counters, event: SocketEvent) {
    // SAFETY: the pointer comes from a map whose values are Counters, and fields of a map's value are aligned.
    unsafe { atomic::add(Counters::field(counters, event), 1) };
}

/// Asks for the callback at the socket's end. The flags are shared by all programs that see this socket: add to them.
#[inline(always)]
fn ask_for_the_end(ctx: &SockOpsContext) {
    let flags = ctx.cb_flags() | op::STATE_FLAG;
    // The one error (-EINVAL) is for request sockets, which have no full socket behind them; the callbacks that open
    // something come with a full one. Were it otherwise, an end would go uncounted, and nothing else would break.
    let _ = ctx.set_cb_flags(flags as i32);
}

fn log(ctx: &SockOpsContext, event: SocketEvent, cookie: u64) {
    let what = match event {
        SocketEvent::ListenOpened => "listening",
        SocketEvent::ListenClosed => "not listening any more",
        SocketEvent::EstablishedActive => "connected",
        SocketEvent::EstablishedPassive => "accepted",
        SocketEvent::Closed => "closed",
    };
    let local_port = byte_order::local_port(ctx.local_port());
    let remote_port = byte_order::remote_port(ctx.remote_port());
    if ctx.family() == AF_INET6 {
        let local = byte_order::ipv6(ctx.local_ip6());
        let remote = byte_order::ipv6(ctx.remote_ip6());
        debug!(
            ctx,
            "{}: netns {} local [{:i}]:{} remote [{:i}]:{}", what, cookie, local, local_port, remote, remote_port
        );
    } else {
        let local = byte_order::ipv4(ctx.local_ip4());
        let remote = byte_order::ipv4(ctx.remote_ip4());
        debug!(ctx, "{}: netns {} local {:i}:{} remote {:i}:{}", what, cookie, local, local_port, remote, remote_port);
    }
}
