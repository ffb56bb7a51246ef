//! What is asked of the file. Functions that write run inside a transaction.

use std::collections::HashSet;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::{Actor, Change, LinkError, StoreError};
use portsplice_model::{Hostname, Link, Record};

/// How many transactions back removals are listed; a watcher that is further behind reads everything again.
const REMEMBERED: i64 = 10_000;

/// What a leased record was promised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The container's UUID.
    pub uuid: String,
    /// The name of the node that reported it.
    pub node: String,
    /// How many seconds the record outlives its node's last heartbeat.
    pub ttl: u32,
}

/// How a living node's records stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RetainOutcome {
    /// Here, and this node's.
    pub held: Vec<String>,
    /// Not here: to be reported again.
    pub missing: Vec<String>,
    /// Reported by another node since.
    pub elsewhere: Vec<String>,
}

/// Takes the next revision for a transaction that changes something.
fn next_revision(c: &Connection) -> Result<i64, StoreError> {
    let next = c.query_row("UPDATE meta SET revision = revision + 1 RETURNING revision", [], |row| row.get(0))?;
    let forgotten = next - REMEMBERED;
    if forgotten > 0 && c.prepare_cached("DELETE FROM gone WHERE revision <= ?")?.execute([forgotten])? > 0 {
        c.execute("UPDATE meta SET forgotten = ?", [forgotten])?;
    }
    Ok(next)
}

pub(super) fn report(c: &Connection, node: &str, ttl: Option<u32>, changes: &[Change]) -> Result<(), StoreError> {
    let revision = next_revision(c)?;
    for change in changes {
        match change {
            Change::Put(record) => put(c, revision, ttl, record)?,
            Change::Remove(uuid) => {
                let removed = c.prepare_cached("DELETE FROM records WHERE uuid = ? AND node = ?")?;
                remember(c, revision, "record", uuid, removed, params![uuid, node])?;
            }
        }
    }
    Ok(())
}

fn put(c: &Connection, revision: i64, ttl: Option<u32>, record: &Record) -> Result<(), StoreError> {
    let body = serde_json::to_string(record).map_err(|e| StoreError::refused(format!("a record: {e}")).because(e))?;
    // One that is written again as it is concerns nobody who watches.
    c.prepare_cached(
        "INSERT INTO records (uuid, node, ttl, revision, body) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (uuid) DO UPDATE SET node = ?2, ttl = ?3, revision = ?4, body = ?5
         WHERE node <> ?2 OR ttl IS NOT ?3 OR body <> ?5",
    )?
    .execute(params![record.uuid, record.node, ttl, revision, body])?;
    c.prepare_cached("DELETE FROM gone WHERE kind = 'record' AND key = ?")?.execute([&record.uuid])?;
    Ok(())
}

/// Executes a removal, and lists it if there was anything to remove.
fn remember(
    c: &Connection,
    revision: i64,
    kind: &str,
    key: &str,
    mut removal: rusqlite::CachedStatement<'_>,
    params: impl rusqlite::Params,
) -> Result<(), StoreError> {
    if removal.execute(params)? > 0 {
        c.prepare_cached("INSERT OR REPLACE INTO gone VALUES (?, ?, ?)")?.execute(params![kind, key, revision])?;
    }
    Ok(())
}

fn remove(c: &Connection, uuids: &[String]) -> Result<(), StoreError> {
    if uuids.is_empty() {
        return Ok(());
    }
    let revision = next_revision(c)?;
    for uuid in uuids {
        let removal = c.prepare_cached("DELETE FROM records WHERE uuid = ?")?;
        remember(c, revision, "record", uuid, removal, [uuid])?;
    }
    Ok(())
}

/// The uuids of a node's records: `leased`, or written by itself.
fn uuids_of(c: &Connection, node: &str, leased: bool) -> Result<Vec<String>, StoreError> {
    let mut query = c.prepare_cached("SELECT uuid FROM records WHERE node = ? AND (ttl IS NOT NULL) = ?")?;
    let uuids = query.query_map(params![node, leased], |row| row.get(0))?;
    Ok(uuids.collect::<Result<_, _>>()?)
}

pub(super) fn retain(c: &Connection, node: &str, running: &[String]) -> Result<(), StoreError> {
    let running: HashSet<&str> = running.iter().map(String::as_str).collect();
    let mut stale = uuids_of(c, node, false)?;
    stale.retain(|uuid| !running.contains(uuid.as_str()));
    remove(c, &stale)
}

pub(super) fn retain_leased(c: &Connection, node: &str, running: &[String]) -> Result<RetainOutcome, StoreError> {
    let mut outcome = RetainOutcome::default();
    let mut stale: HashSet<String> = uuids_of(c, node, true)?.into_iter().collect();
    let mut exists = c.prepare_cached("SELECT 1 FROM records WHERE uuid = ?")?;
    for uuid in running.iter().collect::<HashSet<_>>() {
        let place = if stale.remove(uuid) {
            &mut outcome.held
        } else if exists.exists([uuid])? {
            &mut outcome.elsewhere
        } else {
            &mut outcome.missing
        };
        place.push(uuid.clone());
    }
    remove(c, &stale.into_iter().collect::<Vec<_>>())?;
    Ok(outcome)
}

