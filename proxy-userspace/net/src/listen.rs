//! Listening sockets: opened here, or passed by the service manager (sd_listen_fds(3)).
//!
//! All are open before anything is served, so that a node either has every listener of its configuration or does not
//! start.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::sleep;

use portsplice_auth::{Authenticator, Scheme};

use crate::drain::DrainWatch;
use crate::tls::{CertificateFiles, TlsSlot};

/// Connections that may wait to be accepted. The kernel cuts it to `net.core.somaxconn`, 4096 by default.
const BACKLOG: i32 = 4096;

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// On an address of its own; port 0 takes a free one.
    Socket(SocketAddr),
    /// On a socket that the service manager passes: the one of that name, or all that no other listener names.
    Systemd(Option<String>),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Systemd(None) => f.write_str("systemd"),
            Self::Systemd(Some(name)) => write!(f, "systemd:{name}"),
        }
    }
}

/// Why a text is no [`ListenAddress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write an IP address and a port, `systemd`, or `systemd:NAME`")]
pub struct ListenAddressError;

/// Why a listener cannot be had; the texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// What the service manager says of its sockets is broken.
    #[error("the service manager's LISTEN_FDS and LISTEN_FDNAMES do not match")]
    Announcement(#[source] io::Error),
    /// Something that the service manager passed is of no use.
    #[error("file descriptor {fd} ({name}) from the service manager")]
    Descriptor {
        /// The descriptor.
        fd: RawFd,
        /// Its name in `LISTEN_FDNAMES`.
        name: String,
        /// What is wrong with it.
        source: DescriptorError,
    },
    /// The sockets that a listener asks the service manager for cannot be had.
    #[error("listener {listener}")]
    Inherited {
        /// What the log calls the listener.
        listener: String,
        /// What is wrong.
        source: InheritedError,
    },
    /// The system opens no socket there.
    #[error("cannot listen on {address}: {error}{}", advice(.error, *.address))]
    Open {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says. Its text stands within this one's, before the advice; so it is not the source too.
        error: io::Error,
    },
    /// A socket that is open cannot be used.
    #[error(transparent)]
    Socket(#[from] io::Error),
    /// A socket that the service manager passed has another family since.
    #[error("a listener without an IP address")]
    NoAddress,
}

/// What is wrong with a descriptor that the service manager passed.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// It has no address.
    #[error("is not a socket")]
    NoSocket(#[source] io::Error),
    /// It does not tell what it is.
    #[error(transparent)]
    Options(#[from] io::Error),
    /// It is a socket of another kind, or a connection.
    #[error("is not a listening TCP socket; use ListenStream= with an IP address and Accept=no in the .socket unit")]
    NotListening,
}

/// Why the service manager's sockets do not serve a listener.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// The process can have no more descriptors.
    #[error(transparent)]
    Copy(#[from] io::Error),
    /// None has the name that the listener asks for.
    #[error("the service manager passed no such socket: {passed}")]
    Missing {
        /// What it passed instead, and what to do.
        passed: String,
    },
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        match text.strip_prefix("systemd") {
            Some("") => Ok(Self::Systemd(None)),
            Some(name) => match name.strip_prefix(':') {
                None | Some("") => Err(ListenAddressError),
                Some(name) => Ok(Self::Systemd(Some(name.to_owned()))),
            },
            None => text.parse().map(Self::Socket).map_err(|_| ListenAddressError),
        }
    }
}

/// One entry of the configuration's `listen`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenConfig {
    /// The address that is listened on, or the name of a socket that the service manager passes.
    pub address: ListenAddress,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// What it accepts; never empty, no duplicates.
    pub credentials: Vec<Scheme>,
    /// The certificate it presents; `None` is the one made at start.
    pub certificate: Option<CertificateFiles>,
}

impl fmt::Display for ListenConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.tls { "tls" } else { "tcp" }, self.address)
    }
}

/// A listening socket with all that a role needs to serve it.
#[derive(Debug)]
pub struct Listener {
    /// Bound, listening and non-blocking.
    pub socket: Socket,
    /// What it presents, when it speaks TLS; a reload may replace it for connections that come later.
    pub tls: Option<Arc<TlsSlot>>,
    /// Which credentials it accepts.
    pub authenticator: Arc<Authenticator>,
}

