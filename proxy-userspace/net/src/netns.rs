//! Network namespaces: held by a descriptor, identified by their inode, entered for the length of a closure.
//!
//! A [`Netns`] keeps its namespace alive and names it for ever: as long as the descriptor is open the kernel cannot give
//! the inode to another namespace, so comparing [`NetnsId`]s never confuses two containers, whatever happens to pids and
//! paths (namespaces(7)). [`Netns::run`] is the only way in: one synchronous closure between two `setns(2)` calls on the
//! calling thread. A socket belongs for its whole life to the namespace it was created in (`sock_net(sk)`), so creating it
//! is all that must happen inside; everything asynchronous happens outside.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use arc_swap::ArcSwapOption;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};

mod confine;
mod dial;
mod listeners;
mod own;
mod route;

pub use dial::{DialError, DialHints, SourceAddress, dial};
pub use listeners::{Listening, sock_diag_missing, try_sock_diag};

/// The file system that namespaces are files of (linux/magic.h).
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// Where a thread finds the namespace it is in (proc(5)); `/proc/self` would be the main thread's.
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// The identity of a network namespace: device and inode of its nsfs file.
///
/// It is unique among namespaces that are alive; whoever holds a [`Netns`] keeps it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    dev: u64,
    ino: u64,
}

impl NetnsId {
    fn of(fd: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(Self { dev: stat.st_dev, ino: stat.st_ino })
    }

    /// The identity of whatever `path` names now, without opening it. Only good for comparing: it need not be a namespace.
    ///
    /// # Errors
    /// The error of `stat(2)`.
    pub fn at(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self { dev: metadata.dev(), ino: metadata.ino() })
    }

    /// The device of the file system of namespaces.
    pub fn device(&self) -> u64 {
        self.dev
    }

    /// The inode, as `/proc/PID/ns/net` shows it in `net:[…]`.
    pub fn inode(&self) -> u64 {
        self.ino
    }
}

impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.ino)
    }
}

/// A network namespace, kept alive by an open descriptor.
#[derive(Debug)]
pub struct Netns {
    /// None once it was [let go](Netns::let_go).
    fd: ArcSwapOption<OwnedFd>,
    id: NetnsId,
    cookie: Option<u64>,
}

impl Netns {
    /// Opens the namespace behind `path`: `/run/netns/NAME`, `/proc/PID/ns/net` or any other bind mount of one.
    ///
    /// # Errors
    /// The error of `open(2)`; `InvalidInput` when the file is no network namespace; `PermissionDenied` when the process
    /// may not enter it (that needs `CAP_SYS_ADMIN`).
    pub fn open(path: &Path) -> io::Result<Self> {
        // Opening alone has effects on devices and fifos, and whoever registers a container chooses the path. So it is only
        // pointed at first (O_PATH, open(2)), and opened once it is known to be a namespace (of whatever kind).
        let place = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
        if rustix::fs::fstatfs(&place)?.f_type != NSFS_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a network namespace"));
        }
        let file = File::open(format!("/proc/self/fd/{}", place.as_raw_fd()))?;
        Self::from_fd(file.into())
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// The error of opening `/proc/thread-self/ns/net`.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new(OWN_NAMESPACE))
    }

    /// Takes a descriptor of a network namespace.
    ///
    /// # Errors
    /// As for [`Netns::open`].
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: NS_GET_NSTYPE (ioctl_ns(2)) takes no argument, and `fd` is an open descriptor for the whole call.
        let kind = unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) };
        if kind != libc::CLONE_NEWNET {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "is not a network namespace"));
        }
        let id = NetnsId::of(&fd)?;
        let mut netns = Self { fd: ArcSwapOption::from_pointee(fd), id, cookie: None };
        netns.cookie = netns.run(cookie_of_this_thread)?;
        Ok(netns)
    }

    /// Device and inode: equal for two values exactly when they are the same namespace.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// The kernel's cookie of the namespace (`SO_NETNS_COOKIE`), which eBPF programs see as `bpf_get_netns_cookie`.
    /// `None` before Linux 5.14.
    pub fn cookie(&self) -> Option<u64> {
        self.cookie
    }

    /// Another hold of the same namespace.
    ///
    /// # Errors
    /// It was [let go](Netns::let_go), or there are no descriptors left.
    pub fn held_again(&self) -> io::Result<Self> {
        let Some(fd) = self.fd.load_full() else { return Err(io::ErrorKind::NotFound.into()) };
        Ok(Self { fd: ArcSwapOption::from_pointee(fd.try_clone()?), id: self.id, cookie: self.cookie })
    }

    /// Keeps the namespace in being no longer, whoever still holds this: the container that it was of has gone. It keeps its
    /// name here, and cannot be entered any more.
    pub fn let_go(&self) {
        self.fd.store(None);
    }

    /// Runs `inside` on this thread, in this namespace, and comes back to the thread's own namespace.
    ///
    /// It takes a few microseconds and may be called on a worker thread of the runtime. `inside` must not wait for
    /// anything and must not start a thread, which would begin its life, and stay, in this namespace. Calls may nest.
    ///
    /// If the thread cannot come back, the process is aborted: to go on would mean to serve the next connection from
    /// inside a container.
    ///
    /// # Errors
    /// `inside` has not run: the error of opening the thread's own namespace, or of `setns(2)`.
    pub fn run<T>(&self, inside: impl FnOnce() -> T) -> io::Result<T> {
        HOME.with(|home| {
            let home = home.get()?;
            let outer = INSIDE.get();
            let already_here = outer.map_or(home.id, |(_, id)| id) == self.id;
            if already_here {
                return Ok(inside());
            }
            let Some(fd) = self.fd.load_full() else { return Err(io::ErrorKind::NotFound.into()) };
            enter(fd.as_fd())?;
            INSIDE.set(Some((fd.as_raw_fd(), self.id)));
            let _way_back = WayBack { home: home.fd.as_fd(), outer };
            Ok(inside())
        })
    }
}

