//! Attaches a flow and detaches it again: programs that the daemon runs itself (`BPF_PROG_TEST_RUN`).
//!
//! They exist because userspace has no descriptor of S, the server's socket; a program inside the container's network
//! namespace finds it by its addresses.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_ANY, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem, bpf_sk_lookup_tcp,
    bpf_sk_release, bpf_sk_storage_get, bpf_skc_to_tcp_sock,
};
use aya_ebpf::programs::TcContext;
use proxy_common::{
    ATTACH_NONBLOCKING, ATTACH_QUIET, AttachRequest, AttachStatus, DrainRequest, Flow, Offsets, Server, TUPLE_V4,
    TUPLE_V6, drained, turn,
};

use crate::kernel::{self, offset};
use crate::maps::{CLIENTS, FLOWS, SERVER, SERVERS};
use crate::{atomic, caller};

/// Where the argument stands in the packet: behind an Ethernet header, which the kernel insists on.
const ARGUMENT: usize = 16;

/// `O_NONBLOCK`; the same number on all architectures that the daemon runs on.
const O_NONBLOCK: u32 = 0o4000;

/// `BPF_F_CURRENT_NETNS`: the namespace of the thread that runs the program.
const CURRENT_NETNS: u64 = u64::MAX;

/// Attaches the flow that the packet describes.
#[inline(always)]
pub fn attach(ctx: &TcContext) -> AttachStatus {
    let Ok(request) = ctx.load::<AttachRequest>(ARGUMENT) else { return AttachStatus::Argument };
    let Some(flow) = FLOWS.get_ptr_mut(request.slot) else { return AttachStatus::Argument };

    // First what the daemon has read of U so far: all of it is with C. U stands still, since the daemon is here.
    let Some(upstream) = lookup(ctx, &request.upstream_tuple, request.tuple_bytes) else {
        return AttachStatus::NoUpstream;
    };
    // SAFETY: a full socket, held until it is released.
    let tcp = unsafe { bpf_skc_to_tcp_sock(upstream.cast()) } as u64;
    if tcp == 0 {
        release(upstream);
        return AttachStatus::NoUpstream;
    }
    let (relayed, sent) = (kernel::read::<u32>(tcp, offset!(copied_seq)), kernel::read::<u32>(tcp, offset!(write_seq)));
    release(upstream);

    let slot = request.slot;
    // SAFETY: a lookup in a map of sockets gives a held socket or null.
    let client = unsafe { bpf_map_lookup_elem((&raw const CLIENTS).cast_mut().cast(), (&raw const slot).cast()) };
    if client.is_null() {
        return AttachStatus::NoClient;
    }
    // SAFETY: as above.
    let client_tcp = unsafe { bpf_skc_to_tcp_sock(client) } as u64;
    if client_tcp == 0 {
        release(client.cast());
        return AttachStatus::NoClient;
    }
    let client_fits = kernel::can_send(client_tcp);
    let client_protocol = kernel::has_protocol(client_tcp);
    // The map that it was found in has no program.
    let client_program = kernel::has_message_program(client_tcp);
    let client_start: u32 = kernel::read(client_tcp, offset!(write_seq));
    release(client.cast());
    if !client_fits {
        return AttachStatus::State;
    }
    if client_protocol {
        return AttachStatus::Protocol;
    }
    if client_program {
        return AttachStatus::Foreign;
    }

    let Some(server) = lookup(ctx, &request.server_tuple, request.tuple_bytes) else { return AttachStatus::NoServer };
    // SAFETY: a full socket, held until it is released.
    let tcp = unsafe { bpf_skc_to_tcp_sock(server.cast()) } as u64;
    let verdict = match fits(tcp, request.flags, sent) {
        AttachStatus::Attached => {
            // SAFETY: the pointer leads to a value of the flow table, which nobody else uses: the flow is not attached
            // yet.
            unsafe {
                (*flow).relayed = relayed;
                (*flow).budget = request.budget;
                (*flow).framing = request.framing;
                (*flow).client = client_tcp;
                (*flow).client_cookie = request.client_cookie;
                (*flow).client_start = client_start;
                (*flow).taken = 0;
                (*flow).fast_bytes = 0;
                (*flow).fast_messages = 0;
                (*flow).blocking = u32::from(!is_nonblocking(tcp));
            }
            let enlisted = insert_server(server, slot, request.generation);
            if matches!(enlisted, AttachStatus::Attached) {
                // Last, so that no verdict can go by a flow that is not attached in the end, and with a barrier behind
                // the rest. SAFETY: as above.
                unsafe { atomic::set(&raw mut (*flow).turn, turn::free(request.generation)) };
            }
            enlisted
        }
        failed => failed,
    };
    release(server);
    verdict
}

/// Whether S may be redirected; `sent` is the sequence number up to which the daemon has written to it.
#[inline(always)]
fn fits(tcp: u64, flags: u32, sent: u32) -> AttachStatus {
    if tcp == 0 || !kernel::can_send(tcp) {
        return AttachStatus::State;
    }
    if kernel::has_protocol(tcp) {
        return AttachStatus::Protocol;
    }
    if kernel::sends_without_copying(tcp) {
        return AttachStatus::ZeroCopy;
    }
    if offset!(is_mptcp) != Offsets::NONE && kernel::read::<u8>(tcp, offset!(is_mptcp)) & 1 != 0 {
        return AttachStatus::Multipath;
    }
    if flags & ATTACH_QUIET != 0 {
        // All that was written to U has been received, and all that was received has been read.
        let received: u32 = kernel::read(tcp, offset!(rcv_nxt));
        let read: u32 = kernel::read(tcp, offset!(copied_seq));
        if received != sent || read != received {
            return AttachStatus::Unread;
        }
    }
    if flags & ATTACH_NONBLOCKING != 0 && !is_nonblocking(tcp) {
        return AttachStatus::Blocking;
    }
    AttachStatus::Attached
}

