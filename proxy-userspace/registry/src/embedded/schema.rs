//! What the file looks like, and how an older one becomes a present one.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::database::transaction;
use crate::StoreError;
use portsplice_files::regular_file;

/// "pspr": what tells our files from those of others (PRAGMA application_id).
const APPLICATION: i32 = 0x7073_7072;

/// Size of the header of SQLite's files; the numbers that [`check`] reads in it are the schema's cookie (40), the user's version
/// (60) and the application (68). <https://www.sqlite.org/fileformat.html>
const HEADER: u64 = 100;

/// Commits are in the operating system's hands when they are acknowledged; the disk is waited for at checkpoints only.
pub(super) const SYNCHRONOUS: &str = "NORMAL";

/// Step `n` makes version `n + 1` out of version `n`. A step that was released never changes.
///
/// `revision` counts transactions. Each row has that of its last change and `gone` those of removals, so that a watcher
/// reads what is new since the revision that it knows. Removals up to `meta.forgotten` are not listed any more.
const MIGRATIONS: &[&str] = &["
    CREATE TABLE meta (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        revision INTEGER NOT NULL,
        forgotten INTEGER NOT NULL
    ) STRICT;
    INSERT INTO meta VALUES (1, 0, 0);

    -- ttl: seconds that it outlives its node's silence; NULL where the node itself writes here.
    CREATE TABLE records (
        uuid TEXT PRIMARY KEY,
        node TEXT NOT NULL,
        ttl INTEGER,
        revision INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX records_revision ON records (revision);
    CREATE INDEX records_node ON records (node);

    CREATE TABLE links (
        hostname TEXT PRIMARY KEY,
        request TEXT NOT NULL,
        port INTEGER NOT NULL,
        owner TEXT NOT NULL,
        revision INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX links_revision ON links (revision);

    CREATE TABLE gone (
        kind TEXT NOT NULL CHECK (kind IN ('record', 'link')),
        key TEXT NOT NULL,
        revision INTEGER NOT NULL,
        PRIMARY KEY (kind, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX gone_revision ON gone (revision);
"];

/// Opens the file and brings it to the present version. `busy` is how long other processes may hold it.
pub(super) fn open(path: &Path, busy: Duration) -> Result<Connection, StoreError> {
    let shown = path.display();
    make(path).map_err(|e| {
        StoreError::refused(format!("cannot create {shown}: {e}; choose another registry file")).because(e)
    })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags);
    let mut connection = opened.map_err(|e| {
        StoreError::refused(format!("cannot open {shown}: {e}; choose another registry file")).because(e)
    })?;
    prepare(&mut connection, busy).map_err(|error| error.of(shown))?;
    Ok(connection)
}

/// The file holds no secrets, but it is nobody's to write but our user's and group's.
fn make(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o750).create(directory)?;
    }
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o660).open(path).map(drop)
}

fn prepare(connection: &mut Connection, busy: Duration) -> Result<(), StoreError> {
    connection.busy_timeout(busy)?;
    // Before anything is changed, be it the journal's mode.
    version(&*connection.transaction()?)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        let text = format!("its file system allows the journal mode {mode} and not WAL; put it on a local disk");
        return Err(StoreError::refused(text));
    }
    connection.pragma_update(None, "synchronous", SYNCHRONOUS)?;
    if version(&*connection.transaction()?)? == MIGRATIONS.len() {
        return Ok(());
    }
    transaction(connection, |c| {
        // Another process may have been quicker.
        for step in &MIGRATIONS[version(c)?..] {
            c.execute_batch(step)?;
        }
        c.pragma_update(None, "application_id", APPLICATION)?;
        c.pragma_update(None, "user_version", MIGRATIONS.len() as i64)?;
        Ok(())
    })
}

/// The version of the file; 0 is an empty one. Within a transaction, since another process may make the file just now and
/// the answer is put together from several looks at it.
fn version(connection: &Connection) -> Result<usize, StoreError> {
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let is_empty = !connection.prepare("SELECT 1 FROM sqlite_schema")?.exists([])?;
    known_version(application, version, is_empty)
}

/// Whether [`open`] would take the file, as far as its header tells. SQLite is kept away from it: a database that is opened
/// gets files beside it, and locks that a daemon which uses it would meet; and nothing is migrated.
pub(super) fn check(path: &Path) -> Result<(), StoreError> {
    let shown = path.display();
    let refused = |says: &dyn std::fmt::Display| {
        StoreError::refused(format!("cannot read {shown}: {says}; choose another registry file"))
    };
    let file = regular_file::open(path).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidInput => refused(&"it is not a regular file"),
        _ => refused(&e).because(e),
    })?;
    let mut header = Vec::new();
    file.take(HEADER).read_to_end(&mut header).map_err(|e| refused(&e).because(e))?;
    let number = |at: usize| Some(i32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    // Before its first transaction a database is an empty file.
    let version = match (number(40), number(60), number(68)) {
        _ if header.is_empty() => Ok(0),
        (Some(schema), Some(version), Some(application)) if header.starts_with(b"SQLite format 3\0") => {
            known_version(application, version.into(), schema == 0)
        }
        _ => Err(StoreError::corrupt("the file is not a database; choose another registry file")),
    };
    version.map(drop).map_err(|error| error.of(shown))
}

/// Our version, by what SQLite's header holds for its user.
fn known_version(application: i32, version: i64, is_empty: bool) -> Result<usize, StoreError> {
    let known = MIGRATIONS.len();
    match usize::try_from(version) {
        Ok(0) if application == 0 && is_empty => Ok(0),
        Ok(version @ 1..) if application == APPLICATION && version <= known => Ok(version),
        Ok(version @ 1..) if application == APPLICATION => Err(StoreError::corrupt(format!(
            "the file has version {version}, this program supports versions up to {known}; run a newer program, or choose another registry file"
        ))),
        _ => Err(StoreError::corrupt("the file is the database of another program; choose another registry file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(folder).unwrap().flatten();
        let mut files: Vec<_> =
            entries.map(|e| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap())).collect();
        files.sort();
        files
    }

    #[test]
    fn checking_tells_what_opening_would_and_touches_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registry");
        assert!(check(&path).is_err(), "it is not there");
        fs::write(&path, "").unwrap();
        check(&path).unwrap();
        drop(open(&path, Duration::from_secs(1)).unwrap());
        let older = Connection::open(&path).unwrap();
        for (version, good) in [(1, true), (MIGRATIONS.len() as i64, true), (MIGRATIONS.len() as i64 + 1, false)] {
            older.pragma_update(None, "user_version", version).unwrap();
            older.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            let before = files(folder.path());
            assert_eq!(check(&path).is_ok(), good, "version {version}");
            assert!(files(folder.path()) == before, "the file was touched");
        }
        drop(older);
        assert!(open(&path, Duration::from_secs(1)).is_err(), "nor does opening take a newer one");
        fs::write(&path, "text").unwrap();
        assert!(check(&path).unwrap_err().to_string().contains("not a database"));
        assert!(check(folder.path()).unwrap_err().to_string().contains("not a regular file"));
    }
}
