//! What the service manager is told (sd_notify(3)). Without one, all of this does nothing.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// More time than the drain itself takes, before the service manager gives up waiting for the end.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// The node serves; also the end of a reload.
pub(super) fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it.
pub(super) fn reloading() {
    // systemd tells the answer to this reload from older ones by the time.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now, NotifyState::Status("reloading the configuration")]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The node ends, and may take `patience` for it, whatever the unit's `TimeoutStopSec=` says.
pub(super) fn stopping(timeout: Duration) {
    let microseconds = u32::try_from((timeout + STOP_MARGIN).as_micros()).unwrap_or(u32::MAX);
    send(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(microseconds),
        NotifyState::Status("draining connections"),
    ]);
}

/// The watchdog's heartbeat. One that finds the manager's queue full is not needed.
pub(super) fn watchdog_ping() {
    deliver(&[NotifyState::Watchdog], SendWait::None);
}

fn send(states: &[NotifyState<'_>]) {
    deliver(states, SendWait::Short);
}

/// How long a full queue of the service manager is waited for. Never for ever, as sd_notify(3) does: a manager that is
/// stuck must not stop the node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum SendWait {
    None,
    Short,
}

const SHORT: Duration = Duration::from_secs(1);

fn deliver(states: &[NotifyState<'_>], wait: SendWait) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = try_deliver(&path, states, wait)
        && !(wait == SendWait::None && error.kind() == io::ErrorKind::WouldBlock)
    {
        tracing::warn!(
            %error,
            socket = %path.to_string_lossy(),
            "the service manager cannot be told the daemon's state (NOTIFY_SOCKET); it may take the daemon for one that hangs"
        );
    }
}

fn try_deliver(path: &OsStr, states: &[NotifyState<'_>], wait: SendWait) -> io::Result<()> {
    // A name that begins with @ is in the abstract namespace (unix(7)).
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    match wait {
        SendWait::None => socket.set_nonblocking(true)?,
        SendWait::Short => socket.set_write_timeout(Some(SHORT))?,
    }
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    socket.send_to_addr(message.as_bytes(), &address)?;
    Ok(())
}

/// When the next heartbeat is due.
#[derive(Debug)]
pub(super) struct Watchdog(Option<Interval>);

impl Watchdog {
    /// As often as `WATCHDOG_USEC` asks for; never without it.
    pub(super) fn start() -> Self {
        let asked = sd_notify::watchdog_enabled().filter(|every| !every.is_zero());
        Self(asked.map(|every| {
            // Half of what is allowed, as sd_watchdog_enabled(3) recommends.
            let mut interval = interval((every / 2).max(Duration::from_millis(1)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_manager_that_does_not_read_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let began = Instant::now();
        let full = loop {
            if let Err(error) = try_deliver(path.as_os_str(), &[NotifyState::Watchdog], SendWait::None) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        try_deliver(path.as_os_str(), &[NotifyState::Ready], SendWait::Short).unwrap_err();
        assert!(began.elapsed() < SHORT * 5, "{:?}", began.elapsed());

        let mut message = [0; 64];
        let n = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..n], b"WATCHDOG=1\n");
        try_deliver(path.as_os_str(), &[NotifyState::Ready, NotifyState::Status("x")], SendWait::Short).unwrap();
    }

    #[test]
    fn abstract_names_are_understood() {
        let name = format!("portsplice-test-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        try_deliver(OsStr::new(&format!("@{name}")), &[NotifyState::Stopping], SendWait::Short).unwrap();
        let mut message = [0; 64];
        let n = manager.recv(&mut message).unwrap();
        assert_eq!(&message[..n], b"STOPPING=1\n");
    }
}
