//! The file in which is kept which credentials were used, so that a daemon that starts anew knows them still.
//!
//! A record is written before its credential is accepted, and the disk is not waited for: the file is to outlive the
//! process, however it ends, and not the machine. What it holds of an earlier boot counts for nothing.
//!
//! Records are appended. When all that an older part holds is out of the window, it is replaced by the one that was written
//! to, and a new one is begun: PATH is written to, PATH.before is the one before.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use portsplice_files::boot_id;
use portsplice_files::lock_file::lock;
use portsplice_files::regular_file;
use portsplice_files::replace_file::beside;

use crate::{Keeper, NonceKey, Used};

/// What the file begins with. The number changes with what a record holds, the function that hashes nonces included.
const MAGIC: &[u8; 16] = b"portsplice-used2";
/// [`MAGIC`], the machine's boot, the key that nonces are hashed with, the window in seconds, and eight zeros.
const HEADER: usize = 64;
/// The credential's second and its nonce's hash, both with the lowest byte first.
const RECORD: usize = 16;

/// The file, open for writing.
pub struct UsedFile {
    path: PathBuf,
    header: [u8; HEADER],
    /// In seconds.
    window: u64,
    /// Most records of a part.
    most: u64,
    /// None once it could not be written.
    part: ArcSwapOption<Part>,
    turning: Mutex<()>,
    _lock: File,
}

impl fmt::Debug for UsedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UsedFile").field("path", &self.path).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Part {
    file: File,
    /// Unix seconds.
    begun: u64,
    records: AtomicU64,
}

/// What was kept.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    /// All that was used and is in the window still.
    All(Vec<Used>),
    /// There was no file, or one of an earlier boot.
    Nothing,
    /// There was one that cannot be believed: why.
    Lost(String),
}

impl UsedFile {
    /// Opens or makes the file, for at most `most` records within twice the `window`, and tells what is in it.
    ///
    /// # Errors
    /// When it cannot be had; the text says why.
    pub fn open(path: &Path, window: Duration, most: usize, now_unix: u64) -> io::Result<(Self, Known)> {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let lock = lock(path).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => io::Error::new(error.kind(), "another daemon is using it; give each its own"),
            _ => error,
        })?;
        let boot = boot()?;
        let (window, most) = (window.as_secs(), most as u64);
        let (key, known) = match read_all(path, &boot, window, most) {
            Ok(Some((key, mut used))) => {
                used.retain(|used| used.time.saturating_add(window) >= now_unix);
                (Some(key), Known::All(used))
            }
            Ok(None) => (None, Known::Nothing),
            Err(error) => (None, Known::Lost(error.to_string())),
        };
        if key.is_none() {
            remove(path)?;
        }
        let key = key.unwrap_or_else(rand::random);
        let mut header = [0; HEADER];
        header[..16].copy_from_slice(MAGIC);
        header[16..32].copy_from_slice(&boot);
        header[32..48].copy_from_slice(&key);
        header[48..56].copy_from_slice(&window.to_le_bytes());
        let part = Part::open(path, &header, now_unix)?;
        let part = ArcSwapOption::from_pointee(part);
        Ok((Self { path: path.to_owned(), header, window, most, part, turning: Mutex::default(), _lock: lock }, known))
    }

    /// What nonces are hashed with.
    pub fn key(&self) -> NonceKey {
        let mut key = [0; 16];
        key.copy_from_slice(&self.header[32..48]);
        key
    }

    fn try_keep(&self, used: Used, now_unix: u64) -> io::Result<()> {
        let Some(part) = &*self.part.load() else { return Ok(()) };
        // All that is in the part before this one was in the window when this one was begun, or was to come into it.
        if now_unix > part.begun.saturating_add(2 * self.window)
            && let Some(_turning) = self.turning.try_lock()
        {
            self.turn(part, now_unix)?;
        }
        let Some(part) = &*self.part.load() else { return Ok(()) };
        if part.records.fetch_add(1, Relaxed) >= self.most {
            let text =
                format!("more than {} credentials within twice `auth.window`; raise `auth.replay-entries`", self.most);
            return Err(io::Error::new(ErrorKind::StorageFull, text));
        }
        let mut record = [0; RECORD];
        record[..8].copy_from_slice(&used.time.to_le_bytes());
        record[8..].copy_from_slice(&used.hash.to_le_bytes());
        // One system call, so that those of several threads do not mix.
        match (&part.file).write(&record)? {
            RECORD => Ok(()),
            _ => Err(ErrorKind::WriteZero.into()),
        }
    }

    /// Begins a new part in place of `old`, unless somebody has just done so.
    fn turn(&self, old: &Arc<Part>, now_unix: u64) -> io::Result<()> {
        if !self.part.load().as_ref().is_some_and(|part| Arc::ptr_eq(part, old)) {
            return Ok(());
        }
        fs::rename(&self.path, before(&self.path))?;
        self.part.store(Some(Arc::new(Part::open(&self.path, &self.header, now_unix)?)));
        Ok(())
    }
}

