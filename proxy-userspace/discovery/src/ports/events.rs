//! Brings the kernel's events to the table of ports.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use proxy_common::ListenEvent;
use tokio::time::{Instant, sleep, timeout};

use super::Ports;

/// How long after events that came this close upon others the next are read. The first are there at once; a port that
/// flaps without end makes no more than some thousand changes a second.
const PAUSE: Duration = Duration::from_millis(1);
/// How often it is asked for losses: the last event may be among them, and then none comes that would tell.
const ASK: Duration = Duration::from_secs(1);

/// Where events of listening sockets come from: the kernel's program, which this module need not know.
pub trait ListenSource: Send {
    /// Waits for events and adds what is there to `batch`. Cancelled, it has taken none.
    ///
    /// # Errors
    /// Nothing more will come.
    fn read(&mut self, batch: &mut Vec<ListenEvent>) -> impl Future<Output = io::Result<()>> + Send;

    /// How many events were lost in all, of whatever namespace.
    fn lost(&self) -> u64;

    /// How many events were lost of the namespace with this cookie (`SO_NETNS_COOKIE`).
    fn lost_of(&self, cookie: u64) -> u64;
}

/// Reads the kernel's events for `ports` until they end, which is not to be expected.
pub async fn follow(mut news: impl ListenSource, ports: Arc<Ports>) {
    let (mut batch, mut lost) = (Vec::new(), 0);
    let mut before = Instant::now();
    loop {
        match timeout(ASK, news.read(&mut batch)).await {
            Ok(Ok(())) => {
                ports.on_events(&batch);
                batch.clear();
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "listen events are no longer available; listening ports are now found by scanning, with a delay");
                return ports.events_lost();
            }
            Err(_) => {}
        }
        let so_far = news.lost();
        if so_far != lost {
            tracing::debug!(lost = so_far - lost, "listen events were lost; scanning their namespaces");
            lost = so_far;
            ports.on_lost(|cookie| news.lost_of(cookie));
        }
        let now = Instant::now();
        if now.duration_since(std::mem::replace(&mut before, now)) < PAUSE {
            sleep(PAUSE).await;
        }
    }
}
