//! Which containers have ever accepted a connection: known beyond the daemon's restart, for as long as they may run.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use portsplice_files::regular_file;
use portsplice_files::replace_file::replace;

/// Containers that are remembered, the youngest; some 64 bytes each.
const REMEMBERED: usize = 16_384;

/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// A set of container ids, with a copy in a file.
#[derive(Debug, Default)]
pub(super) struct Accepted {
    path: Option<PathBuf>,
    ids: BTreeSet<String>,
    /// In the order in which they came.
    order: Vec<String>,
    unsaved: bool,
}

impl Accepted {
    /// Reads the file, if there is one. One that cannot be read is no reason not to start: what is lost is a warning to
    /// schedulers.
    pub(super) fn load(path: Option<PathBuf>) -> Self {
        let text = path.as_deref().map(|path| regular_file::read_text(path, MAX_FILE));
        let text = match text {
            Some(Ok(text)) => text.to_string(),
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(
                    ?path,
                    "cannot read `registry.accepted-file`, which containers have accepted connections: {error}"
                );
                String::new()
            }
            _ => String::new(),
        };
        let mut this = Self { path, ..Self::default() };
        for id in text.lines() {
            this.insert(id);
        }
        this.unsaved = false;
        this
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.ids.contains(id)
    }

    pub(super) fn insert(&mut self, id: &str) {
        if !self.ids.insert(id.to_owned()) {
            return;
        }
        self.order.push(id.to_owned());
        if self.order.len() > REMEMBERED {
            self.ids.remove(&self.order.remove(0));
        }
        self.unsaved = true;
    }

    /// Writes what has come since the last time.
    pub(super) fn save(&mut self) {
        let Some(path) = self.path.as_deref().filter(|_| self.unsaved) else { return };
        match replace(path, (self.order.join("\n") + "\n").as_bytes(), 0o640) {
            Ok(()) => self.unsaved = false,
            Err(error) => {
                tracing::warn!(
                    "cannot note in `registry.accepted-file` {} which containers have accepted connections: {error}",
                    path.display()
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_saved_is_known_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made/accepted");
        let mut accepted = Accepted::load(Some(path.clone()));
        for id in ["b", "a", "b"] {
            accepted.insert(id);
        }
        accepted.save();
        assert_eq!(fs::read_to_string(&path).unwrap(), "b\na\n");
        let again = Accepted::load(Some(path.clone()));
        assert!(again.contains("a") && again.contains("b") && !again.contains("c") && !again.unsaved);
        for n in 0..REMEMBERED {
            accepted.insert(&n.to_string());
        }
        assert!(!accepted.contains("a") && accepted.contains("0") && accepted.ids.len() == REMEMBERED);
        accepted.path = Some("/proc/no/such/file".into());
        accepted.save();
        assert!(accepted.unsaved, "tried again the next time");
    }
}
