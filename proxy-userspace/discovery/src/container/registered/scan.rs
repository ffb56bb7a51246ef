//! Compares the directory's files with the containers they stand for.
//!
//! # Why a reused pid leads nowhere
//! A process is taken only while its file is trusted to mean it. While the daemon runs, a pidfd watches the process, and
//! once it has ended the file is spent until it is written anew. When the daemon starts it may find a file whose process
//! ended long ago and whose pid now belongs to another. But that one started after the file was written, which the
//! file's time of modification shows: a process that is younger than its file is refused. A runtime that cannot keep the
//! times in order, since it copies files or sets the clock, writes the process's start time into the file.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;
use zeroize::Zeroizing;

use super::description::{Description, Target};
use super::presence::Survey;
use super::resolved_target::{Failure, PidCheck, ResolvedTarget, Running, watch};
use super::{MetadataExt as _, writable_by_all};
use crate::container::HostNetworkRule;
use crate::container::cache::Cache;
use crate::container::process::{after_boot, uptime};
use portsplice_files::regular_file;

/// The largest file that is read, in bytes.
const FILE: u64 = 64 * 1024;
pub(super) struct Scanner {
    directory: PathBuf,
    host_network: HostNetworkRule,
    cache: Arc<Cache>,
    files: HashMap<OsString, Known>,
    runtime: Handle,
}

/// A file as it was found the last time.
struct Known {
    version: Version,
    state: State,
}

/// Changes whenever the file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

enum State {
    /// Stands for a container that runs.
    Running(Running),
    /// Is fine, but what it names is not there or cannot be entered, for this reason.
    Waiting(Description, String),
    /// Cannot be used until it is written anew: it is wrong, or its process has ended.
    Spent,
}

/// The text of a file, which may have taken the place of the one that was looked at.
fn read(path: &Path) -> Result<Zeroizing<String>, String> {
    let file = regular_file::open(path).map_err(|e| e.to_string())?;
    if writable_by_all(&file.metadata().map_err(|e| e.to_string())?) {
        return Err(format!("may be written by anyone: chmod o-w {path:?}"));
    }
    regular_file::read_opened(&file, FILE).and_then(|text| regular_file::text_of(&text)).map_err(|e| e.to_string())
}

impl Scanner {
    /// Must be called within a runtime, in which the processes are watched.
    pub(super) fn new(directory: PathBuf, host_network: HostNetworkRule, cache: Arc<Cache>) -> Self {
        Self { directory, host_network, cache, files: HashMap::new(), runtime: Handle::current() }
    }

    /// Brings the cache in line with the directory. A file that is wrong is reported once in the log, and disturbs no
    /// other.
    ///
    /// # Errors
    /// The directory cannot be read; what was registered stays.
    pub(super) fn scan(&mut self) -> Result<(), String> {
        let found = self.read_directory().map_err(|e| format!("cannot read {:?}: {e}", self.directory))?;
        let vanished: Vec<_> = self.files.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
        for name in vanished {
            if let Some(Known { state: State::Running(running), .. }) = self.files.remove(&name) {
                self.end(&running, "its file was removed");
            }
        }
        let survey = Survey::default();
        for (name, metadata) in found {
            self.inspect(name, &metadata, &survey);
        }
        Ok(())
    }

    /// The directories in which a namespace may come, go or be replaced.
    pub(super) fn paths(&self) -> BTreeSet<PathBuf> {
        let descriptions = self.files.values().filter_map(|known| match &known.state {
            State::Running(Running { description, .. }) | State::Waiting(description, _) => Some(description),
            State::Spent => None,
        });
        descriptions
            .filter_map(|description| match &description.target {
                Target::Path(path) => path.parent().map(PathBuf::from),
                Target::Process { .. } => None,
            })
            .collect()
    }

    /// Whether a file waits for something that may come soon.
    pub(super) fn something_is_not_ready(&self) -> bool {
        self.files.values().any(|known| matches!(known.state, State::Waiting(..)))
    }

