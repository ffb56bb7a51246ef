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

/// Adds to a number and is a full memory barrier: what stands before it in the program has happened for all CPUs before
/// what stands behind it.
///
/// # Safety
///
/// `number` points to an aligned `u64` in a map.
#[inline(always)]
pub unsafe fn add_ordered(number: *mut u64, amount: u64) {
    // SAFETY: the caller's promise is the same.
    unsafe { fetch_add(number, amount) };
}

/// Reads a number, with a full memory barrier.
///
/// # Safety
///
/// As for [`add_ordered`].
#[inline(always)]
pub unsafe fn fetch_ordered(number: *mut u64) -> u64 {
    // SAFETY: the caller's promise is the same.
    unsafe { fetch_add(number, 0) }
}

#[inline(always)]
unsafe fn fetch_add(number: *mut u64, amount: u64) -> u64 {
    let mut value = amount;
    // SAFETY: BPF_ATOMIC | BPF_ADD | BPF_FETCH, since Linux 5.12 (on arm64 later): fully ordered, as the instruction set's
    // specification (RFC 9669, 5.3, and the kernel's Documentation/bpf) has it; without BPF_FETCH it would not be, but on
    // x86. It reads and writes the eight bytes that the caller vouches for, and nothing else.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({number} + 0), {value})",
            number = in(reg) number,
            value = inout(reg) value,
            options(nostack),
        );
    }
    value
}
