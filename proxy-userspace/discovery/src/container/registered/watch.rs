//! Learns from the kernel (inotify) when something changes in the directories that matter.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Config, ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use portsplice_net::netns::NetnsId;

/// Watches directories as told. Where inotify cannot, nothing is told, and the caller's slow look is all there is; it is tried
/// again each time.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// What is watched: each path with the inode it had, since inotify follows the inode and not the path.
    paths: BTreeSet<(PathBuf, Option<NetnsId>)>,
    changed: Arc<Notify>,
    /// How often the caller looks without being told.
    interval: Duration,
    /// The log says that something is not watched.
    warned: bool,
}

impl Watch {
    /// For a caller that looks every `interval` in any case.
    pub(super) fn new(interval: Duration) -> Self {
        Self { watcher: None, paths: BTreeSet::new(), changed: Arc::new(Notify::new()), interval, warned: false }
    }

    /// Watches `paths`, and nothing else from now on. A directory that has been replaced is watched
    /// anew. What is watched for the first time counts as changed: it may have, just before.
    pub(super) fn set(&mut self, paths: BTreeSet<PathBuf>) {
        match self.try_set(paths) {
            Ok(()) if self.warned => {
                tracing::info!("changes of registered containers are noticed immediately again");
                self.warned = false;
            }
            Err(reason) if !self.warned => {
                tracing::warn!(
                    "changes of registered containers are noticed only every {} s instead of immediately: {reason}",
                    self.interval.as_secs_f32()
                );
                self.warned = true;
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// # Errors
    /// What is not watched, why, and what to do about it.
    fn try_set(&mut self, paths: BTreeSet<PathBuf>) -> Result<(), String> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => none.insert(watcher(&self.changed)?),
        };
        let wanted: BTreeSet<_> = paths.into_iter().map(|path| (path.clone(), NetnsId::at(&path).ok())).collect();
        for (path, _) in self.paths.difference(&wanted) {
            let _ = watcher.unwatch(path); // it may have gone with its directory
        }
        let (mut watched, mut result) = (BTreeSet::new(), Ok(()));
        for path in wanted {
            if self.paths.contains(&path) {
                watched.insert(path);
            } else if path.1.is_some() {
                match watcher.watch(&path.0, RecursiveMode::NonRecursive) {
                    Ok(()) => {
                        watched.insert(path);
                        self.changed.notify_one();
                    }
                    Err(error) => result = result.and_then(|()| unwatched(&path.0, &error)),
                }
            }
        }
        self.paths = watched;
        result
    }

    /// Returns when something has changed since the last call. One call may stand for many changes.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

fn watcher(changed: &Arc<Notify>) -> Result<RecommendedWatcher, String> {
    let notify = Arc::clone(changed);
    let handler = move |event: notify::Result<Event>| {
        if event.is_ok_and(|event| is_change(event.kind)) {
            notify.notify_one();
        }
    };
    // EMFILE means either of two limits (inotify_init(2)).
    RecommendedWatcher::new(handler, Config::default()).map_err(|error| {
        format!("inotify: {error}; raise the sysctl fs.inotify.max_user_instances, or the daemon's limit of open files")
    })
}

/// A directory that has vanished meanwhile is no matter.
fn unwatched(path: &Path, error: &notify::Error) -> Result<(), String> {
    match &error.kind {
        ErrorKind::PathNotFound => Ok(()),
        ErrorKind::Io(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        ErrorKind::MaxFilesWatch => {
            Err(format!("inotify cannot watch {path:?}; raise the sysctl fs.inotify.max_user_watches"))
        }
        _ => Err(format!("inotify cannot watch {path:?}: {error}")),
    }
}

/// Reading is no change, or every look at the directory would cause the next.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
