//! The store for one host or a few: a SQLite file.
//!
//! Several processes of one host may have it open, such as a node that writes and an edge that reads. What is
//! acknowledged is in the file's log (WAL) and survives the end of the process, however it ends. After a loss of power the
//! file is whole, but the last reports before it may be missing, since the disk is not waited for: nodes report anew. Links
//! are made by people and are not made again, so for them the disk is waited for.
//!
//! A record is either its node's own, written by the node itself, or *leased*: reported through an edge, which removes it
//! when the node is silent. This store keeps what was asked for ([`Embedded::leases`]) and the edge the time.

mod changes;
mod database;
mod queries;
mod schema;

use std::path::Path;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use rusqlite::Connection;

use super::{Actor, Change, Directory, Hostname, Link, LinkError, Record, Reporter, StoreError, Update};
use database::Database;
pub use queries::{Lease, RetainOutcome};

/// The store.
#[derive(Clone, Debug)]
pub struct Embedded {
    database: Database,
    /// The node that reports here.
    node: String,
}

impl Embedded {
    /// Opens the file at `path`, which is made if it is missing, with its directory. `node` is the name of the node that
    /// reports through this; an edge, which reports for others, has none.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where the file is something else, or is of a newer version, which leaves it untouched;
    /// [`StoreError::Refused`] where it may not be used; each says what to do.
    pub fn open(path: &Path, node: &str) -> Result<Self, StoreError> {
        Ok(Self { database: Database::open(path)?, node: node.to_owned() })
    }

    /// Whether [`Embedded::open`] would take the file, as far as can be told without opening or changing it.
    ///
    /// # Errors
    /// When it would not.
    pub fn check(path: &Path) -> Result<(), StoreError> {
        schema::check(path)
    }

    /// Writes what `node` reports, under leases of `ttl` seconds. Then calls `written`, whether or not anybody still waits for
    /// this, and before anything else is written: so whoever keeps the times keeps them in the order of the file.
    ///
    /// # Errors
    /// See [`Reporter::report`].
    pub async fn report_leased(
        &self,
        node: &str,
        ttl: u32,
        changes: Vec<Change>,
        written: impl FnOnce() + Send + 'static,
    ) -> Result<(), StoreError> {
        let node = node.to_owned();
        self.write_then(move |c| queries::report(c, &node, Some(ttl), &changes), |()| written()).await
    }

    /// What a living node says of itself: `running` is all that it has reported. Leased records of it beside those are
    /// removed. `written` is called as in [`Self::report_leased`].
    ///
    /// # Errors
    /// When the file cannot be used now.
    pub async fn retain_leased(
        &self,
        node: &str,
        running: Vec<String>,
        written: impl FnOnce(&RetainOutcome) + Send + 'static,
    ) -> Result<RetainOutcome, StoreError> {
        let node = node.to_owned();
        self.write_then(move |c| queries::retain_leased(c, &node, &running), written).await
    }

    /// All leased records.
    ///
    /// # Errors
    /// When the file cannot be used now.
    pub async fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.database.call(|c| queries::leases(c)).await
    }

    /// Removes leased records whose time is over: those that `over` names. It is asked when nothing is being written, so that
    /// nothing is removed that was just renewed; `written` is called with them as in [`Self::report_leased`].
    ///
    /// # Errors
    /// When the file cannot be used now.
    pub async fn expire(
        &self,
        over: impl FnOnce() -> Vec<String> + Send + 'static,
        written: impl FnOnce(&[String]) + Send + 'static,
    ) -> Result<(), StoreError> {
        let expire = move |c: &Connection| {
            let uuids = over();
            queries::expire(c, &uuids).map(|()| uuids)
        };
        self.write_then(expire, |uuids: &Vec<String>| written(uuids)).await.map(drop)
    }

    async fn write<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.database.call(move |c| database::transaction(c, query)).await
    }

    /// As [`Self::write`], and calls `then` on the file's thread before the next call of the file.
    async fn write_then<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let write = move |c: &mut Connection| database::transaction(c, query).inspect(then);
        self.database.call(write).await
    }

    /// As [`Self::write`], and on the disk when it returns.
    async fn write_through<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, LinkError> + Send + 'static,
    ) -> Result<T, LinkError> {
        self.database.call(move |c| Ok(database::durable_transaction(c, query))).await?
    }
}

impl Reporter for Embedded {
    fn report<'a>(&'a self, changes: &'a [Change]) -> BoxFuture<'a, Result<(), StoreError>> {
        let (node, changes) = (self.node.clone(), changes.to_vec());
        Box::pin(self.write(move |c| queries::report(c, &node, None, &changes)))
    }

    fn retain<'a>(&'a self, node: &'a str, running: &'a [String]) -> BoxFuture<'a, Result<(), StoreError>> {
        let (node, running) = (node.to_owned(), running.to_vec());
        Box::pin(self.write(move |c| queries::retain(c, &node, &running)))
    }
}

impl Directory for Embedded {
    fn record<'a>(&'a self, uuid: &'a str) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        let uuid = uuid.to_owned();
        Box::pin(self.database.call(move |c| queries::record(c, &uuid)))
    }

    fn records(&self) -> BoxFuture<'_, Result<Vec<Record>, StoreError>> {
        Box::pin(self.database.call(|c| queries::records(c)))
    }

    fn link<'a>(&'a self, hostname: &'a Hostname) -> BoxFuture<'a, Result<Option<Link>, StoreError>> {
        let hostname = hostname.clone();
        Box::pin(self.database.call(move |c| queries::link(c, &hostname)))
    }

    fn links(&self) -> BoxFuture<'_, Result<Vec<Link>, StoreError>> {
        Box::pin(self.database.call(|c| queries::links(c)))
    }

    fn create_link<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Result<(), LinkError>> {
        let link = link.clone();
        Box::pin(self.write_through(move |c| queries::create_link(c, &link)))
    }

    fn delete_link<'a>(&'a self, hostname: &'a Hostname, actor: &'a Actor) -> BoxFuture<'a, Result<(), LinkError>> {
        let (hostname, actor) = (hostname.clone(), actor.clone());
        Box::pin(self.write_through(move |c| queries::delete_link(c, &hostname, &actor)))
    }

    fn watch(&self) -> BoxStream<'static, Update> {
        changes::watch(self.database.clone())
    }
}
