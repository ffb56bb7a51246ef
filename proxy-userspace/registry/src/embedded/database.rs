//! The connection to the file, on a thread of its own: SQLite blocks, and the async threads must not.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::schema;
use crate::StoreError;

/// How long another process may hold the file's lock.
const BUSY: Duration = Duration::from_secs(5);
/// How long a call may take, waiting for others included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Calls that may wait; more are refused at once.
const WAITING: usize = 1024;
/// How often it is checked whether other processes have changed the file, while anybody wants to know.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The file's version for this process: of others' changes, and of its own.
type Version = (i64, u64);

/// An open file; closed with the last clone.
#[derive(Clone)]
pub(super) struct Database {
    jobs: SyncSender<Job>,
    versions: Arc<watch::Sender<Version>>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = schema::open(path, BUSY)?;
        let (jobs, queue) = sync_channel(WAITING);
        let versions = Arc::new(watch::Sender::new((0, 0)));
        let published = Arc::clone(&versions);
        let thread = std::thread::Builder::new().name("registry".to_owned());
        let spawned = thread.spawn(move || serve(connection, &queue, &published));
        spawned.map_err(|e| StoreError::unavailable(format!("cannot start a thread for the file: {e}")).because(e))?;
        Ok(Self { jobs, versions })
    }

    /// Runs `query` on the thread.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _ = answer.send(query(connection)); // nobody has to wait for it any more
        });
        self.jobs.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => {
                StoreError::unavailable(format!("{WAITING} calls are already waiting for the file"))
            }
            TrySendError::Disconnected(_) => StoreError::unavailable("its thread has died; restart the daemon"),
        })?;
        match timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(StoreError::unavailable("its thread has died; restart the daemon")),
            Err(_) => {
                Err(StoreError::unavailable(format!("no response from the file within {} s", PATIENCE.as_secs())))
            }
        }
    }

    /// Tells of each change of the file, by whatever process; some in one.
    pub(super) fn versions(&self) -> watch::Receiver<Version> {
        self.versions.subscribe()
    }
}

fn serve(mut connection: Connection, queue: &Receiver<Job>, versions: &watch::Sender<Version>) {
    loop {
        // Whoever begins to watch calls next, and so wakes this.
        let is_watched = versions.receiver_count() > 0;
        let job =
            if is_watched { queue.recv_timeout(CHECK_INTERVAL) } else { queue.recv().map_err(RecvTimeoutError::from) };
        match job {
            Ok(job) => job(&mut connection),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if versions.receiver_count() > 0 {
            check_version(&connection, versions);
        }
    }
}

fn check_version(connection: &Connection, versions: &watch::Sender<Version>) {
    // Of this connection's own commits data_version says nothing.
    let others = connection.pragma_query_value(None, "data_version", |row| row.get(0));
    // A file that cannot be read now is looked at again.
    let Ok(others) = others else { return };
    let version = (others, connection.total_changes());
    versions.send_if_modified(|published| std::mem::replace(published, version) != version);
}

/// Runs `query` in a transaction that holds the file's write lock from its beginning, so that what it reads still holds
/// when it writes.
pub(super) fn transaction<T, E: From<StoreError>>(
    connection: &mut Connection,
    query: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from)?;
    let value = query(&transaction)?;
    transaction.commit().map_err(StoreError::from)?;
    Ok(value)
}

/// As [`transaction`], and waits for the disk.
pub(super) fn durable_transaction<T, E: From<StoreError>>(
    connection: &mut Connection,
    query: impl FnOnce(&Connection) -> Result<T, E>,
) -> Result<T, E> {
    let synchronous =
        |connection: &Connection, how| connection.pragma_update(None, "synchronous", how).map_err(StoreError::from);
    synchronous(connection, "FULL")?;
    let done = transaction(connection, query);
    synchronous(connection, schema::SYNCHRONOUS)?;
    done
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        let this = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TypeMismatch) => Self::corrupt(text),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
                Self::refused(text)
            }
            Some(_) => Self::unavailable(text),
            None => Self::corrupt(text),
        };
        this.because(error)
    }
}
