//! What the service manager is told (sd_notify(3)). Without one, all of this does nothing.

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
        Ok(now) => send(&[NotifyState::Reloading, now, NotifyState::Status("reading the configuration again")]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The node ends, and may take `patience` for it, whatever the unit's `TimeoutStopSec=` says.
pub(super) fn stopping(patience: Duration) {
    let microseconds = u32::try_from((patience + STOP_MARGIN).as_micros()).unwrap_or(u32::MAX);
    send(&[
        NotifyState::Stopping,
        NotifyState::ExtendTimeoutUsec(microseconds),
        NotifyState::Status("finishing the requests that run"),
    ]);
}

/// The watchdog's sign of life.
pub(super) fn alive() {
    send(&[NotifyState::Watchdog]);
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told the node's state");
    }
}

/// When the next sign of life is due.
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