impl Listener {
    /// What logs and metrics call it: `tls` or `tcp`, and its address.
    ///
    /// # Errors
    /// Those of getsockname(2).
    pub fn label(&self) -> io::Result<String> {
        let address = self.socket.local_addr()?.as_socket().map_or_else(String::new, |address| address.to_string());
        Ok(format!("{} {address}", if self.tls.is_some() { "tls" } else { "tcp" }))
    }
}

/// A socket that listens.
#[derive(Debug)]
pub struct Bound {
    /// What it was opened for.
    pub config: ListenConfig,
    /// Listening and non-blocking.
    pub socket: Socket,
    /// Its real address, where the configuration said port 0 or left it to the service manager.
    pub address: SocketAddr,
}

/// Sockets that the service manager passed to this process, with their names.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<(String, Socket)>,
}

impl Inherited {
    /// Takes the sockets that `LISTEN_FDS` announces, if any. May be called once in a process.
    ///
    /// # Errors
    /// When the announcement is broken, or something passed is no TCP socket that listens.
    pub fn take() -> Result<Self, ListenError> {
        let announced = sd_notify::listen_fds_with_names().map_err(ListenError::Announcement)?;
        let mut sockets = Vec::new();
        for (fd, name) in announced {
            // SAFETY: sd_listen_fds(3) makes the descriptors this process's own; `listen_fds_with_names` has checked
            // LISTEN_PID and has set a flag on each, so that they are open; and nothing else in the process takes them.
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(fd) });
            if let Err(source) = inspect(&socket) {
                return Err(ListenError::Descriptor { fd, name, source });
            }
            sockets.push((name, socket));
        }
        Ok(Self { sockets })
    }

    /// The names of the sockets that no listener asks for.
    pub fn unused(&self, listeners: &[ListenConfig]) -> Vec<&str> {
        let takes_all = listeners.iter().any(|l| l.address == ListenAddress::Systemd(None));
        let left = self.sockets.iter().filter(|(name, _)| !takes_all && !is_named(listeners, name));
        left.map(|(name, _)| name.as_str()).collect()
    }

    /// Copies of the sockets that belong to a listener. Copies, so that a reload can ask again.
    fn get(&self, wanted: Option<&str>, listeners: &[ListenConfig]) -> Result<Vec<Socket>, InheritedError> {
        let found = self.sockets.iter().filter(|(name, _)| match wanted {
            Some(wanted) => name == wanted,
            None => !is_named(listeners, name),
        });
        let found: Vec<Socket> = found.map(|(_, socket)| socket.try_clone()).collect::<io::Result<_>>()?;
        if found.is_empty() {
            return Err(InheritedError::Missing { passed: self.describe() });
        }
        Ok(found)
    }

    fn describe(&self) -> String {
        if self.sockets.is_empty() {
            return "it passed none; start the node by a .socket unit, or give an address".to_owned();
        }
        let names: Vec<&str> = self.sockets.iter().map(|(name, _)| name.as_str()).collect();
        format!("it passed {}; set FileDescriptorName= in the .socket unit", names.join(", "))
    }
}

fn is_named(listeners: &[ListenConfig], name: &str) -> bool {
    listeners.iter().any(|l| matches!(&l.address, ListenAddress::Systemd(Some(n)) if n == name))
}

fn inspect(socket: &Socket) -> Result<(), DescriptorError> {
    let address = socket.local_addr().map_err(DescriptorError::NoSocket)?;
    let ok = address.as_socket().is_some() && socket.r#type()? == Type::STREAM && socket.is_listener()?;
    if ok { Ok(()) } else { Err(DescriptorError::NotListening) }
}

/// Opens the sockets of one listener; more than one only where the service manager passes several of one name. `all` are
/// the listeners of the whole configuration.
///
/// # Errors
/// When it cannot be opened.
pub fn bind(listener: &ListenConfig, all: &[ListenConfig], inherited: &Inherited) -> Result<Vec<Bound>, ListenError> {
    let sockets = match &listener.address {
        ListenAddress::Socket(address) => vec![open(*address, is_v6_only(*address, all))?],
        ListenAddress::Systemd(name) => inherited
            .get(name.as_deref(), all)
            .map_err(|source| ListenError::Inherited { listener: listener.to_string(), source })?,
    };
    sockets
        .into_iter()
        .map(|socket| {
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?.as_socket().ok_or(ListenError::NoAddress)?;
            Ok(Bound { config: listener.clone(), socket, address })
        })
        .collect()
}

