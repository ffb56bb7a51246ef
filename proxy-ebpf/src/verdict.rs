//! Decides, for each message that an attached server's socket sends, whether it goes straight to the controller's.
//!
//! A message is redirected only if nothing can go wrong with it; else it passes, down the ordinary way to the daemon's
//! socket, and the daemon relays it. To let a message pass is always right.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::sk_action;
use aya_ebpf::helpers::generated::{bpf_msg_redirect_map, bpf_sk_storage_get, bpf_skc_to_tcp_sock};
use aya_ebpf::programs::SkMsgContext;
use proxy_common::{FallbackReason, Flow, Framing, Server, turn};

use crate::kernel::{self, offset};
use crate::maps::{CLIENTS, FLOWS, SERVER};
use crate::{atomic, attach, caller, chunked};

/// Room that C must have beyond twice the message: what its pages are accounted for is more than their bytes.
const SPARE_ROOM: i64 = 4096;

const PASS: u32 = sk_action::SK_PASS;

/// The verdict on a message.
#[inline(always)]
pub fn handle(ctx: &SkMsgContext) -> u32 {
    // SAFETY: the context is valid for the program's run; the verifier checks each access.
    let sk = unsafe { (*ctx.msg).__bindgen_anon_3.sk };
    if sk.is_null() {
        return PASS;
    }
    // SAFETY: `sk` is the message's socket; without the flag to create one, the helper gives a value or null.
    let server =
        unsafe { bpf_sk_storage_get((&raw const SERVER).cast_mut().cast(), sk.cast(), core::ptr::null_mut(), 0) };
    if server.is_null() {
        return PASS;
    }
    // SAFETY: values of this map are of this type.
    let Server { slot, generation } = unsafe { *server.cast::<Server>() };
    let Some(flow) = FLOWS.get_ptr_mut(slot) else { return PASS };

    // SAFETY: the pointers lead into a value of the flow table, which has these fields.
    unsafe {
        let word = &raw mut (*flow).turn;
        // The turn is taken before anything is believed, and given back when everything is written down. A message that
        // comes while the daemon has it passes; two of S's verdicts do not meet, since S is locked.
        let verdict = if atomic::replace(word, turn::free(generation), turn::verdict(generation)) {
            let verdict = decide(ctx, sk.cast(), flow, slot);
            if verdict.is_err() {
                (*flow).falling_back = 1;
            }
            atomic::set(word, turn::free(generation));
            verdict
        } else if turn::is_of(core::ptr::read_volatile(word), generation) {
            (*flow).falling_back = 1;
            Err(FallbackReason::Order)
        } else {
            return PASS;
        };
        if let Err(reason) = verdict {
            atomic::add((&raw mut (*flow).fallbacks).cast::<u64>().add(reason as usize), 1);
        }
    }
    PASS
}

/// Redirects the message, or says why it passes. It is the verdict's turn.
#[inline(always)]
fn decide(ctx: &SkMsgContext, sk: *mut core::ffi::c_void, flow: *mut Flow, slot: u32) -> Result<(), FallbackReason> {
    // SAFETY: `sk` is a full socket.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk) } as u64;
    if tcp == 0 {
        return Err(FallbackReason::Unfit);
    }
    // SAFETY: the pointers lead into a value of the flow table; each of these is one load of an aligned integer.
    let (relayed, client, client_cookie, budget, taken, framing, expected) = unsafe {
        (
            core::ptr::read_volatile(&raw const (*flow).relayed),
            core::ptr::read_volatile(&raw const (*flow).client),
            core::ptr::read_volatile(&raw const (*flow).client_cookie),
            core::ptr::read_volatile(&raw const (*flow).budget),
            core::ptr::read_volatile(&raw const (*flow).taken),
            core::ptr::read_volatile(&raw const (*flow).framing),
            attach::expected(flow),
        )
    };
    // Everything that S ever sent the slow way must have reached C, or its bytes would not be in order. S is locked, so its
    // sequence number stands still. A program beside S may have moved it, which disorders its own response only.
    if kernel::read::<u32>(tcp, offset!(write_seq)) != relayed {
        return Err(FallbackReason::Order);
    }
    // The address was C's when the flow was attached. A socket that is another one by now is told by its cookie; were
    // it exchanged after this, the redirect would still go to what stands in the map, or fail.
    if kernel::read::<u64>(client, offset!(cookie)) != client_cookie {
        return Err(FallbackReason::Unfit);
    }
    // S is not locked between a verdict and the message's arrival in C's queue, so the message of another thread may still
    // be on its way there. This one must not overtake it, neither here nor through the daemon.
    if kernel::read::<u32>(client, offset!(write_seq)) != expected {
        return Err(FallbackReason::InFlight);
    }
    // The kernel looks at none of this before it redirects.
    if !kernel::takes_bytes(tcp) || kernel::sends_without_copying(tcp) || !kernel::takes_bytes(client) {
        return Err(FallbackReason::Unfit);
    }
    if !caller::sends_plainly() {
        return Err(FallbackReason::Urgent);
    }
    let size = u64::from(ctx.size());
    let room = i64::from(kernel::read::<i32>(client, offset!(sndbuf)))
        - i64::from(kernel::read::<i32>(client, offset!(wmem_queued)));
    // A message that C cannot take whole would come back to the server as a short write or an EAGAIN, and no event
    // would ever tell it to go on, since its own socket is empty.
    // When the kernel is short of memory for sockets, room in a buffer promises nothing.
    if room < 2 * size as i64 + SPARE_ROOM || kernel::memory_is_short(client) {
        return Err(FallbackReason::Full);
    }
    // Last, since it is what costs most.
    let budget = if framing == Framing::Chunked as u32 {
        chunked::follow(ctx, budget).ok_or(FallbackReason::End)?
    } else {
        turn::behind(budget, size).ok_or(FallbackReason::End)?
    };
    let Some(taken) = taken.checked_add(size) else { return Err(FallbackReason::End) };
    // SAFETY: both pointers are what the helper wants.
    let redirected =
        unsafe { bpf_msg_redirect_map(ctx.as_ptr().cast(), (&raw const CLIENTS).cast_mut().cast(), slot, 0) };
    if redirected as u32 != PASS {
        return Err(FallbackReason::Lost);
    }
    // The message sets out when this program has returned. By then it is taken from the budget, and the turn is given back.
    // SAFETY: as above; these are the verdict's own as long as it has the turn.
    unsafe {
        core::ptr::write_volatile(&raw mut (*flow).budget, budget);
        core::ptr::write_volatile(&raw mut (*flow).taken, taken);
        (*flow).resumed += (*flow).falling_back;
        (*flow).falling_back = 0;
        (*flow).fast_messages += 1;
        core::ptr::write_volatile(&raw mut (*flow).fast_bytes, (*flow).fast_bytes + size);
    }
    Ok(())
}
