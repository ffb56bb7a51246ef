//! sock_ops programs of somebody else, in the machine's own words: they must not depend on what they are there to test.

use std::ffi::{c_long, c_void};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const BPF_MAP_CREATE: u32 = 0;
const BPF_MAP_LOOKUP_ELEM: u32 = 1;
const BPF_PROG_LOAD: u32 = 5;
const BPF_PROG_QUERY: u32 = 16;
const BPF_LINK_CREATE: u32 = 28;

const BPF_MAP_TYPE_LRU_HASH: u32 = 9;
const BPF_PROG_TYPE_SOCK_OPS: u32 = 13;
const BPF_CGROUP_SOCK_OPS: u32 = 3;

/// Helper functions by number.
const MAP_UPDATE_ELEM: i32 = 2;
const SOCK_OPS_CB_FLAGS_SET: i32 = 59;
const GET_NETNS_COOKIE: i32 = 122;

/// Offsets in `struct bpf_sock_ops`.
const OP: i16 = 0;
const CB_FLAGS: i16 = 84;

/// `BPF_SOCK_OPS_TCP_LISTEN_CB`.
const LISTEN: i32 = 11;

/// One instruction of `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn insn(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> Insn {
    Insn { code, registers: src << 4 | dst, offset, immediate }
}

const fn mov(dst: u8, src: u8) -> Insn {
    insn(0xbf, dst, src, 0, 0)
}

const fn mov_imm(dst: u8, value: i32) -> Insn {
    insn(0xb7, dst, 0, 0, value)
}

const fn add_imm(dst: u8, value: i32) -> Insn {
    insn(0x07, dst, 0, 0, value)
}

const fn or_imm(dst: u8, value: i32) -> Insn {
    insn(0x47, dst, 0, 0, value)
}

const fn load_u32(dst: u8, src: u8, offset: i16) -> Insn {
    insn(0x61, dst, src, offset, 0)
}

const fn store_u64(dst: u8, offset: i16, src: u8) -> Insn {
    insn(0x7b, dst, src, offset, 0)
}

const fn skip_unless_equal(dst: u8, value: i32, skipped: i16) -> Insn {
    insn(0x55, dst, 0, skipped, value)
}

const fn call(helper: i32) -> Insn {
    insn(0x85, 0, 0, 0, helper)
}

const EXIT: Insn = insn(0x95, 0, 0, 0, 0);

/// A program attached to the top of the cgroup hierarchy, until it is dropped.
pub(crate) struct ForeignProgram {
    _link: OwnedFd,
    map: Option<OwnedFd>,
}

impl ForeignProgram {
    /// Adds to the callback flags of each socket that begins to listen.
    pub(crate) fn attach_setting_flags(flags: u32) -> Self {
        let program = [
            load_u32(2, 1, OP),
            skip_unless_equal(2, LISTEN, 3),
            load_u32(2, 1, CB_FLAGS),
            or_imm(2, flags as i32),
            call(SOCK_OPS_CB_FLAGS_SET),
            mov_imm(0, 1),
            EXIT,
        ];
        Self { _link: attach(&program).expect("attach another sock_ops program"), map: None }
    }

    /// Notes, for each namespace, the callback flags that the last socket had when it began to listen.
    pub(crate) fn attach_recording_flags() -> Self {
        let map = create_map().expect("create a map");
        let program = [
            mov(6, 1),
            load_u32(2, 1, OP),
            skip_unless_equal(2, LISTEN, 12),
            call(GET_NETNS_COOKIE),
            store_u64(10, -8, 0),
            load_u32(2, 6, CB_FLAGS),
            store_u64(10, -16, 2),
            insn(0x18, 1, 1, 0, map.as_raw_fd()), // r1 = the map; two instructions wide
            insn(0, 0, 0, 0, 0),
            mov(2, 10),
            add_imm(2, -8),
            mov(3, 10),
            add_imm(3, -16),
            mov_imm(4, 0),
            call(MAP_UPDATE_ELEM),
            mov_imm(0, 1),
            EXIT,
        ];
        Self { _link: attach(&program).expect("attach another sock_ops program"), map: Some(map) }
    }

    /// The flags that were noted for a namespace.
    pub(crate) fn recorded_for(&self, cookie: u64) -> Option<u32> {
        #[repr(C)]
        struct Attr {
            map: u32,
            padding: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let mut value = 0u64;
        let (key, to) = (&raw const cookie as u64, &raw mut value as u64);
        let map = self.map.as_ref().expect("a program that records").as_raw_fd() as u32;
        bpf(BPF_MAP_LOOKUP_ELEM, &mut Attr { map, padding: 0, key, value: to, flags: 0 }).ok()?;
        Some(value as u32)
    }
}

/// The numbers of all sock_ops programs at the top of the cgroup hierarchy.
pub(crate) fn attached_programs() -> Vec<u32> {
    #[repr(C)]
    struct Attr {
        target: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        padding: u32,
    }
    let cgroup = cgroup_root().expect("open the cgroup");
    let mut programs = [0u32; 64]; // BPF_CGROUP_MAX_PROGS
    let mut attr = Attr {
        target: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_SOCK_OPS,
        query_flags: 0,
        attach_flags: 0,
        programs: &raw mut programs as u64,
        count: programs.len() as u32,
        padding: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attr).expect("ask for the attached programs");
    programs[..attr.count as usize].to_vec()
}

fn cgroup_root() -> io::Result<File> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| fields[2] == "cgroup2");
    File::open(mount.ok_or(io::ErrorKind::NotFound)?[1])
}

fn create_map() -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        kind: u32,
        key_size: u32,
        value_size: u32,
        entries: u32,
        flags: u32,
    }
    let mut attr = Attr { kind: BPF_MAP_TYPE_LRU_HASH, key_size: 8, value_size: 8, entries: 1024, flags: 0 };
    bpf_fd(BPF_MAP_CREATE, &mut attr)
}

/// Loads a program and attaches it; the program lives as long as the link.
fn attach(program: &[Insn]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    #[repr(C)]
    struct Link {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
    }
    let mut load = Load {
        kind: BPF_PROG_TYPE_SOCK_OPS,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        licence: c"GPL".as_ptr() as u64,
        attach_type: BPF_CGROUP_SOCK_OPS,
        ..Load::default()
    };
    let program = bpf_fd(BPF_PROG_LOAD, &mut load)?;
    let cgroup = cgroup_root()?;
    let (program, target) = (program.as_raw_fd() as u32, cgroup.as_raw_fd() as u32);
    bpf_fd(BPF_LINK_CREATE, &mut Link { program, target, attach_type: BPF_CGROUP_SOCK_OPS, flags: 0 })
}

fn bpf_fd<T>(command: u32, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)? as RawFd;
    // SAFETY: the command answered with a new file descriptor, which nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: u32, attr: &mut T) -> io::Result<c_long> {
    // SAFETY: the attribute is laid out as the command wants it, its size is told, and the pointers in it are to values
    // that the caller keeps for the length of the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, (attr as *mut T).cast::<c_void>(), size_of::<T>() as u32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