    fn read_directory(&self) -> io::Result<HashMap<OsString, Metadata>> {
        let mut found = HashMap::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let text = name.to_string_lossy();
            if !text.ends_with(".toml") || text.starts_with('.') {
                continue;
            }
            // Follows links. A file that vanished meanwhile is no longer there, that is all.
            if let Ok(metadata) = std::fs::metadata(self.directory.join(&name))
                && metadata.is_file()
            {
                found.insert(name, metadata);
            }
        }
        Ok(found)
    }

    fn inspect(&mut self, name: OsString, metadata: &Metadata, survey: &Survey) {
        let version = Version::of(metadata);
        let previous = self.files.remove(&name);
        let state = match previous {
            Some(known) if known.version == version => self.recheck(&name, known.state, metadata, survey),
            previous => {
                let running = match previous {
                    Some(Known { state: State::Running(running), .. }) => Some(running),
                    _ => None,
                };
                self.read(&name, metadata, running)
            }
        };
        self.files.insert(name, Known { version, state });
    }

    /// The file is what it was; what it names may not be.
    fn recheck(&self, name: &OsString, state: State, metadata: &Metadata, survey: &Survey) -> State {
        match state {
            State::Running(running) if running.container.is_gone() => State::Spent,
            State::Running(mut running) => match running.end_of_namespace(survey) {
                Some(why) => {
                    self.end(&running, why);
                    self.register(name, running.description, metadata, None, None)
                }
                None => State::Running(running),
            },
            State::Waiting(description, reason) => self.register(name, description, metadata, None, Some(reason)),
            State::Spent => State::Spent,
        }
    }

    /// The file is new, or was written anew over one that stood for `previous`.
    fn read(&self, name: &OsString, metadata: &Metadata, previous: Option<Running>) -> State {
        let path = self.directory.join(name);
        let text = read(&path);
        // An empty file is about to be written.
        let description = match text {
            Ok(text) if text.is_empty() => Err(None),
            Ok(text) => Description::parse(&path, &text).map_err(Some),
            Err(error) => Err(Some(error)),
        };
        match description {
            Ok(description) => self.register(name, description, metadata, previous, None),
            Err(error) => {
                if let Some(error) = error {
                    tracing::warn!(file = %path.display(), "ignoring invalid registration file: {error}");
                }
                if let Some(running) = previous {
                    self.end(&running, "its file is no longer valid");
                }
                State::Spent
            }
        }
    }

    /// `said`: why it did not work the last time, which needs no saying again.
    fn register(
        &self,
        name: &OsString,
        description: Description,
        metadata: &Metadata,
        previous: Option<Running>,
        said: Option<String>,
    ) -> State {
        let id = format!("registered/{}", name.to_string_lossy());
        let target = &description.target;
        let opened = ResolvedTarget::open(target, PidCheck::StartedBefore(metadata.modified().ok()));
        match opened.or_else(|failure| ResolvedTarget::hidden(target, previous.as_ref()).ok_or(failure)) {
            Ok(resolved) => {
                let started = resolved.started();
                let since = metadata.modified().map_or_else(|_| uptime(), after_boot);
                let (container, process) =
                    resolved.container(&id, &description, &self.host_network, previous.as_ref(), since);
                self.cache.insert(container.clone(), vec![description.name.clone()]);
                let hidden = previous.as_ref().is_some_and(|old| old.hidden && old.container.is_same_as(&container));
                if previous.is_none_or(|previous| !previous.container.is_same_as(&container)) {
                    tracing::info!(container = container.name, netns = %container.netns.id(), "container registered");
                    if let Some((process, _)) = process {
                        let (cache, ended) = (self.cache.clone(), container.clone());
                        watch(&self.runtime, process, container.clone(), move || cache.remove(&ended));
                    }
                }
                State::Running(Running { container, description, process: started, hidden })
            }
            Err(failure) => {
                if let Some(running) = previous {
                    self.end(&running, "its file was rewritten");
                }
                let file = self.directory.join(name);
                match failure {
                    Failure::NotYet(reason) => {
                        if said.as_ref() != Some(&reason) {
                            tracing::warn!(file = %file.display(), "cannot register this container yet: {reason}");
                        }
                        State::Waiting(description, reason)
                    }
                    Failure::Never(reason) => {
                        tracing::warn!(file = %file.display(), "ignoring invalid registration file: {reason}");
                        State::Spent
                    }
                }
            }
        }
    }

    fn end(&self, running: &Running, why: &str) {
        if !running.container.is_gone() {
            tracing::info!(container = running.container.name, "container gone: {why}");
        }
        self.cache.remove(&running.container);
    }
}
