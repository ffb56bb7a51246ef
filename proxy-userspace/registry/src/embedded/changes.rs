//! Changes of the file, whichever process changes it.

use std::collections::VecDeque;

use futures_util::stream::{self, BoxStream};
use rusqlite::{Connection, params};
use tokio::time::sleep;

use super::database::Database;
use super::queries::{self, LINK};
use crate::{StoreError, Update};
use portsplice_net::backoff::Backoff;

/// A watcher between two updates.
struct Watcher {
    database: Database,
    versions: tokio::sync::watch::Receiver<(i64, u64)>,
    /// The revision up to which everything was told; `None` is nothing, or not for certain.
    sent_up_to: Option<i64>,
    updates: VecDeque<Update>,
}

pub(super) fn watch(database: Database) -> BoxStream<'static, Update> {
    let versions = database.versions();
    let watcher = Watcher { database, versions, sent_up_to: None, updates: VecDeque::new() };
    Box::pin(stream::unfold(watcher, |mut watcher| async move {
        let update = watcher.next().await;
        Some((update, watcher))
    }))
}

impl Watcher {
    async fn next(&mut self) -> Update {
        let mut backoff = Backoff::default();
        loop {
            if let Some(update) = self.updates.pop_front() {
                return update;
            }
            if self.sent_up_to.is_some() {
                // Its sender lives as long as the database that this holds.
                let _ = self.versions.changed().await;
            }
            // Before the file is read, so that a change meanwhile is not missed.
            self.versions.mark_unchanged();
            let sent_up_to = self.sent_up_to;
            match self.database.call(move |c| read(c, sent_up_to)).await {
                Ok((revision, updates)) => {
                    self.sent_up_to = Some(revision);
                    self.updates = updates.into();
                }
                Err(error) => {
                    tracing::warn!("cannot read registry changes, retrying: {error}");
                    self.sent_up_to = None;
                    sleep(backoff.pause()).await;
                }
            }
        }
    }
}

/// What is new since a revision, or everything; and the revision that this leads to.
fn read(connection: &mut Connection, since: Option<i64>) -> Result<(i64, Vec<Update>), StoreError> {
    // One transaction sees one state.
    let c = connection.transaction()?;
    let (revision, forgotten): (i64, i64) =
        c.query_row("SELECT revision, forgotten FROM meta", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    // A file that was put in place of another may be behind.
    let since = since.filter(|since| (forgotten..=revision).contains(since));
    let mut updates = Vec::new();
    if let Some(since) = since {
        gone(&c, since, &mut updates)?;
    } else {
        updates.push(Update::Reset);
    }
    let since_all = since.unwrap_or(-1);
    let mut query = c.prepare_cached("SELECT uuid, body FROM records WHERE revision > ? ORDER BY uuid")?;
    for row in query.query_map([since_all], queries::raw)? {
        updates.extend(legible(queries::read(row?)).map(|record| Update::Record(Box::new(record))));
    }
    let mut query = c.prepare_cached(&format!("SELECT {LINK} FROM links WHERE revision > ? ORDER BY hostname"))?;
    for row in query.query_map([since_all], queries::raw_link)? {
        updates.extend(legible(queries::read_link(row?)).map(Update::Link));
    }
    if since.is_none() {
        updates.push(Update::Current);
    }
    Ok((revision, updates))
}

fn gone(c: &Connection, since: i64, updates: &mut Vec<Update>) -> Result<(), StoreError> {
    let mut query = c.prepare_cached("SELECT kind, key FROM gone WHERE revision > ? ORDER BY revision")?;
    let rows = query.query_map(params![since], queries::raw)?;
    for row in rows {
        let (kind, key) = row?;
        match (kind.as_str(), key.parse()) {
            ("record", _) => updates.push(Update::RecordGone(key)),
            ("link", Ok(hostname)) => updates.push(Update::LinkGone(hostname)),
            _ => {}
        }
    }
    Ok(())
}

/// What cannot be understood is left out, so that it does not keep the rest from anybody.
fn legible<T>(read: Result<T, StoreError>) -> Option<T> {
    read.inspect_err(|error| tracing::warn!("skipping unreadable registry entry: {error}")).ok()
}
