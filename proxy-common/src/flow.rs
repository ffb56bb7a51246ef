//! The flow table: one entry for each response that may take the fast path, shared by the daemon and the programs.
//!
//! Names, as everywhere: **C** is the client's connection, **U** the daemon's socket to the container, **S** the
//! server's end of U.

use crate::layout::layout;

/// An entry of the flow table, which the daemon maps into its memory.
///
/// What may be written to C for a response is one budget, and whoever has the [turn](crate::turn) takes from it before
/// writing: the daemon before it writes what it has read of U, the verdict before it redirects a message of S. The fields
/// from `relayed` to `taken`, and `fast_bytes`, are read and written by the one whose turn it is, and by nobody else; the
/// daemon reads `budget` and the counts at other times too, as what they are: numbers that may have moved on.
///
/// Nothing here rests on what the container can move: its program may hold CAP_NET_RAW and put bytes into U that S never
/// sent, and drop, repeat or reorder what S did send.
///
/// The daemon, which other threads and the programs write under, has atomic integers in the place of the programs' plain
/// ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowOf<U32, U64> {
    /// Whose [turn](crate::turn) it is, and the generation of the flow. S remembers the generation that it was attached
    /// with, so that an entry that was given to another flow means nothing to it.
    pub turn: U64,
    /// S's sequence number up to which the daemon has written to C everything that came through U. It keeps the bytes of a
    /// server that does not lie in order, and nothing else depends on it.
    pub relayed: U32,
    /// C's write sequence number when the flow was attached.
    pub client_start: U32,
    /// With [`Framing::Plain`], bytes that may still be written to C for this response; a message that would use up the
    /// rest passes, so that the daemon, which must act on the end, gets to see it. With [`Framing::Chunked`], bytes before
    /// the next chunk line: what is left of the chunk's data and the two octets behind it, or 0.
    pub budget: U64,
    /// Bytes that were taken to be written to C since the flow was attached, either way. When all of them have arrived,
    /// C's write sequence number has moved on by just as many.
    pub taken: U64,
    /// C's address in the kernel, as it was when the flow was attached.
    pub client: U64,
    /// C's cookie: an address that has come to mean another socket is told by it.
    pub client_cookie: U64,
    /// How the response is framed, a [`Framing`].
    pub framing: U32,
    /// Not 0: S's descriptor is a blocking one.
    pub blocking: U32,

    /// Whether the verdict has let a message pass since it last redirected one: 1 or 0.
    pub falling_back: U64,
    /// How often it redirected again after messages had passed.
    pub resumed: U64,
    /// Bytes redirected to C.
    pub fast_bytes: U64,
    /// Messages redirected to C.
    pub fast_messages: U64,
    /// Messages that passed, by [`FallbackReason`].
    pub fallbacks: [U64; FallbackReason::COUNT],
}

/// An entry as the programs see it.
pub type Flow = FlowOf<u32, u64>;

impl Flow {
    /// `budget` of a response that ends with its connection.
    pub const UNTIL_END: u64 = u64::MAX;
}

/// How a response that may take the fast path is framed.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its length, or by the end of the connection.
    Plain = 0,
    /// By the chunked transfer coding.
    Chunked = 1,
}

/// Why the verdict lets a message pass to U.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackReason {
    /// Bytes that went through U before it are not written to C yet, or it is the daemon's turn to write.
    Order = 0,
    /// C has too little room to take it whole.
    Full = 1,
    /// It is the end of the response or may be, or goes beyond.
    End = 2,
    /// One of the sockets is not as it must be: shut down, under TLS in the kernel, with zero-copy sending, or not the
    /// one it was.
    Unfit = 3,
    /// The kernel did not find C.
    Lost = 4,
    /// A message before it is still on its way to C.
    InFlight = 5,
    /// It may be urgent data, or it is not known how it is sent.
    Urgent = 6,
}

impl FallbackReason {
    /// How many reasons there are.
    pub const COUNT: usize = 7;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Order, Self::Full, Self::End, Self::Unfit, Self::Lost, Self::InFlight, Self::Urgent];
}

/// What S keeps with it from the moment it is attached (socket local storage).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Its entry in the flow table.
    pub slot: u32,
    /// The generation of the flow.
    pub generation: u32,
}

