//! Reading what is there, a page at a time and all of one revision.

use etcd_client::{Client, Error, GetOptions, GetResponse, KeyValue, ResponseHeader};

use super::connection::Connection;
use super::fault::Fault;

/// How many keys a page has at first. Until 3.5 etcd looks through all keys behind a page's first for each page, so that many
/// small pages take the square of the time.
const PAGE: i64 = 5000;
/// How large an answer may be, in bytes. One that is larger is asked for in smaller pages: a value can have 1.5 MiB, and nobody
/// who may write records is to keep them from being read.
pub(super) const ANSWER: usize = 64 * 1024 * 1024;
/// How often it is started over when etcd compacts what is being read.
const ATTEMPTS: usize = 3;

/// A moment in etcd's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClusterRevision {
    /// The cluster: another one has another history.
    pub(super) cluster: u64,
    /// Grows with each election. A cluster that was restored from a backup begins low again, with the history cut off.
    pub(super) term: u64,
    /// Grows with each change.
    pub(super) revision: i64,
}

impl ClusterRevision {
    /// That of an answer.
    pub(super) fn of(header: Option<&ResponseHeader>) -> Self {
        header.map_or(Self { cluster: 0, term: 0, revision: 0 }, |header| Self {
            cluster: header.cluster_id(),
            term: header.raft_term(),
            revision: header.revision(),
        })
    }

    /// Whether what `later` says can come after this.
    pub(super) fn precedes(&self, later: &Self) -> bool {
        self.cluster == later.cluster && self.term <= later.term
    }
}

/// Reads pages of what begins with `prefix`, all as of one revision.
#[derive(Debug)]
pub(super) struct Pages<'a> {
    connection: &'a Connection,
    end: Vec<u8>,
    next: Option<Vec<u8>>,
    limit: i64,
    /// When; once the first page is there.
    pub(super) point: Option<ClusterRevision>,
}

impl<'a> Pages<'a> {
    /// `prefix` ends with a slash.
    pub(super) fn new(connection: &'a Connection, prefix: &str) -> Self {
        Self { connection, end: end_of(prefix), next: Some(prefix.as_bytes().to_vec()), limit: PAGE, point: None }
    }

    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// [`Fault::Compacted`] if it took too long.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<KeyValue>>, Fault> {
        let Some(from) = &self.next else { return Ok(None) };
        let revision = self.point.map_or(0, |point| point.revision);
        let mut page = loop {
            let options = GetOptions::new().with_range(self.end.clone()).with_limit(self.limit).with_revision(revision);
            match self.connection.call(|client| get(client, from.clone(), options.clone())).await {
                Err(Fault::TooLarge) if self.limit > 1 => self.limit = (self.limit / 8).max(1),
                answer => break answer?,
            }
        };
        let more = page.more();
        self.point.get_or_insert_with(|| ClusterRevision::of(page.header()));
        let kvs = page.take_kvs();
        // The least key that comes after the last.
        self.next = kvs.last().filter(|_| more).map(|kv| [kv.key(), &[0]].concat());
        Ok(Some(kvs))
    }
}

/// All values below `prefix`, in the order of their keys.
///
/// # Errors
/// See [`Connection::call`].
pub(super) async fn all(connection: &Connection, prefix: &str) -> Result<Vec<KeyValue>, Fault> {
    let mut attempts = ATTEMPTS;
    loop {
        attempts -= 1;
        let mut pages = Pages::new(connection, prefix);
        let mut found = Vec::new();
        let failed = loop {
            match pages.next().await {
                Ok(Some(page)) => found.extend(page),
                Ok(None) => return Ok(found),
                Err(fault) => break fault,
            }
        };
        if !matches!(failed, Fault::Compacted) || attempts == 0 {
            return Err(failed);
        }
    }
}

/// The value of one key.
///
/// # Errors
/// See [`Connection::call`].
pub(super) async fn one(connection: &Connection, key: &str) -> Result<Option<KeyValue>, Fault> {
    let mut found = connection.call(|client| get(client, key.as_bytes().to_vec(), GetOptions::new())).await?;
    Ok(found.take_kvs().pop())
}

async fn get(client: Client, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, Error> {
    client.kv_client().max_decoding_message_size(ANSWER).get(key, Some(options)).await
}

/// The first key that no longer begins with `prefix`, which ends with a slash.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_name() {
        assert_eq!(end_of("/a/records/"), b"/a/records0");
    }

    #[test]
    fn another_cluster_and_a_restored_one_have_other_histories() {
        let point = |cluster, term| ClusterRevision { cluster, term, revision: 1 };
        assert!(point(1, 2).precedes(&point(1, 2)));
        assert!(point(1, 2).precedes(&point(1, 3)));
        assert!(!point(1, 2).precedes(&point(1, 1)));
        assert!(!point(1, 2).precedes(&point(2, 2)));
    }
}
