//! Containers of other runtimes: each is registered by a file `NAME.toml` in one directory, or over the control socket (see
//! [`registrar`]).
//!
//! The directory is watched, and looked through every few seconds in any case, which also notices what no watch tells: a
//! namespace replaced by another at the same path (see [`presence`] for what ends one). A container that is registered by `pid` lives exactly as long as that
//! process. Its file may stay behind, and the pid be given to somebody else; see [`scan`] for why that leads nowhere.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::{HostNetworkRule, RefreshRequest, ResolverHandle};

mod description;
mod file;
mod presence;
mod registrar;
mod registration;
mod resolved_target;
mod scan;
mod state_file;
mod watch;

pub use registrar::{RegisterError, Registrar};
pub use registration::{KeyText, PortRange, Registration};
use scan::Scanner;
use watch::Watch;

/// How often the directory is looked through without being told.
const RESCAN: Duration = Duration::from_secs(2);
/// How long to wait after a change before looking: a file is often written in several steps.
const DRAIN: Duration = Duration::from_millis(15);
/// How soon to look again for what was not ready, a namespace not yet mounted, say; doubled each time up to [`RESCAN`].
const RETRY: Duration = Duration::from_millis(50);

/// Why containers cannot be registered in a directory; the texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It is missing and cannot be made.
    #[error("cannot create {directory:?}, where containers are registered: create it, or configure another directory")]
    Make {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It cannot be examined.
    #[error("cannot read {directory:?}")]
    Read {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// There is something else.
    #[error("{directory:?} is not a directory: containers are registered by files in a directory")]
    NoDirectory {
        /// The path.
        directory: PathBuf,
    },
    /// Everybody may put files there.
    #[error("anyone may register containers in {directory:?}: chmod o-w {directory:?}")]
    Open {
        /// The directory.
        directory: PathBuf,
    },
}

/// Looks through `directory` once, then follows it until `shutdown`. A directory that is missing is made.
///
/// # Errors
/// The directory cannot be made or read, or anyone could register containers in it.
pub(super) async fn start(
    directory: &Path,
    host_network: HostNetworkRule,
    cache: Arc<Cache>,
    handle: ResolverHandle,
    shutdown: CancellationToken,
) -> Result<(), DirectoryError> {
    prepare(directory)?;
    let scanner = Scanner::new(directory.to_owned(), host_network, cache);
    let (ready, first_scan) = oneshot::channel();
    tokio::spawn(follow(directory.to_owned(), scanner, handle, shutdown, ready));
    let _ = first_scan.await;
    Ok(())
}

/// A file in this directory makes the daemon enter a namespace, so not everyone may put one there.
fn prepare(directory: &Path) -> Result<(), DirectoryError> {
    let path = || directory.to_owned();
    std::fs::create_dir_all(directory).map_err(|source| DirectoryError::Make { directory: path(), source })?;
    let metadata = std::fs::metadata(directory).map_err(|source| DirectoryError::Read { directory: path(), source })?;
    if !metadata.is_dir() {
        return Err(DirectoryError::NoDirectory { directory: path() });
    }
    if writable_by_all(&metadata) {
        return Err(DirectoryError::Open { directory: path() });
    }
    Ok(())
}

fn writable_by_all(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & 0o002 != 0
}

async fn follow(
    directory: PathBuf,
    mut scanner: Scanner,
    mut handle: ResolverHandle,
    shutdown: CancellationToken,
    ready: oneshot::Sender<()>,
) {
    let mut watch = Watch::new(RESCAN);
    watch.set([directory.clone()].into());
    let mut ready = Some(ready);
    let mut waiting: Vec<RefreshRequest> = Vec::new();
    let mut retry = RETRY;
    loop {
        // The files are read on a thread made for such things: a disk that hangs must not hold up connections.
        let result;
        (scanner, result) = match tokio::task::spawn_blocking(move || {
            let result = scanner.scan();
            (scanner, result)
        })
        .await
        {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "no longer watching the directory of registered containers");
                *handle.health.lock() = Some(Err("stopped".into()));
                return;
            }
        };
        retry = if scanner.something_is_not_ready() { (retry * 2).min(RESCAN) } else { RETRY };
        let next = Instant::now() + if retry > RETRY { retry } else { RESCAN };
        report(&handle, result);
        watch.set(scanner.paths().into_iter().chain([directory.clone()]).collect());
        waiting.clear();
        if let Some(ready) = ready.take() {
            let _ = ready.send(());
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep_until(next) => continue,
            () = watch.changed() => retry = RETRY,
            Some(request) = handle.requests.recv() => waiting.push(request),
        }
        tokio::time::sleep(DRAIN).await;
        while let Ok(request) = handle.requests.try_recv() {
            waiting.push(request);
        }
    }
}

fn report(handle: &ResolverHandle, result: Result<(), String>) {
    let mut health = handle.health.lock();
    match (&*health, &result) {
        (Some(Ok(())), Err(error)) => tracing::warn!("registered containers: {error}"),
        (Some(Err(_)), Ok(())) => tracing::info!("registered containers: the directory is readable again"),
        _ => {}
    }
    *health = Some(result);
}