/// What an error of accept(2) says about the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptFailure {
    /// That one connection was gone, or its network had an error of its own: the next one may be there already.
    Connection,
    /// The process or the machine lacks something, or may not accept just now: it can be tried again after a rest, and
    /// connections wait in the backlog meanwhile.
    Resources,
    /// The socket will never give a connection again.
    Listener,
}

impl AcceptFailure {
    /// Classifies `error`. What is not known rests: it neither spins nor ends a listener that may recover.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            // As accept(2) has it, "Error handling". Each of them has taken a connection out of the backlog, so that going
            // on at once cannot spin.
            Some(
                libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EINTR
                | libc::EAGAIN
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
                | libc::ETIMEDOUT,
            ) => Self::Connection,
            // EINVAL: somebody with a copy of the descriptor has shut the socket down.
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK) => Self::Listener,
            _ => Self::Resources,
        }
    }
}

/// How long accepting rests when the process has no descriptors left.
const REST: Duration = Duration::from_millis(100);

/// Accepts connections for as long as it is polled: calls `accept` again and again, and `admit` with what it gives. Dropping
/// the future loses no connection if that is so of the futures of `accept`. `listener` is what the log calls it.
///
/// Gives the error with which the listener had to end.
pub async fn accept<T, F>(listener: &str, mut accept: impl FnMut() -> F, mut admit: impl FnMut(T)) -> io::Error
where
    F: Future<Output = io::Result<T>>,
{
    loop {
        match accept().await {
            Ok(connection) => admit(connection),
            Err(error) => {
                if let Err(error) = after_failure(listener, error).await {
                    return error;
                }
            }
        }
    }
}

/// The same until the drain begins.
///
/// # Errors
/// When the listener had to end.
pub async fn accept_until_drain<T, F>(
    listener: &str,
    drain: &DrainWatch,
    accept: impl FnMut() -> F,
    admit: impl FnMut(T),
) -> io::Result<()>
where
    F: Future<Output = io::Result<T>>,
{
    tokio::select! {
        biased;
        () = drain.started() => Ok(()),
        error = self::accept(listener, accept, admit) => Err(error),
    }
}

/// What the loop does after accept(2) has failed, before it tries again.
///
/// # Errors
/// `error`, when the listener has to end.
async fn after_failure(listener: &str, error: io::Error) -> io::Result<()> {
    match AcceptFailure::of(&error) {
        AcceptFailure::Connection => {
            tracing::debug!(listener, %error, "a connection was closed before it was accepted")
        }
        AcceptFailure::Resources => {
            let advice = match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => "; raise the limit of open files or lower `limits.connections`",
                _ => "",
            };
            tracing::warn!(listener, "cannot accept a connection now: {error}{advice}");
            sleep(REST).await;
        }
        AcceptFailure::Listener => {
            let text = format!("it cannot accept connections any more (was it shut down by another process?): {error}");
            return Err(io::Error::new(error.kind(), text));
        }
    }
    Ok(())
}

/// `[::]` takes IPv4 too, unless another listener wants the IPv4 side of the port.
fn is_v6_only(address: SocketAddr, all: &[ListenConfig]) -> bool {
    let wants_v4 =
        |l: &ListenConfig| matches!(l.address, ListenAddress::Socket(a) if a.is_ipv4() && a.port() == address.port());
    address.is_ipv6() && all.iter().any(wants_v4)
}

/// Opens a listening TCP socket; port 0 takes a free one. `v6_only`: one on an IPv6 address takes no IPv4.
///
/// # Errors
/// When it cannot be opened.
pub fn open(address: SocketAddr, v6_only: bool) -> Result<Socket, ListenError> {
    let opened = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of a node that has just ended must not keep the next one from starting.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(v6_only)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    opened().map_err(|error| ListenError::Open { address, error })
}

fn advice(error: &io::Error, address: SocketAddr) -> String {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            format!("; `ss -ltnp 'sport = :{}'` shows who does. Stop that, or choose another port", address.port())
        }
        Some(libc::EADDRNOTAVAIL) => {
            let any = if address.ip().is_ipv4() { "0.0.0.0" } else { "[::]" };
            format!("; no interface of this machine has it. `ip address` lists what there is; {any} listens on all")
        }
        Some(libc::EACCES) if address.port() < 1024 => {
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned()
        }
        Some(libc::EAFNOSUPPORT) if matches!(address.ip(), IpAddr::V6(_)) => {
            "; this machine has no IPv6. Use an IPv4 address such as 0.0.0.0".to_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
