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

/// Replaces `old` by `new` if the number is `old`, and says whether it was. A full memory barrier: what stands before it in
/// the program has happened for all CPUs before what stands behind it.
///
/// # Safety
///
/// `number` points to an aligned `u64` in a map.
#[inline(always)]
pub unsafe fn replace(number: *mut u64, old: u64, new: u64) -> bool {
    let mut found = old;
    // SAFETY: BPF_ATOMIC | BPF_CMPXCHG | BPF_DW, since Linux 5.12 (on arm64 later): compares with r0, and leaves there what
    // it found; fully ordered (RFC 9669, 5.3, and the kernel's Documentation/bpf). It reads and writes the eight bytes that
    // the caller vouches for, and nothing else.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({number} + 0, r0, {new})",
            number = in(reg) number,
            new = in(reg) new,
            inout("r0") found,
            options(nostack),
        );
    }
    found == old
}

/// Sets a number, with a full memory barrier as above.
///
/// # Safety
///
/// As for [`replace`].
#[inline(always)]
pub unsafe fn set(number: *mut u64, new: u64) {
    // SAFETY: BPF_ATOMIC | BPF_XCHG | BPF_DW, otherwise as above; what was there before is not of interest.
    unsafe {
        asm!(
            "{new} = xchg_64({number} + 0, {new})",
            number = in(reg) number,
            new = inout(reg) new => _,
            options(nostack),
        );
    }
}
