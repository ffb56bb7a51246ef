//! The file that registrations outlive the daemon in.
//!
//! It is written whole each time (see [`portsplice_files::replace_file`]). It holds keys, so it is its owner's alone.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::registration::Registration;
use portsplice_files::boot_id;
use portsplice_files::regular_file;
use portsplice_files::replace_file::{beside, replace};
use portsplice_model::Timestamp;

/// The largest file that is read, in bytes: more than a node can have containers.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// The version of the file's form.
const VERSION: u32 = 1;

/// Where registrations are kept.
#[derive(Debug)]
pub(super) struct StateFile {
    path: PathBuf,
    boot: String,
}

/// A registration as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    /// With the start time of its process, whether or not it came with it.
    #[serde(flatten)]
    pub(super) registration: Registration,
    /// Device and inode of the namespace.
    pub(super) namespace: (u64, u64),
    pub(super) registered_at: Timestamp,
    /// Whether anybody ever connected.
    pub(super) used: bool,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    boot: String,
    containers: Vec<Row>,
}

impl StateFile {
    pub(super) fn at(path: PathBuf) -> Self {
        let boot = boot_id().unwrap_or_default();
        Self { path, boot }
    }

    /// What was kept; nothing if that was before the machine started. A file that cannot be used is put aside.
    pub(super) fn load(&self) -> Vec<Row> {
        match self.try_load() {
            Ok(rows) => rows,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let aside = beside(&self.path, ".broken");
                let kept = fs::rename(&self.path, &aside).is_ok();
                let aside = kept.then(|| aside.display().to_string());
                tracing::error!(
                    %error, path = %self.path.display(), aside,
                    "cannot read the saved registrations; the containers must be registered again"
                );
                Vec::new()
            }
        }
    }

    fn try_load(&self) -> io::Result<Vec<Row>> {
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let mut options = OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&self.path)?;
        let metadata = file.metadata()?;
        // Whoever can write it makes the daemon enter namespaces.
        if !metadata.is_file() || metadata.mode() & 0o022 != 0 {
            return Err(wrong("it is writable by others than its owner, or is not a regular file".to_owned()));
        }
        let text = regular_file::text_of(&regular_file::read_opened(&file, MAX_FILE)?)?;
        let document: Document = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if document.version != VERSION {
            return Err(wrong(format!("it has version {} and not {VERSION}", document.version)));
        }
        Ok(if document.boot == self.boot { document.containers } else { Vec::new() })
    }

    /// Keeps `rows` and nothing else.
    ///
    /// # Errors
    /// What could not be done; what was kept before is still there then.
    pub(super) fn save(&self, rows: Vec<Row>) -> io::Result<()> {
        let document = Document { version: VERSION, boot: self.boot.clone(), containers: rows };
        let text = Zeroizing::new(serde_json::to_vec(&document).map_err(io::Error::other)?);
        let written = replace(&self.path, &text, 0o600);
        written.map_err(|error| io::Error::new(error.kind(), format!("cannot write {}: {error}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn row() -> Row {
        let registration = json!({ "name": "web", "pid": 7, "start_time": 9, "key": "a".repeat(64) });
        let registration = serde_json::from_value(registration).unwrap();
        Row { registration, namespace: (4, 5), registered_at: Timestamp::now(), used: true }
    }

    #[test]
    fn what_is_kept_comes_back_and_is_its_owners_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made").join("registered.json");
        let state_file = StateFile::at(path.clone());
        assert_eq!(state_file.load(), []);
        state_file.save(vec![row()]).unwrap();
        state_file.save(vec![row(), row()]).unwrap();
        assert_eq!(state_file.load().len(), 2);
        assert_eq!(state_file.load()[0].registration, row().registration);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing stays beside it");

        let after_a_reboot = StateFile { path, boot: "another".into() };
        assert_eq!(after_a_reboot.load(), []);
    }

    #[test]
    fn what_cannot_be_used_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registered.json");
        let state_file = StateFile::at(path.clone());
        for text in ["", "{", "{\"version\":2,\"boot\":\"\",\"containers\":[]}"] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert_eq!(state_file.load(), []);
            assert_eq!(fs::read_to_string(dir.path().join("registered.json.broken")).unwrap(), text);
        }
        state_file.save(vec![row()]).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o620)).unwrap();
        assert_eq!(state_file.load(), [], "anyone of the group could have written it");
    }

    #[test]
    fn a_directory_that_cannot_be_is_told() {
        let state_file = StateFile::at("/proc/nowhere/registered.json".into());
        let error = state_file.save(Vec::new()).unwrap_err().to_string();
        assert!(error.contains("cannot write /proc/nowhere/registered.json"), "{error}");
    }
}
