//! A file that is written whole each time, and is always whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Writes `contents` to a file beside `path`, which is synced and then takes its name, so that there is always one version
/// of it, and a whole one. Directories that are missing are made.
///
/// # Errors
/// What could not be done; what was there before is still there then.
pub fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let new = beside(path, ".new");
    write_synced(&new, contents, mode)?;
    fs::rename(&new, path)?;
    // The name is in the directory, which is synced by itself (fsync(2)).
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn write_synced(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    // What a crash has left may be anybody's idea of a file.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

/// The path with something behind its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
