//! Brings the kernel's news to the table of ports.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Ports;
use crate::fastpath::{Fastpath, ListenEvents};

/// How long after news that came this close upon others the next are read. The first are there at once; a port that flaps
/// without end makes no more than some thousand changes a second.
const PAUSE: Duration = Duration::from_millis(1);
/// How often it is asked for losses: the last event may be among them, and then none comes that would tell.
const ASK: Duration = Duration::from_secs(1);

/// Reads the kernel's news for `ports` until they end, which is not to be expected.
pub async fn follow(mut news: ListenEvents, fastpath: Arc<Fastpath>, ports: Arc<Ports>) {
    let (mut batch, mut lost) = (Vec::new(), 0);
    let mut before = Instant::now();
    loop {
        match timeout(ASK, news.read(&mut batch)).await {
            Ok(Ok(())) => {
                ports.heard(&batch);
                batch.clear();
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the kernel's news of listening ports have ended; ports are known only later from now on");
                return ports.deaf();
            }
            Err(_) => {}
        }
        let so_far = news.lost();
        if so_far != lost {
            tracing::debug!(lost = so_far - lost, "news of listening ports were lost: their namespaces are looked at");
            lost = so_far;
            ports.missed(|cookie| fastpath.lost_of(cookie));
        }
        let now = Instant::now();
        if now.duration_since(std::mem::replace(&mut before, now)) < PAUSE {
            sleep(PAUSE).await;
        }
    }
}
