//! A network namespace without a name, and the number by which the programs in the kernel know it.

use std::io;
use std::os::fd::AsRawFd;

use portsplice_tests::net::Netns;

/// A new network namespace whose loopback interface is up. It goes when this and the sockets in it are dropped.
pub(crate) struct Namespace {
    netns: Netns,
    cookie: u64,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let netns = Netns::unnamed();
        let cookie = netns.enter(cookie_here).expect("SO_NETNS_COOKIE, Linux 5.14");
        Self { netns, cookie }
    }

    /// The number by which the programs in the kernel know it.
    pub(crate) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Runs a closure in a thread inside the namespace; sockets that it makes belong there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.enter(work)
    }
}

/// `include/uapi/asm-generic/socket.h`; not in the libc crate.
const SO_NETNS_COOKIE: libc::c_int = 71;

fn cookie_here() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option's value is a u64, and the length says so.
    let result = unsafe {
        let value = (&raw mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, value, &raw mut length)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
