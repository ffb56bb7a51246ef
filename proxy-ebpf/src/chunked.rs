//! Follows the chunked transfer coding (RFC 9112, section 7.1) through the messages of a server.
//!
//! Only what is certain goes on: whole chunk lines without extensions, whole line ends. Anything else, the last chunk above
//! all, passes to the daemon, whose decoder takes over where this one stands.

use aya_ebpf::helpers::generated::bpf_msg_pull_data;
use aya_ebpf::programs::SkMsgContext;

use proxy_common::chunk::{self, WINDOW};

use crate::kernel;

/// Chunk lines in one message; beyond, the message passes. A server that writes more at once writes tiny chunks.
const LINES: usize = 6;

/// Follows the coding through a message. `left` is how much stands before the next chunk line: what is left of the chunk's
/// data and the two octets behind it, or 0. Gives what is left behind the message; none if it must pass.
#[inline(always)]
pub fn follow(ctx: &SkMsgContext, mut left: u64) -> Option<u64> {
    let size = u64::from(ctx.size());
    let mut at = 0_u64;
    for _ in 0..LINES {
        if left > 2 {
            let data = left - 2;
            if data >= size - at {
                return Some(left - (size - at));
            }
            at += data;
            left = 2;
        }
        // Here a chunk's data has ended, or a line begins; there is at least one more octet.
        let window = Window::at(ctx, at, size)?;
        let mut used = 0;
        if left == 2 {
            if window.len < 2 || window.octets[0] != b'\r' || window.octets[1] != b'\n' {
                return None;
            }
            used = 2;
            if window.len == 2 {
                return Some(0);
            }
        }
        let (line, value) = chunk::line(&window.octets, window.len, used)?;
        at += (used + line) as u64;
        left = value + 2;
        if at == size {
            return Some(left);
        }
    }
    None
}

/// A few octets of a message.
struct Window {
    octets: [u8; WINDOW],
    /// How many of them there are.
    len: usize,
}

impl Window {
    #[inline(always)]
    fn at(ctx: &SkMsgContext, at: u64, size: u64) -> Option<Self> {
        let len = if size - at < WINDOW as u64 { size - at } else { WINDOW as u64 };
        // Makes these octets one piece of memory; they mostly are one already.
        // SAFETY: the helper checks the range.
        if unsafe { bpf_msg_pull_data(ctx.msg, at as u32, (at + len) as u32, 0) } != 0 {
            return None;
        }
        // SAFETY: the context is valid for the program's run.
        let data = unsafe { (*ctx.msg).__bindgen_anon_1.data } as u64;
        // Beyond `len` stands whatever stands there in memory, or zeroes; it is not looked at.
        Some(Self { octets: kernel::read(data, 0), len: len as usize })
    }
}