impl Keeper for UsedFile {
    fn keep(&self, used: Used, now_unix: u64) {
        let Err(error) = self.try_keep(used, now_unix) else { return };
        // A file with a gap would be believed, and so would one that is begun just now.
        let _turning = self.turning.lock();
        let was = self.part.swap(None);
        let removed = remove(&self.path);
        if was.is_some() {
            tracing::error!(
                removed = removed.is_ok(),
                "cannot record used credentials in {} any more: {error}; after the next start, credentials signed before it are refused",
                self.path.display()
            );
        }
    }
}

impl Part {
    /// Opens the part for appending, with the header if it is new.
    fn open(path: &Path, header: &[u8; HEADER], now_unix: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut file = options.open(path)?;
        let length = file.metadata()?.len();
        if length == 0 {
            file.write_all(header)?;
        } else {
            // The process may have ended in the middle of a record, which was not accepted then.
            file.set_len(length - length % RECORD as u64)?;
        }
        let records = length.saturating_sub(HEADER as u64) / RECORD as u64;
        // One that was begun earlier serves for longer, which does no harm.
        Ok(Self { file, begun: now_unix, records: records.into() })
    }
}

fn before(path: &Path) -> PathBuf {
    beside(path, ".before")
}

fn remove(path: &Path) -> io::Result<()> {
    for path in [path, &before(path)] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Both parts together; none if there is nothing of this boot.
fn read_all(path: &Path, boot: &[u8; 16], window: u64, most: u64) -> io::Result<Option<(NonceKey, Vec<Used>)>> {
    let mut all: Option<(NonceKey, Vec<Used>)> = None;
    for path in [before(path), path.to_owned()] {
        match (read(&path, boot, window, most)?, &mut all) {
            (None, _) => {}
            (Some(part), None) => all = Some(part),
            (Some((key, part)), Some((same, all))) if key == *same => all.extend(part),
            (Some(_), Some(_)) => return Err(broken("its two parts do not match")),
        }
    }
    Ok(all)
}

fn read(path: &Path, boot: &[u8; 16], window: u64, most: u64) -> io::Result<Option<(NonceKey, Vec<Used>)>> {
    let options = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match options {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.mode() & 0o022 != 0 {
        return Err(broken("it is writable by others than its owner, or is not a regular file"));
    }
    let content = regular_file::read_opened(&file, HEADER as u64 + (most + 1) * RECORD as u64)?;
    if content.is_empty() {
        return Ok(None);
    }
    let (header, records) = content.split_at_checked(HEADER).ok_or_else(|| broken("it is truncated"))?;
    if header[..16] != MAGIC[..] {
        return Err(broken("it has another format"));
    }
    if header[16..32] != boot[..] {
        // Nothing is to be appended to it either.
        fs::remove_file(path)?;
        return Ok(None);
    }
    let mut key = [0; 16];
    key.copy_from_slice(&header[32..48]);
    let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    if number(&header[48..56]) < window {
        return Err(broken("it was written with a shorter `auth.window`"));
    }
    let used = records.chunks_exact(RECORD).map(|r| Used { time: number(&r[..8]), hash: number(&r[8..]) });
    Ok(Some((key, used.collect())))
}

fn broken(text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

/// This run of the machine.
fn boot() -> io::Result<[u8; 16]> {
    let digits = boot_id()?.replace('-', "");
    let mut boot = [0; 16];
    hex::decode_to_slice(digits, &mut boot).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    Ok(boot)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn open(path: &Path) -> (UsedFile, Known) {
        UsedFile::open(path, WINDOW, 4, 1000).unwrap()
    }

    fn used(time: u64, hash: u64) -> Used {
        Used { time, hash }
    }

    #[test]
    fn what_was_used_is_known_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made").join("used");
        let (file, known) = open(&path);
        assert_eq!(known, Known::Nothing);
        file.keep(used(1000, u64::MAX), 1000);
        file.keep(used(940, 7), 1000);
        file.keep(used(939, 9), 999);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = UsedFile::open(&path, WINDOW, 4, 1000).unwrap_err();
        assert!(error.to_string().contains("another daemon"), "{error}");
        let key = file.key();
        drop(file);
        // A process that is killed while it writes leaves half a record.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(&[1; 5]).unwrap();
        let (file, known) = open(&path);
        assert_eq!((known, file.key()), (Known::All(vec![used(1000, u64::MAX), used(940, 7)]), key));
        file.keep(used(1001, 8), 1001);
        drop(file);
        assert_eq!(open(&path).1, Known::All(vec![used(1000, u64::MAX), used(940, 7), used(1001, 8)]));
    }

    #[test]
    fn parts_that_are_out_of_the_window_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("used");
        let (file, _) = open(&path);
        file.keep(used(1060, 1), 1000);
        file.keep(used(1120, 2), 1120);
        file.keep(used(1121, 3), 1121);
        drop(file);
        let (file, known) = open(&path);
        assert_eq!(known, Known::All(vec![used(1060, 1), used(1120, 2), used(1121, 3)]));
        // Opened at 1000 by its own account.
        file.keep(used(1300, 4), 1300);
        drop(file);
        let (file, known) = open(&path);
        assert_eq!(known, Known::All(vec![used(1121, 3), used(1300, 4)]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "two parts and the lock");
        drop(file);
        // Killed between the two steps.
        fs::rename(&path, before(&path)).unwrap();
        assert_eq!(open(&path).1, Known::All(vec![used(1300, 4)]));
    }

    #[test]
    fn with_a_gap_it_would_be_believed_and_so_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("used");
        let (file, _) = open(&path);
        (0..6).for_each(|hash| file.keep(used(1000, hash), 1000));
        assert!(!path.exists(), "more than it may hold");
        drop(file);
        assert_eq!(open(&path).1, Known::Nothing);
        let (file, _) = open(&path);
        fs::remove_file(&path).unwrap();
        fs::create_dir(before(&path)).unwrap();
        file.keep(used(1300, 1), 1300);
        drop(file);
        fs::remove_dir(before(&path)).unwrap();
        assert_eq!(open(&path).1, Known::Nothing, "the parts could not be turned");
    }

    #[test]
    fn what_is_not_of_this_boot_or_not_its_own_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("used");
        drop(open(&path));
        let mut content = fs::read(&path).unwrap();
        content[20] ^= 1;
        fs::write(&path, &content).unwrap();
        assert_eq!(open(&path).1, Known::Nothing, "of another boot");
        assert_eq!(open(&path).1, Known::All(vec![]), "begun anew");
        let former = b"portsplice-used1".iter().chain(&content[MAGIC.len()..]).copied().collect::<Vec<_>>();
        let other = b"something else altogether, and long enough to be no header";
        for wrong in [&b"cut"[..], other, &former] {
            fs::write(&path, wrong).unwrap();
            assert!(matches!(open(&path).1, Known::Lost(_)), "{:?}", String::from_utf8_lossy(wrong));
            assert_eq!(open(&path).1, Known::All(vec![]), "begun anew");
        }
        let shorter = UsedFile::open(&path, WINDOW / 2, 4, 1000).unwrap().1;
        assert_eq!(shorter, Known::All(vec![]));
        assert!(matches!(UsedFile::open(&path, 2 * WINDOW, 4, 1000).unwrap().1, Known::Lost(_)));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(open(&path).1, Known::Lost(_)), "anybody could have written it");
        assert!(UsedFile::open(Path::new("/proc/no/used"), WINDOW, 4, 1000).is_err());
    }
}
