//! Socket maps of somebody else, as a service mesh's agent makes them: each with a program that has a say in every message
//! that its sockets send.

use std::ffi::c_long;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// Commands, types and helpers of `include/uapi/linux/bpf.h`.
const BPF_MAP_CREATE: u32 = 0;
const BPF_MAP_UPDATE_ELEM: u32 = 2;
const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_ATTACH: u32 = 8;
const BPF_MAP_TYPE_SOCKMAP: u32 = 15;
const BPF_PROG_TYPE_SK_MSG: u32 = 16;
const BPF_SK_MSG_VERDICT: u32 = 7;
const BPF_F_INGRESS: u32 = 1;
const MSG_REDIRECT_MAP: u32 = 60;
const SK_PASS: u32 = 1;

/// How many sockets a map takes.
const PLACES: u32 = 16;

/// A map, and the program that looks at what its sockets send.
pub struct SockMap {
    map: OwnedFd,
    _program: OwnedFd,
}

impl SockMap {
    /// One whose program lets everything pass.
    ///
    /// # Errors
    /// Of bpf(2).
    pub fn passing() -> io::Result<Self> {
        Self::with(create()?, &[insn(0xb7, 0, SK_PASS), EXIT])
    }

    /// Two, each of which puts what its first socket sends into the receive queue of the other's, past TCP.
    ///
    /// # Errors
    /// Of bpf(2).
    pub fn shortcut() -> io::Result<(Self, Self)> {
        let (one, other) = (create()?, create()?);
        let to = |map: &OwnedFd| {
            let map = u32::try_from(map.as_raw_fd()).expect("a descriptor");
            // r2 = the map, in two instructions; r3 = its place; r4 = the flags.
            let load = [insn(0x18, 0x12, map), insn(0, 0, 0)];
            [load[0], load[1], insn(0xb7, 3, 0), insn(0xb7, 4, BPF_F_INGRESS), insn(0x85, 0, MSG_REDIRECT_MAP), EXIT]
        };
        let (there, back) = (to(&other), to(&one));
        Ok((Self::with(one, &there)?, Self::with(other, &back)?))
    }

    fn with(map: OwnedFd, program: &[u64]) -> io::Result<Self> {
        let words = |number: usize| u32::try_from(number).expect("small");
        let pointer = |pointer: *const u8| (pointer as u64).to_ne_bytes();
        // `struct { prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags, prog_name[16],
        // prog_ifindex, expected_attach_type }`
        let mut load = Vec::new();
        load.extend(BPF_PROG_TYPE_SK_MSG.to_ne_bytes());
        load.extend(words(program.len()).to_ne_bytes());
        load.extend(pointer(program.as_ptr().cast()));
        load.extend(pointer(c"GPL".as_ptr().cast()));
        load.extend([0; 44]);
        load.extend(BPF_SK_MSG_VERDICT.to_ne_bytes());
        let program = new(BPF_PROG_LOAD, &load)?;
        let raw = |fd: &OwnedFd| u32::try_from(fd.as_raw_fd()).expect("a descriptor");
        bpf(BPF_PROG_ATTACH, &numbers(&[raw(&map), raw(&program), BPF_SK_MSG_VERDICT, 0]))?;
        Ok(Self { map, _program: program })
    }

    /// Puts a socket into a place.
    ///
    /// # Errors
    /// Of bpf(2): `EBUSY` where another map's program has a say in its messages already.
    pub fn insert(&self, place: u32, socket: impl AsFd) -> io::Result<()> {
        let socket = u32::try_from(socket.as_fd().as_raw_fd()).expect("a descriptor");
        let map = u32::try_from(self.map.as_raw_fd()).expect("a descriptor");
        let mut element = numbers(&[map, 0]);
        element.extend((&raw const place as u64).to_ne_bytes());
        element.extend((&raw const socket as u64).to_ne_bytes());
        element.extend(0_u64.to_ne_bytes());
        bpf(BPF_MAP_UPDATE_ELEM, &element).map(drop)
    }
}

/// `struct bpf_insn`: the operation, two registers of four bits, no offset, a number.
const fn insn(code: u8, registers: u8, number: u32) -> u64 {
    u64::from_ne_bytes({
        let n = number.to_ne_bytes();
        [code, registers, 0, 0, n[0], n[1], n[2], n[3]]
    })
}

const EXIT: u64 = insn(0x95, 0, 0);

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

fn create() -> io::Result<OwnedFd> {
    new(BPF_MAP_CREATE, &numbers(&[BPF_MAP_TYPE_SOCKMAP, 4, 4, PLACES, 0]))
}

fn new(command: u32, attribute: &[u8]) -> io::Result<OwnedFd> {
    let fd = bpf(command, attribute)?;
    // SAFETY: the command answered with a new descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

fn bpf(command: u32, attribute: &[u8]) -> io::Result<c_long> {
    // SAFETY: the attribute is laid out as the command wants it, its size is told, and what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), attribute.len()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
