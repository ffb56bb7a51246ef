//! Filters of system calls (seccomp(2)), in place of kernels that have less than this one, or have run out of something.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, c_long, sock_filter, sock_fprog};

/// Makes a system call fail with an error (its number, as `libc` names it) in what `command` becomes and in all that it starts;
/// only with this first argument if one is given.
pub fn deny(command: &mut Command, call: c_long, first: Option<i32>, error: i32) {
    // Offsets in `struct seccomp_data` (linux/seccomp.h): `nr`, and `args[0]`, whose lower half comes first.
    let (number, argument) = (0, 16);
    let call = u32::try_from(call).expect("the number of a system call");
    let error = libc::SECCOMP_RET_ERRNO | u32::try_from(error).expect("the number of an error");
    let mut program = vec![step(BPF_LD | BPF_W | BPF_ABS, number, 0)];
    if let Some(first) = first {
        program.push(step(BPF_JMP | BPF_JEQ | BPF_K, call, 3));
        program.push(step(BPF_LD | BPF_W | BPF_ABS, argument, 0));
        program.push(step(BPF_JMP | BPF_JEQ | BPF_K, first.cast_unsigned(), 1));
    } else {
        program.push(step(BPF_JMP | BPF_JEQ | BPF_K, call, 1));
    }
    program.push(step(BPF_RET | BPF_K, error, 0));
    program.push(step(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0));
    let install = move || {
        let length = u16::try_from(program.len()).map_err(io::Error::other)?;
        let filter = sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
        // SAFETY: the kernel reads `length` steps of `program`, which lives as long as this closure, and writes nothing.
        let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec it makes one system call, and allocates nothing unless that fails.
    unsafe { command.pre_exec(install) };
}

/// A step that, if it compares, passes over `otherwise` steps where the two differ.
fn step(code: u32, k: u32, otherwise: u8) -> sock_filter {
    sock_filter { code: u16::try_from(code).expect("small"), jt: 0, jf: otherwise, k }
}
