//! What a node wants etcd to say of its containers, and what of it etcd may not say yet.
//!
//! The truth about this node's containers is here, for as long as the daemon runs: etcd's copy can vanish with a lease at any
//! time. Every change is noted here before anything is sent, so that whatever becomes of a request, the next one says the
//! newest; and a uuid is due until etcd has confirmed just that.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Change, StoreError};

/// How many records one transaction carries. etcd's default limit is 128 operations (`--max-txn-ops`), nested ones counted
/// along their deepest path.
pub(super) const BATCH: usize = 100;
/// How many bytes of values one transaction carries. etcd's default limit is 1.5 MiB a request (`--max-request-bytes`).
const BATCH_BYTES: usize = 1024 * 1024;

/// What one node has to say.
#[derive(Debug, Default)]
pub(super) struct Desired {
    records: BTreeMap<String, Vec<u8>>,
    due: BTreeSet<String>,
    /// Those of `records` that etcd has taken, in this form or another.
    taken: BTreeSet<String>,
}

/// One record to be written or removed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Write<'a> {
    /// This is its value.
    Put(&'a str, &'a [u8]),
    /// It is to be gone.
    Remove(&'a str),
}

impl Desired {
    /// Takes note of what is reported.
    ///
    /// # Errors
    /// Where a record is too large for etcd; the others are noted all the same.
    pub(super) fn note(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut result = Ok(());
        for change in changes {
            match change {
                Change::Remove(uuid) => {
                    self.records.remove(uuid);
                    self.due.insert(uuid.clone());
                }
                Change::Put(record) => match serde_json::to_vec(record) {
                    Ok(value) if value.len() <= BATCH_BYTES => self.put(&record.uuid, value),
                    Ok(value) => {
                        let (uuid, size) = (&record.uuid, value.len());
                        result = Err(StoreError::refused(format!("the record of {uuid} is too large ({size} bytes)")));
                    }
                    Err(e) => {
                        result = Err(StoreError::refused(format!("the record of {}: {e}", record.uuid)).because(e))
                    }
                },
            }
        }
        result
    }

    fn put(&mut self, uuid: &str, value: Vec<u8>) {
        if self.records.get(uuid) != Some(&value) {
            self.records.insert(uuid.to_owned(), value);
            self.due.insert(uuid.to_owned());
        }
    }

    /// Only the containers `running` are this node's.
    pub(super) fn retain(&mut self, running: &BTreeSet<&str>) {
        let gone: Vec<String> = self.records.keys().filter(|uuid| !running.contains(uuid.as_str())).cloned().collect();
        for uuid in gone {
            self.records.remove(&uuid);
            self.due.insert(uuid);
        }
    }

