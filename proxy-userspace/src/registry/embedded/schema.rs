//! What the file looks like, and how an older one becomes a present one.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::database::transaction;
use crate::registry::StoreError;

/// "pspr": what tells our files from those of others (PRAGMA application_id).
const APPLICATION: i32 = 0x7073_7072;

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
    make(path).map_err(|e| StoreError::Refused(format!("cannot make {shown}: {e}; choose another registry file")))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags);
    let mut connection =
        opened.map_err(|e| StoreError::Refused(format!("cannot open {shown}: {e}; choose another registry file")))?;
    let in_file = |error: StoreError| match error {
        StoreError::Unavailable(e) => StoreError::Unavailable(format!("{shown}: {e}")),
        StoreError::Refused(e) => StoreError::Refused(format!("{shown}: {e}")),
        StoreError::Corrupt(e) => StoreError::Corrupt(format!("{shown}: {e}")),
    };
    prepare(&mut connection, busy).map_err(in_file)?;
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
        return Err(StoreError::Refused(text));
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
    let known = MIGRATIONS.len();
    match usize::try_from(version) {
        Ok(0) if application == 0 && is_empty => Ok(0),
        Ok(version @ 1..) if application == APPLICATION && version <= known => Ok(version),
        Ok(version @ 1..) if application == APPLICATION => Err(StoreError::Corrupt(format!(
            "the file is of version {version}, this program knows versions up to {known}; start the newer program, or choose another registry file"
        ))),
        _ => Err(StoreError::Corrupt("the file is another program's database; choose another registry file".into())),
    }
}
