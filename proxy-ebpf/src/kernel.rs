//! Reads the kernel's own structures, at offsets that the loader found in its BTF.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use proxy_common::Offsets;

/// Set by the loader before the programs are verified, which then see a constant.
#[unsafe(no_mangle)]
pub static OFFSETS: Offsets = Offsets {
    write_seq: 0,
    copied_seq: 0,
    rcv_nxt: 0,
    wmem_queued: 0,
    sndbuf: 0,
    shutdown: 0,
    cookie: 0,
    state: 0,
    flags: 0,
    socket: 0,
    file: 0,
    file_flags: 0,
    ulp_ops: 0,
    zerocopy_bit: 0,
    is_mptcp: 0,
    tgid: 0,
    task_flags: 0,
    io_uring: 0,
    stack: 0,
    call: 0,
    argument_3: 0,
    argument_4: 0,
    prot: 0,
    memory_allocated: 0,
    memory_limits: 0,
    group_leader: 0,
    comm: 0,
    v6only_bit: 0,
    user_data: 0,
    msg_parser: 0,
};

/// Gives one field of [`OFFSETS`]. Volatile, since the compiler would take the zeroes above for granted.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: the pointer leads to a static of this very type.
        unsafe { core::ptr::read_volatile(&raw const crate::kernel::OFFSETS.$field) }
    };
}
pub(crate) use offset;

/// Whether an offset is one: the loader sets none at all without the kernel's BTF, and nothing that may be missing stands
/// at the beginning of its structure.
#[inline(always)]
pub fn is_known(offset: u32) -> bool {
    offset != 0 && offset != Offsets::NONE
}

/// Reads a value at `address + offset` of the kernel's memory; zeroes if nothing can be read there.
///
/// `T` must be an integer: any bit pattern may come.
#[inline(always)]
pub fn read<T: Copy + Default>(address: u64, offset: u32) -> T {
    let mut value = T::default();
    let source = address.wrapping_add(u64::from(offset)) as *const core::ffi::c_void;
    // SAFETY: the helper checks the source itself and writes at most so many bytes to the value; on failure it writes
    // zeroes.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, source) };
    value
}

/// Socket states of `include/net/tcp_states.h`.
pub const ESTABLISHED: u8 = 1;
/// The peer has sent its FIN.
pub const CLOSE_WAIT: u8 = 8;

/// `SEND_SHUTDOWN` of `include/net/sock.h`.
pub const SEND_SHUTDOWN: u8 = 2;

/// Whether a TCP socket can take bytes: connected, its sending side not shut down, and no protocol on top (ULP).
#[inline(always)]
pub fn takes_bytes(sock: u64) -> bool {
    can_send(sock) && !has_protocol(sock)
}

/// Whether a TCP socket is connected and its sending side not shut down.
#[inline(always)]
pub fn can_send(sock: u64) -> bool {
    let state: u8 = read(sock, offset!(state));
    let shutdown: u8 = read(sock, offset!(shutdown));
    (state == ESTABLISHED || state == CLOSE_WAIT) && shutdown & SEND_SHUTDOWN == 0
}

/// Whether a TCP socket has a protocol on top, such as TLS.
#[inline(always)]
pub fn has_protocol(sock: u64) -> bool {
    read::<u64>(sock, offset!(ulp_ops)) != 0
}

/// What `sk_user_data` holds beside a pointer (`SK_USER_DATA_PTRMASK` in include/net/sock.h).
const USER_DATA_FLAGS: u64 = 7;

/// Whether a program has a say in each message of a socket that is in a socket map.
#[inline(always)]
pub fn has_message_program(sock: u64) -> bool {
    let psock = read::<u64>(sock, offset!(user_data)) & !USER_DATA_FLAGS;
    psock != 0 && is_known(offset!(msg_parser)) && read::<u64>(psock, offset!(msg_parser)) != 0
}

/// Whether a socket was made for sending without copying.
#[inline(always)]
pub fn sends_without_copying(sock: u64) -> bool {
    let flags: u64 = read(sock, offset!(flags));
    flags >> offset!(zerocopy_bit) & 1 != 0
}

/// Whether the kernel is, or may soon be, short of memory for sockets of this one's protocol (tcp(7), `tcp_mem`).
///
/// Below the first of the three limits a socket gets what it asks for (`__sk_mem_raise_allocated` of net/core/sock.c); above
/// the second one it may be refused though there is room in its buffer, even by the very request that gets there.
#[inline(always)]
pub fn memory_is_short(sock: u64) -> bool {
    let protocol: u64 = read(sock, offset!(prot));
    let allocated: u64 = read(protocol, offset!(memory_allocated));
    let limits: u64 = read(protocol, offset!(memory_limits));
    read::<i64>(allocated, 0) >= read::<i64>(limits, 0)
}
