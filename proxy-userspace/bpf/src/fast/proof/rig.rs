//! The four sockets of a flow in a network namespace of their own, and a relay between them.

use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::fast::flows::Flows;
use crate::fast::kernel_flow::{AttachFailure, KernelFlow, Request};
use portsplice_net::netns::Netns;
use portsplice_relay::bypass::{FastFlow, SLOW_BYTES, ServerUse, Unaccounted};
use proxy_common::{Flow, Framing};

/// Nothing here takes longer, unless somebody waits for what never comes.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The namespace.
pub(super) struct Rig<'a> {
    flows: &'a Arc<Flows>,
    netns: Netns,
}

/// A flow's sockets: the client's end **K** of the client's connection **C**, the daemon's **U** and the server's
/// **S**.
pub(super) struct TestSockets {
    pub(super) k: TcpStream,
    pub(super) c: Socket,
    pub(super) u: Socket,
    pub(super) s: TcpStream,
}

impl<'a> Rig<'a> {
    pub(super) fn new(flows: &'a Arc<Flows>) -> Result<Self> {
        // This thread leaves the host's namespace for good; it ends with the proof.
        // SAFETY: only the calling thread's namespace changes.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
            .context("cannot make a network namespace")?;
        loopback_up().context("cannot set the loopback interface up")?;
        Ok(Self { flows, netns: Netns::current()? })
    }

    /// Two connected pairs.
    pub(super) fn sockets(&self) -> Result<TestSockets> {
        let (k, c) = pair(|_| Ok(()))?;
        // A reader that does not read shall be felt soon.
        k.set_recv_buffer_size(128 * 1024)?;
        // As the sock_ops program would: it sees only registered namespaces, and the daemon's own process.
        let (u, s) = pair(|s| s.set_send_buffer_size(SLOW_BYTES as usize))?;
        c.set_nonblocking(true)?;
        u.set_nonblocking(true)?;
        let (k, s) = (TcpStream::from(k), TcpStream::from(s));
        k.set_read_timeout(Some(PATIENCE))?;
        s.set_write_timeout(Some(PATIENCE))?;
        Ok(TestSockets { k, c, u, s })
    }

    /// Attaches a flow of which `budget` bytes are to come.
    pub(super) fn try_attach(&self, sockets: &TestSockets, budget: u64) -> Result<KernelFlow, AttachFailure> {
        self.try_attach_framed(sockets, Framing::Plain, budget)
    }

    /// Attaches a flow of any framing.
    pub(super) fn try_attach_framed(
        &self,
        sockets: &TestSockets,
        framing: Framing,
        budget: u64,
    ) -> Result<KernelFlow, AttachFailure> {
        let (client, upstream) = (&sockets.c, &sockets.u);
        self.flows.open(&Request { netns: &self.netns, client, upstream, framing, budget, server: ServerUse::Responds })
    }

    /// Attaches a flow that ends with its connection.
    pub(super) fn attach(&self, sockets: &TestSockets) -> Result<KernelFlow> {
        self.try_attach(sockets, Flow::UNTIL_END)
            .map_err(|reason| anyhow::anyhow!("the flow was not attached: {reason}"))
    }
}

/// What one connection of two sockets inside the namespace is: the end that connects, and the end that accepts.
fn pair(prepare: impl FnOnce(&Socket) -> io::Result<()>) -> Result<(Socket, Socket)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let connecting = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    connecting.set_tcp_nodelay(true)?;
    connecting.connect(&SockAddr::from(listener.local_addr()?))?;
    let (accepted, _) = listener.accept()?;
    let accepted = Socket::from(accepted);
    accepted.set_tcp_nodelay(true)?;
    prepare(&accepted)?;
    Ok((connecting, accepted))
}

/// Relays what passes to U, as the daemon does, until the server has ended; then ends C. Gives the bytes relayed.
pub(super) fn relay(sockets: &TestSockets, flow: &KernelFlow) -> Result<u64> {
    let mut relayed = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        wait(&sockets.u, PollFlags::IN)?;
        let n = match (&sockets.u).read(&mut buffer) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error).context("the container's side"),
        };
        if n == 0 {
            drain(flow)?;
            sockets.c.shutdown(std::net::Shutdown::Write)?;
            return Ok(relayed);
        }
        claim(flow)?;
        let mut left = &buffer[..flow.take(n as u64) as usize];
        ensure!(left.len() == n, "{n} bytes came, and {} were to come", left.len());
        while !left.is_empty() {
            match sockets.c.send(left) {
                Ok(sent) => left = &left[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(&sockets.c, PollFlags::OUT)?,
                Err(error) => return Err(error).context("the controller's side"),
            }
        }
        flow.release(n as u64);
        relayed += n as u64;
    }
}

/// Waits until it is the daemon's turn, and all that was redirected is with C.
pub(super) fn claim(flow: &KernelFlow) -> Result<()> {
    until(|| flow.try_claim())
}

/// Waits until a flow is drained.
pub(super) fn drain(flow: &KernelFlow) -> Result<()> {
    until(|| flow.try_drain())
}

fn until(done: impl Fn() -> Result<bool, Unaccounted>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done().map_err(|_| anyhow::anyhow!("what has reached C does not add up"))? {
        ensure!(Instant::now() < deadline, "redirected bytes did not arrive");
        std::thread::sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// Waits for an event on a socket.
pub(super) fn wait(socket: &impl AsFd, events: PollFlags) -> Result<()> {
    let mut fds = [PollFd::new(socket, events)];
    let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    if poll(&mut fds, Some(&patience))? == 0 {
        bail!("nothing happened for {} s: something is stuck", PATIENCE.as_secs());
    }
    Ok(())
}

/// The bytes that servers send: each says where it belongs.
pub(super) fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// Reads K to its end, and compares.
pub(super) fn expect(k: &mut TcpStream, expected: &[u8]) -> Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    let mut at = 0;
    loop {
        let n = k.read(&mut buffer).context("the client's side")?;
        if n == 0 {
            break;
        }
        let wanted = expected.get(at..at + n).context("more came than was sent")?;
        if let Some(wrong) = buffer[..n].iter().zip(wanted).position(|(got, wanted)| got != wanted) {
            bail!("byte {} is not the one that was sent", at + wrong);
        }
        at += n;
    }
    ensure!(at == expected.len(), "{at} of {} bytes arrived", expected.len());
    Ok(())
}

/// Sets the loopback interface up (netdevice(7)).
fn loopback_up() -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: all of ifreq is integers, arrays of them and pointers that stay unused; zero is a value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the kernel reads one ifreq through the pointer, and it points to one.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
