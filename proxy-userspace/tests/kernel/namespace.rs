//! A network namespace without a name, for one test.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A new network namespace whose loopback interface is up. It goes when this and the sockets in it are dropped.
pub(crate) struct Namespace {
    file: File,
    cookie: u64,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        // The namespace that a thread made is left by ending the thread; its file keeps it alive.
        let maker = std::thread::spawn(|| {
            // SAFETY: a plain system call; it concerns this thread alone.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
                .expect("a new network namespace needs CAP_SYS_ADMIN; PORTSPLICE_SKIP_PRIVILEGED=1 skips this test");
            loopback_up().expect("set the loopback interface up");
            let file = File::open("/proc/thread-self/ns/net").expect("open the namespace");
            Self { file, cookie: cookie_here().expect("SO_NETNS_COOKIE, Linux 5.14") }
        });
        maker.join().expect("make a network namespace")
    }

    /// The number by which the programs in the kernel know it.
    pub(crate) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Runs a closure in a thread inside the namespace; sockets that it makes belong there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                // SAFETY: a plain system call on a file that lives; it concerns this thread alone.
                check(unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) }).expect("enter the namespace");
                work()
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `ip link set lo up` (netdevice(7)).
fn loopback_up() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all of ifreq is integers, arrays of them and pointers that stay unused; zero is a value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads one ifreq through the pointer, and it points to one.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
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
    check(result).map(|()| cookie)
}
