//! What the programs must know of system calls: their numbers, and where a task keeps the registers it came with.

use proxy_common::Calls;

/// The numbers of the calls that send.
pub(crate) const NUMBERS: Calls = Calls {
    write: libc::SYS_write as u32,
    writev: libc::SYS_writev as u32,
    sendfile: libc::SYS_sendfile as u32,
    splice: libc::SYS_splice as u32,
    sendto: libc::SYS_sendto as u32,
    sendmsg: libc::SYS_sendmsg as u32,
    sendmmsg: libc::SYS_sendmmsg as u32,
};

/// The number of the call that runs a program.
pub(crate) const BPF: u32 = libc::SYS_bpf as u32;

/// Where `struct pt_regs`, which is so long, may stand in a task's kernel stack: at its top, but for a padding that depends on
/// how the kernel was built (`task_pt_regs` and `TOP_OF_KERNEL_STACK_PADDING` of the kernel's arch/*/include/asm).
pub(crate) fn places(registers: u32) -> impl Iterator<Item = u32> {
    const STACKS: [u32; 4] = [16, 32, 8, 64];
    const PADDINGS: [u32; 4] = [0, 16, 8, 32];
    STACKS.into_iter().flat_map(move |kib| {
        PADDINGS.into_iter().filter_map(move |padding| (kib * 1024).checked_sub(padding + registers))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_place_comes_first() {
        assert_eq!(places(168).next(), Some(16 * 1024 - 168));
        assert!(places(168).all(|place| place % 8 == 0));
        assert_eq!(places(100_000).count(), 0);
    }
}
