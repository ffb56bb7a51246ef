//! The lease that this node's records hang on, and what keeps it alive.
//!
//! A task of its own renews it: no write, however slow, may cost a node its records. Whether the lease lives is for etcd to
//! say; as long as it cannot be asked, the lease may live, and it is asked again.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::connection::{CALL, Connection};
use super::fault::Fault;
use crate::StoreError;
use portsplice_net::backoff::jittered;

/// A lease that is kept alive until this is dropped, or etcd says that it is gone.
#[derive(Debug)]
pub(super) struct Lease {
    id: i64,
    gone: CancellationToken,
    _keeper: AbortOnDropHandle<()>,
}

impl Lease {
    /// Asks for a lease that ends `ttl` after it was last renewed.
    ///
    /// # Errors
    /// Why there is none; one that nobody knows of may be left, and ends by itself.
    pub(super) async fn grant(connection: &Arc<Connection>, ttl: Duration) -> Result<Self, Fault> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        let granted = connection.once(CALL, async |mut client| client.lease_grant(seconds, None).await).await?;
        let id = granted.id();
        // etcd may give more than was asked for: never less than one and a half election timeouts.
        let ttl = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0).max(1));
        let gone = CancellationToken::new();
        let keeper = keep(Arc::clone(connection), id, ttl, gone.clone());
        Ok(Self { id, gone, _keeper: AbortOnDropHandle::new(tokio::spawn(keeper)) })
    }

    /// Its number.
    pub(super) fn id(&self) -> i64 {
        self.id
    }

    /// Whether etcd has said that it is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Returns once etcd has said that it is gone.
    pub(super) async fn gone(&self) {
        self.gone.cancelled().await;
    }
}

/// Renews a lease until it is gone.
async fn keep(connection: Arc<Connection>, id: i64, ttl: Duration, gone: CancellationToken) {
    // Twice may fail before it matters.
    let interval = ttl / 3;
    let patience = interval.max(Duration::from_millis(500));
    loop {
        let opened = connection.once(patience, async |mut client| client.lease_keep_alive(id).await).await;
        let fault = match opened {
            Ok((keeper, stream)) => renew(keeper, stream, interval, patience).await,
            Err(fault) => fault,
        };
        match fault {
            Fault::LeaseGone => return gone.cancel(),
            fault => {
                tracing::debug!(error = %StoreError::from(fault), "cannot renew the lease in etcd");
                // Somewhat apart from the other nodes, whom the same outage may have hit.
                tokio::time::sleep(jittered(interval.min(Duration::from_secs(1)), 0.1..0.5)).await;
            }
        }
    }
}

/// Renews a lease over a stream until one of the two fails.
async fn renew(
    mut keeper: LeaseKeeper,
    mut stream: LeaseKeepAliveStream,
    interval: Duration,
    patience: Duration,
) -> Fault {
    // Nodes that started together drift apart.
    let mut due = Instant::now() + jittered(interval, 0.7..1.0);
    loop {
        sleep_until(due).await;
        due = Instant::now() + interval;
        let exchange = async {
            keeper.keep_alive().await?;
            stream.message().await
        };
        match timeout(patience, exchange).await {
            Ok(Ok(Some(answer))) if answer.ttl() > 0 => {}
            Ok(Ok(Some(_))) => return Fault::LeaseGone,
            Ok(Ok(None)) => return StoreError::unavailable("etcd has closed the stream").into(),
            Ok(Err(error)) => return error.into(),
            Err(_) => return StoreError::unavailable("etcd does not respond").into(),
        }
    }
}