/// The connection between U and S, and what to attach: the argument of the program `attach`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachRequest {
    /// The entry of the flow table, filled in by the daemon but for what this program finds out.
    pub slot: u32,
    /// The generation that S shall belong to; not 0.
    pub generation: u32,
    /// The flow's budget to begin with, in the sense of its framing.
    pub budget: u64,
    /// C's cookie.
    pub client_cookie: u64,
    /// A set of the `ARM_*` flags.
    pub flags: u32,
    /// A [`Framing`].
    pub framing: u32,
    /// How many bytes of the tuples count: [`TUPLE_V4`] or [`TUPLE_V6`].
    pub tuple_bytes: u32,
    /// The connection as S receives it (`struct bpf_sock_tuple`: source and destination address, source and destination
    /// port, all in network byte order): from U.
    pub server_tuple: [u8; TUPLE_V6 as usize],
    /// The connection as U receives it: from S.
    pub upstream_tuple: [u8; TUPLE_V6 as usize],
    /// Not used.
    pub reserved: u32,
}

/// Size of a `struct bpf_sock_tuple` with IPv4 addresses.
pub const TUPLE_V4: u32 = 12;
/// Size of a `struct bpf_sock_tuple` with IPv6 addresses.
pub const TUPLE_V6: u32 = 36;

/// Attach only if S has read everything that was sent to it. On kernels where `FIONREAD` is wrong for a socket in a
/// socket map, and for servers that block in reading, S must not be in one while it has something to read.
pub const ATTACH_QUIET: u32 = 1;
/// Attach only if S's descriptor is non-blocking: a blocking read of a socket in a socket map can fail with `EAGAIN`
/// (`tcp_bpf_recvmsg` in the kernel's `net/ipv4/tcp_bpf.c`).
pub const ATTACH_NONBLOCKING: u32 = 2;

/// How attaching ended: the return value of the program `attach`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachStatus {
    /// The flow is attached.
    Attached = 0,
    /// The program could not read its argument, or the slot is not in the table.
    Argument = 1,
    /// There is no S in this namespace: the connection has ended, or leads elsewhere.
    NoServer = 2,
    /// There is no U in this namespace any more.
    NoUpstream = 3,
    /// C is not in the map of targets any more.
    NoClient = 4,
    /// S is not in a state in which it may be redirected.
    State = 5,
    /// S or C has a protocol on top (TCP ULP), such as TLS in the kernel.
    Protocol = 6,
    /// S sends without copying (`SO_ZEROCOPY`), which a socket map would not honour.
    ZeroCopy = 7,
    /// S is a part of an MPTCP connection.
    Multipath = 8,
    /// S has something to read, see [`ATTACH_QUIET`].
    Unread = 9,
    /// S's descriptor is a blocking one, see [`ATTACH_NONBLOCKING`].
    Blocking = 10,
    /// The kernel did not take S into the map: a program of somebody else's map has a say in what it sends, for example.
    Refused = 11,
    /// A program of somebody else's socket map has a say in what C sends. It may take it elsewhere than to C's queue, where it
    /// would overtake, or be overtaken by, what is redirected.
    Foreign = 12,
}

impl AttachStatus {
    /// The meaning of a program's return value; none if it has none.
    pub fn from_value(value: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|&attached| attached as u32 == value)
    }

    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Attached,
        Self::Argument,
        Self::NoServer,
        Self::NoUpstream,
        Self::NoClient,
        Self::State,
        Self::Protocol,
        Self::ZeroCopy,
        Self::Multipath,
        Self::Unread,
        Self::Blocking,
        Self::Refused,
        Self::Foreign,
    ];
}

/// What the program `drain` is asked.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainRequest {
    /// The entry of the flow table.
    pub slot: u32,
    /// Not 0: the flow has ended; S leaves its map, and once all is settled, C does.
    pub end: u32,
}

/// The return values of the program `drain`.
pub mod drained {
    /// All redirected bytes are in C's queue.
    pub const YES: u32 = 0;
    /// A message is still on its way between S and C: ask again.
    pub const NOT_YET: u32 = 1;
    /// C cannot be queried any more.
    pub const UNKNOWN: u32 = 2;
}