pub(super) fn leases(c: &Connection) -> Result<Vec<Lease>, StoreError> {
    let mut query = c.prepare_cached("SELECT uuid, node, ttl FROM records WHERE ttl IS NOT NULL")?;
    let leases = query.query_map([], |row| Ok(Lease { uuid: row.get(0)?, node: row.get(1)?, ttl: row.get(2)? }))?;
    Ok(leases.collect::<Result<_, _>>()?)
}

pub(super) fn expire(c: &Connection, uuids: &[String]) -> Result<(), StoreError> {
    let mut leased = c.prepare_cached("SELECT 1 FROM records WHERE uuid = ? AND ttl IS NOT NULL")?;
    let mut stale = Vec::new();
    for uuid in uuids {
        if leased.exists([uuid])? {
            stale.push(uuid.clone());
        }
    }
    remove(c, &stale)
}

pub(super) fn record(c: &Connection, uuid: &str) -> Result<Option<Record>, StoreError> {
    let mut query = c.prepare_cached("SELECT uuid, body FROM records WHERE uuid = ?")?;
    query.query_row([uuid], raw).optional()?.map(read).transpose()
}

pub(super) fn records(c: &Connection) -> Result<Vec<Record>, StoreError> {
    let mut query = c.prepare_cached("SELECT uuid, body FROM records ORDER BY uuid")?;
    let rows = query.query_map([], raw)?;
    rows.map(|row| read(row?)).collect()
}

/// Uuid and body of a record.
pub(super) fn raw(row: &Row<'_>) -> rusqlite::Result<(String, String)> {
    Ok((row.get(0)?, row.get(1)?))
}

pub(super) fn read((uuid, body): (String, String)) -> Result<Record, StoreError> {
    serde_json::from_str(&body).map_err(|e| StoreError::corrupt(format!("the record of {uuid}: {e}")).because(e))
}

/// The columns of a link, for [`raw_link`].
pub(super) const LINK: &str = "hostname, request, port, owner";

/// A link whose host name is not judged yet.
pub(super) fn raw_link(row: &Row<'_>) -> rusqlite::Result<(String, String, u16, String)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

pub(super) fn read_link(row: (String, String, u16, String)) -> Result<Link, StoreError> {
    let (hostname, container_request_uuid, port, owner) = row;
    let hostname =
        hostname.parse().map_err(|e| StoreError::corrupt(format!("the link {hostname:?}: {e}")).because(e))?;
    Ok(Link { hostname, container_request_uuid, port, owner })
}

pub(super) fn link(c: &Connection, hostname: &Hostname) -> Result<Option<Link>, StoreError> {
    let mut query = c.prepare_cached(&format!("SELECT {LINK} FROM links WHERE hostname = ?"))?;
    query.query_row([hostname.as_str()], raw_link).optional()?.map(read_link).transpose()
}

pub(super) fn links(c: &Connection) -> Result<Vec<Link>, StoreError> {
    let mut query = c.prepare_cached(&format!("SELECT {LINK} FROM links ORDER BY hostname"))?;
    let rows = query.query_map([], raw_link)?;
    rows.map(|row| read_link(row?)).collect()
}

pub(super) fn create_link(c: &Connection, new: &Link) -> Result<(), LinkError> {
    if let Some(present) = link(c, &new.hostname)? {
        return if present == *new { Ok(()) } else { Err(LinkError::Taken(new.hostname.clone())) };
    }
    let add = || -> Result<(), StoreError> {
        let Link { hostname, container_request_uuid, port, owner } = new;
        let revision = next_revision(c)?;
        let values = params![hostname.as_str(), container_request_uuid, port, owner, revision];
        c.prepare_cached("INSERT INTO links VALUES (?, ?, ?, ?, ?)")?.execute(values)?;
        c.prepare_cached("DELETE FROM gone WHERE kind = 'link' AND key = ?")?.execute([hostname.as_str()])?;
        Ok(())
    };
    Ok(add()?)
}

pub(super) fn delete_link(c: &Connection, hostname: &Hostname, actor: &Actor) -> Result<(), LinkError> {
    let Some(present) = link(c, hostname)? else { return Err(LinkError::Missing(hostname.clone())) };
    if !actor.may_delete(&present) {
        return Err(LinkError::NotYours(hostname.clone()));
    }
    let remove = || -> Result<(), StoreError> {
        let removal = c.prepare_cached("DELETE FROM links WHERE hostname = ?")?;
        remember(c, next_revision(c)?, "link", hostname.as_str(), removal, [hostname.as_str()])
    };
    Ok(remove()?)
}
