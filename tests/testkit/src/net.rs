//! Network namespaces that stand for containers, and veth pairs between them.

use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use socket2::{Domain, Protocol, Socket, Type};

use crate::process::run;

/// What arrives in a namespace, on any of its interfaces, since it was begun.
pub struct Capture(Socket);

impl Capture {
    /// How many TCP segments to `address` have come since the last call.
    #[must_use]
    pub fn segments_to(&self, address: IpAddr) -> usize {
        const TCP: u8 = 6;
        let (mut frame, mut count) = ([0; 2048], 0);
        while let Ok(length) = (&self.0).read(&mut frame) {
            // Behind the link's header: the protocol and the destination, where IPv4 and IPv6 have them.
            let packet = frame[..length].get(14..).unwrap_or_default();
            let fits = match address {
                IpAddr::V4(ip) => packet.get(9) == Some(&TCP) && packet.get(16..20) == Some(&ip.octets()[..]),
                IpAddr::V6(ip) => packet.get(6) == Some(&TCP) && packet.get(24..40) == Some(&ip.octets()[..]),
            };
            count += usize::from(fits);
        }
        count
    }
}

/// A number that no other test of this process gets.
#[must_use]
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A network namespace with its loopback up; removed when dropped.
pub struct Netns {
    /// Its name below `/run/netns`, if it has one.
    name: Option<String>,
    fd: File,
}

impl Netns {
    /// Makes a namespace under `/run/netns` whose name no other test has.
    #[must_use]
    #[track_caller]
    pub fn new() -> Self {
        let name = format!("ps-{}-{}", std::process::id(), unique());
        run(Command::new("ip").args(["netns", "add", &name]), None);
        let fd = File::open(format!("/run/netns/{name}")).expect("just made");
        Self::up(Some(name), fd)
    }

    /// Makes a namespace without name and mount: this value and the processes inside keep it, so that the kernel takes it
    /// down with its interfaces in whatever way this process ends.
    #[must_use]
    #[track_caller]
    pub fn unnamed() -> Self {
        let make = || {
            // SAFETY: CLONE_NEWNET changes only this thread's network namespace; it does not unshare the file table,
            // which is what makes `unshare` unsafe. The thread ends right after.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("make a network namespace (this takes root)");
            File::open("/proc/thread-self/ns/net").expect("the new namespace")
        };
        Self::up(None, std::thread::spawn(make).join().expect("a new network namespace"))
    }

    #[track_caller]
    fn up(name: Option<String>, fd: File) -> Self {
        let this = Self { name, fd };
        this.ip(&["link", "set", "lo", "up"]);
        this
    }

    /// Where other processes find it: where it is mounted, else among this process's descriptors.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match &self.name {
            Some(name) => format!("/run/netns/{name}").into(),
            None => format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd()).into(),
        }
    }

    /// The namespace's descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Runs `ip ARGS` inside.
    #[track_caller]
    pub fn ip(&self, args: &[&str]) {
        run(Command::new("ip").args(args), Some(self));
    }

    /// Gives the loopback interface another address, such as `10.9.8.7/32` or `fd00::7/128`.
    #[track_caller]
    pub fn add_address(&self, address: &str) {
        self.ip(&["address", "add", address, "dev", "lo"]);
    }

    /// Connects this namespace to `other`: a veth pair with an address (with prefix length) at each end.
    #[track_caller]
    pub fn veth(&self, address: &str, other: &Self, other_address: &str) {
        let (here, there) = (format!("v{}", unique()), format!("w{}", unique()));
        let (here, there) = (here.as_str(), there.as_str());
        let path = other.path();
        let path = path.to_str().expect("UTF-8");
        self.ip(&["link", "add", here, "type", "veth", "peer", "name", there, "netns", path]);
        for (ns, dev, address) in [(self, here, address), (other, there, other_address)] {
            ns.ip(&["address", "add", address, "dev", dev]);
            ns.ip(&["link", "set", dev, "up"]);
        }
    }

    /// Runs `f` on a thread inside the namespace. Sockets made there stay in it.
    #[track_caller]
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            move_into_link_name_space(self.fd(), Some(LinkNameSpaceType::Network)).expect("enter the namespace");
            f()
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// A listener inside the namespace.
    #[track_caller]
    #[must_use]
    pub fn listen(&self, address: &str) -> TcpListener {
        self.enter(|| TcpListener::bind(address).unwrap_or_else(|e| panic!("cannot listen on {address}: {e}")))
    }

    /// A connection from inside the namespace.
    pub fn connect(&self, address: std::net::SocketAddr) -> std::io::Result<TcpStream> {
        self.enter(|| TcpStream::connect_timeout(&address, crate::HANG))
    }

    /// Begins to look at what arrives.
    #[track_caller]
    #[must_use]
    pub fn capture(&self) -> Capture {
        /// `ETH_P_ALL` (linux/if_ether.h).
        const ALL: u16 = 3;
        let protocol = Protocol::from(i32::from(ALL.to_be()));
        let socket = self.enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).expect("a packet socket"));
        socket.set_nonblocking(true).expect("non-blocking");
        Capture(socket)
    }

    /// A port that nothing uses in this namespace: below the range from which the kernel chooses, and no other call gave it.
    ///
    /// Not found by listening for a moment: a process that another thread forks just then would keep the listener open
    /// until it execs.
    #[must_use]
    pub fn free_port(&self) -> u16 {
        20_000 + u16::try_from(unique() % 10_000).expect("small")
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Sockets and processes inside keep the namespace itself alive for as long as they need it.
        if let Some(name) = &self.name {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}