/// Where the running kernel keeps what the programs read: offsets in bytes from the beginning of the structure that is
/// named first, from the kernel's BTF.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `tcp_sock.write_seq`, u32
    pub write_seq: u32,
    /// `tcp_sock.copied_seq`, u32
    pub copied_seq: u32,
    /// `tcp_sock.rcv_nxt`, u32
    pub rcv_nxt: u32,
    /// `sock.sk_wmem_queued`, i32
    pub wmem_queued: u32,
    /// `sock.sk_sndbuf`, i32
    pub sndbuf: u32,
    /// `sock.sk_shutdown`, u8
    pub shutdown: u32,
    /// `sock.__sk_common.skc_cookie`, u64
    pub cookie: u32,
    /// `sock.__sk_common.skc_state`, u8
    pub state: u32,
    /// `sock.__sk_common.skc_flags`, unsigned long
    pub flags: u32,
    /// `sock.sk_socket`, a pointer
    pub socket: u32,
    /// `socket.file`, a pointer
    pub file: u32,
    /// `file.f_flags`, u32
    pub file_flags: u32,
    /// `inet_connection_sock.icsk_ulp_ops`, a pointer
    pub ulp_ops: u32,
    /// The number of the bit `SOCK_ZEROCOPY` in `flags`.
    pub zerocopy_bit: u32,
    /// `tcp_sock.is_mptcp`, bool; [`Offsets::NONE`] where the kernel has no MPTCP.
    pub is_mptcp: u32,
    /// `task_struct.tgid`, i32
    pub tgid: u32,
    /// `task_struct.flags`, u32
    pub task_flags: u32,
    /// `task_struct.io_uring`, a pointer; [`Offsets::NONE`] where the kernel has no io_uring.
    pub io_uring: u32,
    /// `task_struct.stack`, a pointer
    pub stack: u32,
    /// Of `pt_regs`: the number of the system call, long.
    pub call: u32,
    /// Of `pt_regs`: the third argument of the system call, long.
    pub argument_3: u32,
    /// Of `pt_regs`: the fourth argument of the system call, long.
    pub argument_4: u32,
    /// `sock.__sk_common.skc_prot`, a pointer
    pub prot: u32,
    /// `proto.memory_allocated`, a pointer to an atomic long
    pub memory_allocated: u32,
    /// `proto.sysctl_mem`, a pointer to three longs
    pub memory_limits: u32,
    /// `task_struct.group_leader`, a pointer; [`Offsets::NONE`] where there is none.
    pub group_leader: u32,
    /// `task_struct.comm`, 16 octets; [`Offsets::NONE`] where there is none.
    pub comm: u32,
    /// `sock.__sk_common.skc_ipv6only`, one bit, counted in bits; [`Offsets::NONE`] where the kernel has no IPv6.
    pub v6only_bit: u32,
    /// `sock.sk_user_data`, a pointer with flags in its lowest bits
    pub user_data: u32,
    /// `sk_psock.progs.msg_parser`, a pointer; [`Offsets::NONE`] where there is none.
    pub msg_parser: u32,
}

/// The numbers of the system calls that send, on the architecture that the daemon is built for.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// write(2)
    pub write: u32,
    /// writev(2)
    pub writev: u32,
    /// sendfile(2)
    pub sendfile: u32,
    /// splice(2)
    pub splice: u32,
    /// sendto(2), which send(2) is made of
    pub sendto: u32,
    /// sendmsg(2)
    pub sendmsg: u32,
    /// sendmmsg(2)
    pub sendmmsg: u32,
}

impl Offsets {
    /// The kernel has no such thing.
    pub const NONE: u32 = u32::MAX;
}

layout!(Flow: 144 bytes, align 8 {
    turn @ 0, relayed @ 8, client_start @ 12, budget @ 16, taken @ 24, client @ 32, client_cookie @ 40, framing @ 48,
    blocking @ 52, falling_back @ 56, resumed @ 64, fast_bytes @ 72, fast_messages @ 80, fallbacks @ 88,
});
layout!(Server: 8 bytes, align 4 {
    slot @ 0, generation @ 4,
});
layout!(AttachRequest: 112 bytes, align 8 {
    slot @ 0, generation @ 4, budget @ 8, client_cookie @ 16, flags @ 24, framing @ 28, tuple_bytes @ 32,
    server_tuple @ 36, upstream_tuple @ 72, reserved @ 108,
});
layout!(DrainRequest: 8 bytes, align 4 {
    slot @ 0, end @ 4,
});
layout!(Offsets: 120 bytes, align 4 {
    write_seq @ 0, copied_seq @ 4, rcv_nxt @ 8, wmem_queued @ 12, sndbuf @ 16, shutdown @ 20, cookie @ 24, state @ 28,
    flags @ 32, socket @ 36, file @ 40, file_flags @ 44, ulp_ops @ 48, zerocopy_bit @ 52, is_mptcp @ 56, tgid @ 60,
    task_flags @ 64, io_uring @ 68, stack @ 72, call @ 76, argument_3 @ 80, argument_4 @ 84, prot @ 88,
    memory_allocated @ 92, memory_limits @ 96, group_leader @ 100, comm @ 104, v6only_bit @ 108, user_data @ 112,
    msg_parser @ 116,
});
layout!(Calls: 28 bytes, align 4 {
    write @ 0, writev @ 4, sendfile @ 8, splice @ 12, sendto @ 16, sendmsg @ 20, sendmmsg @ 24,
});