    /// What to write next, at most `limit` records.
    pub(super) fn batch(&self, limit: usize) -> Vec<Write<'_>> {
        let mut bytes = 0;
        let writes = self.due.iter().map(|uuid| match self.records.get(uuid) {
            Some(value) => Write::Put(uuid, value),
            None => Write::Remove(uuid),
        });
        let fits = writes.take(limit.clamp(1, BATCH)).take_while(|write| {
            if let Write::Put(_, value) = write {
                bytes += value.len();
            }
            bytes <= BATCH_BYTES
        });
        fits.collect()
    }

    /// The first `count` records due, a whole [`Desired::batch`], are as they should be.
    pub(super) fn confirm(&mut self, count: usize) {
        for _ in 0..count {
            let Some(uuid) = self.due.pop_first() else { return };
            if self.records.contains_key(&uuid) {
                self.taken.insert(uuid);
            } else {
                self.taken.remove(&uuid);
            }
        }
    }

    /// Whether all of `changes` are as they should be.
    pub(super) fn is_confirmed(&self, changes: &[Change]) -> bool {
        changes.iter().all(|change| !self.due.contains(change.uuid()))
    }

    /// Whoever reported `changes` is told that they are refused, and does not think of them as reported: it will not say
    /// that such a container has gone.
    pub(super) fn refuse(&mut self, changes: &[Change]) {
        for uuid in changes.iter().map(Change::uuid) {
            if self.due.contains(uuid) && !self.taken.contains(uuid) {
                self.records.remove(uuid);
            }
        }
    }

    /// The first record due cannot be written. It is not heard of again until it changes.
    pub(super) fn give_up_first(&mut self) {
        if let Some(uuid) = self.due.pop_first() {
            tracing::warn!(container = uuid, "etcd rejects the record of this container as too large");
            self.records.remove(&uuid);
            self.taken.remove(&uuid);
        }
    }

    /// Whether anything is to be written.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Nothing is known of what etcd says.
    pub(super) fn doubt_all(&mut self) {
        self.due.extend(self.records.keys().cloned());
    }

    /// etcd has `stored` for this node, and no others. How many differ from what should be.
    pub(super) fn compare(&mut self, stored: &BTreeSet<&str>) -> usize {
        let missing = self.records.keys().filter(|uuid| !stored.contains(uuid.as_str()));
        let extra = stored.iter().filter(|uuid| !self.records.contains_key(**uuid));
        let differ: Vec<String> = missing.cloned().chain(extra.map(ToString::to_string)).collect();
        let count = differ.iter().filter(|uuid| !self.due.contains(*uuid)).count();
        self.due.extend(differ);
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portsplice_model::{Record, State};

    fn put(uuid: &str, label: usize) -> Change {
        Change::Put(Box::new(Record {
            uuid: uuid.into(),
            container_request_uuid: Some("x".repeat(label)),
            node: "n".into(),
            address: "a:1".into(),
            state: State::Running,
            service: false,
            published_ports: BTreeMap::new(),
            listening: Vec::new(),
            accepted_any_connection: false,
            connections: portsplice_model::ConnectionCounts::default(),
            last_activity: None,
        }))
    }

    fn batch(desired: &Desired) -> Vec<(String, bool)> {
        let shown = |write: &Write<'_>| match write {
            Write::Put(uuid, _) => ((*uuid).to_owned(), true),
            Write::Remove(uuid) => ((*uuid).to_owned(), false),
        };
        desired.batch(BATCH).iter().map(shown).collect()
    }

    #[test]
    fn the_newest_is_written_and_only_what_has_changed() {
        let mut desired = Desired::default();
        desired.note(&[put("a", 1), put("b", 1), put("a", 2)]).unwrap();
        assert_eq!(batch(&desired), [("a".into(), true), ("b".into(), true)]);
        desired.confirm(2);
        desired.note(&[put("a", 2), put("b", 2)]).unwrap();
        assert_eq!(batch(&desired), [("b".into(), true)]);
        desired.note(&[Change::Remove("b".into())]).unwrap();
        assert_eq!(batch(&desired), [("b".into(), false)]);
        desired.note(&[put("b", 3)]).unwrap();
        assert_eq!(batch(&desired), [("b".into(), true)]);
    }

    #[test]
    fn what_was_removed_stays_due_until_it_is_confirmed_and_never_comes_back() {
        let mut desired = Desired::default();
        desired.note(&[put("a", 1)]).unwrap();
        desired.confirm(1);
        desired.note(&[Change::Remove("a".into())]).unwrap();
        desired.doubt_all();
        assert_eq!(batch(&desired), [("a".into(), false)]);
        desired.confirm(1);
        desired.doubt_all();
        assert!(!desired.is_due());
    }

    #[test]
    fn after_doubt_all_is_written_again() {
        let mut desired = Desired::default();
        desired.note(&[put("a", 1), put("b", 1)]).unwrap();
        desired.confirm(2);
        desired.doubt_all();
        assert_eq!(batch(&desired), [("a".into(), true), ("b".into(), true)]);
    }

    #[test]
    fn a_comparison_finds_what_is_missing_and_what_is_too_much() {
        let mut desired = Desired::default();
        desired.note(&[put("a", 1), put("b", 1)]).unwrap();
        desired.confirm(2);
        assert_eq!(desired.compare(&BTreeSet::from(["a", "b"])), 0);
        assert_eq!(desired.compare(&BTreeSet::from(["b", "c"])), 2);
        assert_eq!(batch(&desired), [("a".into(), true), ("c".into(), false)]);
        desired.confirm(2);
        desired.retain(&BTreeSet::from(["a"]));
        assert_eq!(batch(&desired), [("b".into(), false)]);
    }

    #[test]
    fn what_is_refused_is_forgotten_unless_etcd_has_it_already() {
        let mut desired = Desired::default();
        desired.note(&[put("a", 1)]).unwrap();
        desired.confirm(1);
        let refused = [put("a", 2), put("b", 1)];
        desired.note(&refused).unwrap();
        assert!(!desired.is_confirmed(&refused));
        desired.refuse(&refused);
        assert_eq!(batch(&desired), [("a".into(), true), ("b".into(), false)]);
        desired.confirm(2);
        assert!(desired.is_confirmed(&refused));
        desired.doubt_all();
        assert_eq!(batch(&desired), [("a".into(), true)]);
    }

    #[test]
    fn a_transaction_is_bounded_in_records_and_bytes() {
        let mut desired = Desired::default();
        let many: Vec<Change> = (0..150).map(|i| put(&format!("{i:03}"), 1)).collect();
        desired.note(&many).unwrap();
        assert_eq!(desired.batch(BATCH).len(), BATCH);
        assert_eq!(desired.batch(7).len(), 7);
        desired.confirm(BATCH);
        assert_eq!(desired.batch(BATCH).len(), 50);
        desired.confirm(50);
        desired.note(&[put("a", 600_000), put("b", 600_000), put("c", 10)]).unwrap();
        assert_eq!(desired.batch(BATCH).len(), 1);
        let error = desired.note(&[put("d", 1_100_000), put("e", 1)]).unwrap_err();
        assert!(!error.is_transient());
        desired.confirm(1);
        assert_eq!(batch(&desired), [("b".into(), true), ("c".into(), true), ("e".into(), true)]);
    }
}
