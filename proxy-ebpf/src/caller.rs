//! How the message at hand is sent: what the sender's system call says.
//!
//! The kernel shows a verdict no flags of a message, and passes them on with it. With MSG_OOB that would make an octet of C's
//! stream urgent, and most clients would never see it: the stream would be shorter than what the daemon has counted. So
//! the verdict looks at the sender's registers, and redirects only what is plainly ordinary.

use aya_ebpf::helpers::generated::bpf_get_current_task;
use proxy_common::{Calls, Offsets};

use crate::kernel::{self, offset};
use crate::maps::SETTINGS;

/// Set by the loader before the programs are verified.
#[unsafe(no_mangle)]
pub static CALLS: Calls = Calls { write: 0, writev: 0, sendfile: 0, splice: 0, sendto: 0, sendmsg: 0, sendmmsg: 0 };

/// `PF_IO_WORKER` and `PF_KTHREAD` of `include/linux/sched.h`: threads that no system call has brought here.
const NO_CALLER: u32 = 0x10 | 0x0020_0000;
/// `MSG_OOB` of `include/linux/socket.h`.
const MSG_OOB: u64 = 1;

/// The number of the system call that the current task is in, and where its registers are.
#[inline(always)]
pub fn call(task: u64, registers: u32) -> (u64, u64) {
    let stack: u64 = kernel::read(task, offset!(stack));
    let registers = stack.wrapping_add(u64::from(registers));
    (registers, kernel::read(registers, offset!(call)))
}

/// Whether the message at hand is sent by a plain system call without MSG_OOB.
///
/// Requests of an io_uring run in the midst of any system call of a task, or in threads of their own; so a task that has one
/// is not believed.
#[inline(always)]
pub fn sends_plainly() -> bool {
    let Some(settings) = SETTINGS.get(0) else { return false };
    // SAFETY: the helper has no arguments.
    let task = unsafe { bpf_get_current_task() };
    if settings.registers == 0 || kernel::read::<u32>(task, offset!(task_flags)) & NO_CALLER != 0 {
        return false;
    }
    if offset!(io_uring) != Offsets::NONE && kernel::read::<u64>(task, offset!(io_uring)) != 0 {
        return false;
    }
    let (registers, call) = call(task, settings.registers);
    // SAFETY: the pointer leads to a static of this very type.
    let calls = unsafe { core::ptr::read_volatile(&raw const CALLS) };
    let is = |number: u32| call == u64::from(number);
    let flags: u64 = if is(calls.write) || is(calls.writev) || is(calls.sendfile) || is(calls.splice) {
        0
    } else if is(calls.sendto) || is(calls.sendmmsg) {
        kernel::read(registers, offset!(argument_4))
    } else if is(calls.sendmsg) {
        kernel::read(registers, offset!(argument_3))
    } else {
        return false;
    };
    flags & MSG_OOB == 0
}
