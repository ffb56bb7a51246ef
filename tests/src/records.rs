//! What the file of an embedded registry holds, read without the daemon's code.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::{HANG, wait};

/// What a store's file holds: records by uuid.
#[track_caller]
#[must_use]
pub fn records(path: &Path) -> BTreeMap<String, Value> {
    let read = || -> rusqlite::Result<Vec<String>> {
        let file = rusqlite::Connection::open(path)?;
        file.busy_timeout(HANG)?;
        let mut query = file.prepare("SELECT body FROM records")?;
        query.query_map([], |row| row.get(0))?.collect()
    };
    // Between its making and its first schema the file holds nothing.
    let bodies = read().unwrap_or_default();
    let record = |body: String| {
        let record: Value = serde_json::from_str(&body).expect("JSON");
        (record["uuid"].as_str().expect("a uuid").to_owned(), record)
    };
    bodies.into_iter().map(record).collect()
}

/// Waits until the records of a file fit.
#[track_caller]
pub fn until(path: &Path, what: &str, fits: impl Fn(&BTreeMap<String, Value>) -> bool) -> BTreeMap<String, Value> {
    wait::until(what, || Some(records(path)).filter(|records| fits(records)))
}

/// Waits until a file holds records of exactly these containers.
#[track_caller]
pub fn until_uuids(path: &Path, uuids: &[&str]) {
    until(path, &format!("records of {uuids:?}"), |records| records.keys().eq(uuids));
}
