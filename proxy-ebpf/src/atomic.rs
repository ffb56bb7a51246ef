//! Atomic addition, which Rust's `AtomicU64` does not offer for this target (`target_has_atomic` is unset: the first BPF
//! instruction set has no compare-and-swap), although every BPF machine can do it.

use core::arch::asm;

/// Adds to a number that other CPUs, or an interrupt on this one, may add to at the same time.
///
/// # Safety
///
/// `number` points to an aligned `u64` in a map.
#[inline(always)]
pub unsafe fn add(number: *mut u64, amount: u64) {
    // SAFETY: `lock *(u64 *)(p + 0) += n` is BPF_ATOMIC | BPF_ADD | BPF_DW, in the instruction set since its beginning
    // (as BPF_XADD). It reads and writes the eight bytes that the caller vouches for, and nothing else.
    unsafe {
        asm!(
            "lock *(u64 *)({number} + 0) += {amount}",
            number = in(reg) number,
            amount = in(reg) amount,
            options(nostack),
        );
    }
}
