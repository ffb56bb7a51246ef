//! What both kinds of tests need.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use portsplice_discovery::container::{Container, Containers, ContainersSettings, Observer, ResolveError};
use portsplice_discovery::events::Events;
use portsplice_net::netns::Netns;
use tokio_util::sync::CancellationToken;

/// Whether a privileged test may be skipped: only when the environment says that skipping is meant.
pub(crate) fn skipping() -> bool {
    let skip = std::env::var_os("PORTSPLICE_SKIP_PRIVILEGED").is_some_and(|v| v == "1");
    if skip {
        eprintln!("skipped: PORTSPLICE_SKIP_PRIVILEGED=1");
    }
    skip
}

/// Unique among everything that runs on this machine.
pub(crate) fn unique(what: &str) -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("ps{what}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// How many namespaces are observed.
#[derive(Default)]
pub(crate) struct Observed(AtomicUsize);

impl Observed {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Observer for Observed {
    fn added(&self, _: &Arc<Netns>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn removed(&self, _: &Netns) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Resolvers that stop when this is dropped.
pub(crate) struct Running {
    pub(crate) containers: Arc<Containers>,
    pub(crate) observed: Arc<Observed>,
    shutdown: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Running {
    pub(crate) async fn start(settings: &ContainersSettings) -> Self {
        let (observed, shutdown) = (Arc::<Observed>::default(), CancellationToken::new());
        let containers =
            Containers::start(settings, Events::default(), observed.clone(), shutdown.clone()).await.unwrap();
        Self { containers, observed, shutdown }
    }

    pub(crate) async fn get(&self, name: &str) -> Arc<Container> {
        self.containers.resolve(name).await.unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Waits until the name leads nowhere, for this reason.
    pub(crate) async fn until_not(&self, name: &str, reason: ResolveError) {
        eventually(&format!("{name} to be {reason:?}"), async || {
            self.containers.resolve(name).await.err() == Some(reason)
        })
        .await;
    }

    /// Waits until the name leads to a container for which `is` holds.
    pub(crate) async fn until(&self, name: &str, is: impl Fn(&Container) -> bool) -> Arc<Container> {
        let mut found = None;
        eventually(&format!("{name} to be what it should"), async || {
            found = self.containers.resolve(name).await.ok().filter(|container| is(container));
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub(crate) fn health(&self) -> Result<(), String> {
        self.containers.health().remove(0).1
    }
}

pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Fails unless `future` is done within a second: what must be seen at once.
pub(crate) async fn at_once<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(1), future).await.unwrap_or_else(|_| panic!("not at once: {what}"))
}

/// Connects to the port, as soon as something listens there.
pub(crate) async fn connects(container: &Container, port: u16) -> io::Result<()> {
    let mut last = None;
    for _ in 0..200 {
        match container.dial(port, Duration::from_secs(2)).await {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(io::Error::other(last.unwrap()))
}
