//! Is told by the kernel (inotify) when something changes in the directories that matter.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use notify::event::{AccessKind, AccessMode};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use crate::netns::NetnsId;

/// Watches directories as told. Without inotify nothing is ever told, and the slow rescan is all
/// there is.
pub(super) struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// What is watched: each path with the inode it had, since inotify follows the inode and not the path.
    places: BTreeSet<(PathBuf, Option<NetnsId>)>,
    changed: Arc<Notify>,
}

impl Watch {
    pub(super) fn new() -> Self {
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        let handler = move |event: notify::Result<Event>| {
            if event.is_ok_and(|event| is_change(event.kind)) {
                notify.notify_one();
            }
        };
        let watcher = RecommendedWatcher::new(handler, Config::default())
            .inspect_err(|error| {
                tracing::warn!(%error, "cannot watch for registered containers: they are noticed within seconds only");
            })
            .ok();
        Self { watcher, places: BTreeSet::new(), changed }
    }

    /// Watches `paths`, and nothing else from now on. A directory that has been replaced is watched
    /// anew. What is watched for the first time counts as changed: it may have, just before.
    pub(super) fn set(&mut self, paths: BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<_> = paths.into_iter().map(|path| (path.clone(), NetnsId::at(&path).ok())).collect();
        for (path, _) in self.places.difference(&wanted) {
            let _ = watcher.unwatch(path); // it may have gone with its directory
        }
        let mut watched = BTreeSet::new();
        for place in wanted {
            if self.places.contains(&place) {
                watched.insert(place);
            } else if place.1.is_some() && watcher.watch(&place.0, RecursiveMode::NonRecursive).is_ok() {
                watched.insert(place);
                self.changed.notify_one();
            }
        }
        self.places = watched;
    }

    /// Returns when something has changed since the last call. One call may stand for many changes.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// Reading is no change, or every look at the directory would cause the next.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
