//! What the cluster knows of containers and host names, and where it is kept.
//!
//! Two traits, and several stores behind them. A node writes the [`Record`]s of its containers through a [`Reporter`]; an
//! edge reads them, and the [`Link`]s from host names to their ports, in a [`Directory`]. A store implements what it can:
//! an edge's record API takes reports and has no directory. Nothing here is on the way of a byte: a store that is away, or
//! slow, delays updates and stops no connection.

pub mod api;
#[cfg(feature = "arvados")]
pub mod arvados;
pub mod embedded;
mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
mod pause;
pub mod publisher;
pub mod remote;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

pub use error::{LinkError, Reason, StoreError};
use portsplice_model::{Hostname, Link, Record};

/// Where a node writes what it knows of its containers.
///
/// Every method may be called at any time, also while the store is away: it fails within a bounded time then, with an
/// error that says whether trying again may help. Dropping a future is safe; what was asked for may then have happened.
pub trait Reporter: Send + Sync + std::fmt::Debug {
    /// Writes what this node reports. All of `changes` or, when it fails, any part of them: reports are whole records, so
    /// writing one again does no harm.
    ///
    /// A record is taken from whoever reports it last; a [`Change::Remove`] removes it only while it is this node's, so that
    /// a late report of the node that a container has left does not harm the record of the one that it has come to.
    fn report<'a>(&'a self, changes: &'a [Change]) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Removes the records of `node`, which is the one that reports here, except those of the uuids `running`: what it
    /// reported before it crashed, or before the store was away.
    fn retain<'a>(&'a self, node: &'a str, running: &'a [String]) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Takes back what this node has reported, at its end, within a bounded time. Nothing to do for a store whose records
    /// are to outlive their node.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    /// What is wrong with the store, as far as it is known without asking it; `None` is nothing.
    fn problem(&self) -> Option<String> {
        None
    }
}

/// Where records and links are looked up, and links are made.
///
/// As with a [`Reporter`], every method may be called at any time and fails within a bounded time, and dropping a future is
/// safe.
pub trait Directory: Send + Sync + std::fmt::Debug {
    /// The record of the container `uuid`.
    fn record<'a>(&'a self, uuid: &'a str) -> BoxFuture<'a, Result<Option<Record>, StoreError>>;

    /// All records, in the order of their uuids.
    fn records(&self) -> BoxFuture<'_, Result<Vec<Record>, StoreError>>;

    /// The link of a host name.
    fn link<'a>(&'a self, hostname: &'a Hostname) -> BoxFuture<'a, Result<Option<Link>, StoreError>>;

    /// All links, in the order of their host names.
    fn links(&self) -> BoxFuture<'_, Result<Vec<Link>, StoreError>>;

    /// Adds a link, unless the host name is taken: first come, first served.
    ///
    /// Adding the very link that is there already succeeds, so that an answer that was lost can be asked for again.
    fn create_link<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Result<(), LinkError>>;

    /// Removes a link, if `actor` may: its owner, or an administrator.
    fn delete_link<'a>(&'a self, hostname: &'a Hostname, actor: &'a Actor) -> BoxFuture<'a, Result<(), LinkError>>;

    /// Everything that is there now and then each change, until the stream is dropped. The stream outlives outages: after
    /// one it starts over with [`Update::Reset`].
    fn watch(&self) -> BoxStream<'static, Update>;
}

/// A store that is both.
pub trait Registry: Reporter + Directory {}

impl<T: Reporter + Directory> Registry for T {}

/// A [`Reporter`] that is shared.
pub type SharedReporter = Arc<dyn Reporter>;

/// A [`Registry`] that is shared.
pub type SharedRegistry = Arc<dyn Registry>;

/// What a node reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The container runs here, and this is what is known of it.
    Put(Box<Record>),
    /// The container of this uuid has gone from this node.
    Remove(String),
}

impl Change {
    /// The container that it is about.
    pub fn uuid(&self) -> &str {
        match self {
            Self::Put(record) => &record.uuid,
            Self::Remove(uuid) => uuid,
        }
    }
}

/// Changes of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Forget everything: what there is follows anew. Also the first of every watch.
    Reset,
    /// All that there was at the last [`Update::Reset`] has been told; changes follow.
    Current,
    /// A record is there, or is another now.
    Record(Box<Record>),
    /// The record of this uuid is gone.
    RecordGone(String),
    /// A link is there.
    Link(Link),
    /// The link of this host name is gone.
    LinkGone(Hostname),
}

/// Who asks for a link to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// A user, by the same name as [`Link::owner`].
    User(String),
    /// An administrator, who may remove any.
    Admin,
}

impl Actor {
    /// Whether this may remove `link`.
    pub fn may_delete(&self, link: &Link) -> bool {
        match self {
            Self::User(name) => *name == link.owner,
            Self::Admin => true,
        }
    }
}