/// Whether a socket's descriptor is non-blocking.
#[inline(always)]
fn is_nonblocking(tcp: u64) -> bool {
    let socket: u64 = kernel::read(tcp, offset!(socket));
    let file: u64 = if socket == 0 { 0 } else { kernel::read(socket, offset!(file)) };
    // Without a file it is not accepted yet.
    file != 0 && kernel::read::<u32>(file, offset!(file_flags)) & O_NONBLOCK != 0
}

/// C's write sequence number as it must be when all that was taken has arrived there.
///
/// # Safety
/// `flow` points to a value of the flow table.
#[inline(always)]
pub unsafe fn expected(flow: *mut Flow) -> u32 {
    // SAFETY: the caller vouches for the pointer; each of these is one load of an aligned integer.
    unsafe {
        let taken = core::ptr::read_volatile(&raw const (*flow).taken) as u32;
        // Sequence numbers wrap.
        core::ptr::read_volatile(&raw const (*flow).client_start).wrapping_add(taken)
    }
}

/// Notes with S which flow it belongs to, and puts it under the verdict.
#[inline(always)]
fn insert_server(server: *mut bpf_sock, slot: u32, generation: u32) -> AttachStatus {
    let mut value = Server { slot, generation };
    // SAFETY: `server` is a held full socket, and the value is of the map's type.
    let stored = unsafe {
        bpf_sk_storage_get(
            (&raw const SERVER).cast_mut().cast(),
            server.cast(),
            (&raw mut value).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    if stored.is_null() {
        return AttachStatus::Refused;
    }
    // It may have been there before, from an earlier response on this connection.
    // SAFETY: a value of this map, held by the socket.
    unsafe { *stored.cast::<Server>() = value };
    // SAFETY: the map takes sockets, and both pointers are good.
    let updated = unsafe {
        bpf_map_update_elem(
            (&raw const SERVERS).cast_mut().cast(),
            (&raw const slot).cast(),
            server.cast_const().cast(),
            u64::from(BPF_ANY),
        )
    };
    if updated == 0 { AttachStatus::Attached } else { AttachStatus::Refused }
}

/// Whether all that was taken to be written to C has arrived there; a message whose verdict was reached on another CPU
/// may still be on its way. The daemon has the turn, or has ended the flow; in the end S leaves its map first.
#[inline(always)]
pub fn drain(ctx: &TcContext) -> u32 {
    let Ok(DrainRequest { slot, end }) = ctx.load::<DrainRequest>(ARGUMENT) else { return drained::UNKNOWN };
    let Some(flow) = FLOWS.get_ptr_mut(slot) else { return drained::UNKNOWN };
    if end != 0 {
        // SAFETY: the map and the key are good; that S is gone already is no matter.
        unsafe { bpf_map_delete_elem((&raw const SERVERS).cast_mut().cast(), (&raw const slot).cast()) };
    }
    // SAFETY: as in `attach`.
    let client = unsafe { bpf_map_lookup_elem((&raw const CLIENTS).cast_mut().cast(), (&raw const slot).cast()) };
    if client.is_null() {
        return drained::UNKNOWN;
    }
    // SAFETY: as in `attach`.
    let tcp = unsafe { bpf_skc_to_tcp_sock(client) } as u64;
    if tcp == 0 {
        release(client.cast());
        return drained::UNKNOWN;
    }
    let written: u32 = kernel::read(tcp, offset!(write_seq));
    release(client.cast());
    // SAFETY: a value of the flow table. No verdict writes to it now: it has no turn.
    if written != unsafe { expected(flow) } {
        return drained::NOT_YET;
    }
    if end != 0 {
        // SAFETY: as above.
        unsafe { bpf_map_delete_elem((&raw const CLIENTS).cast_mut().cast(), (&raw const slot).cast()) };
    }
    drained::YES
}

/// The number of the current system call, if the argument says where a task's registers are.
#[inline(always)]
pub fn call(ctx: &TcContext) -> u32 {
    let Ok(registers) = ctx.load::<u32>(ARGUMENT) else { return u32::MAX };
    // SAFETY: the helper has no arguments.
    let task = unsafe { bpf_get_current_task() };
    caller::call(task, registers).1 as u32
}

/// The socket that receives what comes by this tuple, held.
#[inline(always)]
fn lookup(ctx: &TcContext, tuple: &[u8; TUPLE_V6 as usize], bytes: u32) -> Option<*mut bpf_sock> {
    let tuple = tuple.as_ptr().cast_mut().cast::<bpf_sock_tuple>();
    // SAFETY: the tuple has at least as many bytes as are said, and the helper only reads them.
    let sock = unsafe {
        if bytes == TUPLE_V4 {
            bpf_sk_lookup_tcp(ctx.as_ptr(), tuple, TUPLE_V4, CURRENT_NETNS, 0)
        } else {
            bpf_sk_lookup_tcp(ctx.as_ptr(), tuple, TUPLE_V6, CURRENT_NETNS, 0)
        }
    };
    if sock.is_null() { None } else { Some(sock) }
}

#[inline(always)]
fn release(sock: *mut bpf_sock) {
    // SAFETY: every caller holds the socket, and uses it no more.
    unsafe { bpf_sk_release(sock.cast()) };
}