impl Netns {
    /// The TCP sockets that listen in it. Takes as long as the kernel takes to walk its table of all listeners, of all namespaces:
    /// some 100 us where there are thousands.
    ///
    /// # Errors
    /// It could not be entered, or neither sock_diag(7) nor /proc told.
    pub fn listening(&self) -> io::Result<Listening> {
        self.run(listeners::listening)?
    }
}

/// The namespace a thread lives in, opened when it first leaves it: each thread comes back to its own.
struct Home {
    fd: File,
    id: NetnsId,
}

#[derive(Default)]
struct LazyHome(OnceCell<Home>);

impl LazyHome {
    fn get(&self) -> io::Result<&Home> {
        if let Some(home) = self.0.get() {
            return Ok(home);
        }
        let fd = File::open(OWN_NAMESPACE)?;
        let id = NetnsId::of(&fd)?;
        Ok(self.0.get_or_init(|| Home { fd, id }))
    }
}

thread_local! {
    static HOME: LazyHome = LazyHome::default();
    /// The namespace whose closure is running on this thread, if one is. That very call of
    /// `run` holds the descriptor, so it is open for as long as it stands here.
    static INSIDE: Cell<Option<(RawFd, NetnsId)>> = const { Cell::new(None) };
}

/// Brings the thread back when the closure ends, by return or by panic.
struct WayBack<'a> {
    home: BorrowedFd<'a>,
    outer: Option<(RawFd, NetnsId)>,
}

impl Drop for WayBack<'_> {
    fn drop(&mut self) {
        let back = match self.outer {
            // SAFETY: see `INSIDE`: the outer call of `run` still holds this descriptor.
            Some((fd, _)) => unsafe { BorrowedFd::borrow_raw(fd) },
            None => self.home,
        };
        if let Err(error) = enter(back) {
            // No logger here: it may be what panicked, and the next thing this thread does must not happen.
            let _ = writeln!(io::stderr(), "portsplice: cannot return from a container's network namespace: {error}");
            std::process::abort();
        }
        INSIDE.set(self.outer);
    }
}

fn enter(namespace: BorrowedFd<'_>) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?)
}

/// The cookie of the namespace the calling thread is in; `None` when the kernel has none or no socket can be made.
fn cookie_of_this_thread() -> Option<u64> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None).ok()?;
    let mut cookie = 0u64;
    let mut length = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `cookie`, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    (result == 0 && length as usize == size_of::<u64>()).then_some(cookie)
}

#[cfg(test)]
mod tests;
