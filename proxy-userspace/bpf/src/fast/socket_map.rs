//! Puts sockets into a socket map and takes them out, without a lock of ours: the kernel may have to wait for a socket that a
//! server's thread is sending to, and nobody else shall wait for that.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{MapData, SockMap};
use socket2::Socket;

/// Commands of bpf(2), `include/uapi/linux/bpf.h`.
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;

/// A socket map.
pub(super) struct Sockets(SockMap<MapData>);

/// `union bpf_attr` as these two commands read it; aya's own functions want the map for themselves alone.
#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Sockets {
    pub(super) const fn new(map: SockMap<MapData>) -> Self {
        Self(map)
    }

    /// Puts `socket` in the place of a slot.
    ///
    /// # Errors
    /// The error of bpf(2): `EOPNOTSUPP` for a socket that is not connected, `EBUSY` for one that somebody else has hold of.
    pub(super) fn insert(&self, slot: u32, socket: &Socket) -> io::Result<()> {
        self.call(BPF_MAP_UPDATE_ELEM, slot, socket.as_raw_fd() as u32)
    }

    /// Empties the place of a slot.
    ///
    /// # Errors
    /// The error of bpf(2): `EINVAL` when it is empty.
    pub(super) fn remove(&self, slot: u32) -> io::Result<()> {
        self.call(BPF_MAP_DELETE_ELEM, slot, 0)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd().as_fd()
    }

    fn call(&self, command: libc::c_int, slot: u32, value: u32) -> io::Result<()> {
        // SAFETY: all of it is integers.
        let mut element: Element = unsafe { zeroed() };
        element.map = self.fd().as_raw_fd() as u32;
        element.key = (&raw const slot) as u64;
        element.value = if command == BPF_MAP_UPDATE_ELEM { (&raw const value) as u64 } else { 0 };
        // SAFETY: the kernel reads the structure, of which it is told the size, and through it a key and a value of four
        // bytes each, as this kind of map has them; all of it outlives the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const element, size_of::<Element>()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
