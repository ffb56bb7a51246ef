//! The record in etcd, for clusters. docs/registry.md describes what stands there, who may write it, and what happens when
//! etcd is away.
//!
//! A node's records hang on one lease: they vanish by themselves when the node does. One task of the node writes them; links are written by whoever asks for it, by comparing and swapping.

mod claim;
mod connection;
mod desired;
mod fault;
mod keys;
mod lease;
mod links;
mod read;
mod watch;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Actor, Change, Directory, Hostname, Link, LinkError, Record, Reporter, StoreError, Update};
use connection::Connection;
pub use connection::{Access, AccessError};
use keys::Keys;
pub use writer::NodeIdentity;
use writer::{Command, Writer};

/// How long a report may take. Longer than a few attempts; what is not confirmed by then is tried again anyway.
const REPORT: Duration = Duration::from_secs(15);
/// How many reports may wait.
const ORDERS: usize = 64;

/// A registry in etcd.
#[derive(Debug)]
pub struct EtcdRegistry {
    access: Access,
    keys: Keys,
    connection: Arc<Connection>,
    /// The writer's ear; `None` where nothing is reported.
    commands: Option<mpsc::Sender<Command>>,
}

impl EtcdRegistry {
    /// A registry below `prefix`. With a `node` a task is started that writes for it; it ends with this.
    ///
    /// # Errors
    /// Where a file that `access` names is wrong. Whether etcd is there shows when it is used.
    pub fn new(access: Access, prefix: &str, node: Option<NodeIdentity>) -> Result<Self, AccessError> {
        access.check()?;
        let keys = Keys::new(prefix);
        let connection = Arc::new(Connection::new(access.clone()));
        let commands = node.map(|node| {
            let (commands, listening) = mpsc::channel(ORDERS);
            tokio::spawn(Writer::new(Arc::clone(&connection), keys.clone(), node).run(listening));
            commands
        });
        Ok(Self { access, keys, connection, commands })
    }

    /// Has the writer do something.
    async fn command(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> Command,
    ) -> Result<(), StoreError> {
        let commands = self.commands.as_ref().ok_or_else(|| StoreError::refused("not running as a node"))?;
        let ended = || StoreError::unavailable("etcd: this node has stopped reporting");
        let (done, answer) = oneshot::channel();
        let reported = async {
            commands.send(command(done)).await.map_err(|_| ended())?;
            answer.await.map_err(|_| ended())?
        };
        let late = |_| StoreError::unavailable("etcd does not respond; retrying the report");
        timeout(REPORT, reported).await.map_err(late)?
    }
}

impl Reporter for EtcdRegistry {
    fn report<'a>(&'a self, changes: &'a [Change]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.command(|done| Command::Report(changes.to_vec(), done)).boxed()
    }

    fn retain<'a>(&'a self, _: &'a str, running: &'a [String]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.command(|done| Command::Retain(running.to_vec(), done)).boxed()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        async move {
            let Some(commands) = &self.commands else { return };
            let (done, ended) = oneshot::channel();
            let close = async {
                if commands.send(Command::Close(done)).await.is_ok() {
                    let _ = ended.await;
                }
            };
            if timeout(REPORT, close).await.is_err() {
                tracing::warn!("etcd does not respond; the records of this node remain until its lease expires");
            }
        }
        .boxed()
    }
}

impl Directory for EtcdRegistry {
    fn record<'a>(&'a self, uuid: &'a str) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        async move {
            let found = read::one(&self.connection, &self.keys.record(uuid)).await?;
            found.map(|kv| keys::record(uuid, &kv)).transpose()
        }
        .boxed()
    }

    fn records(&self) -> BoxFuture<'_, Result<Vec<Record>, StoreError>> {
        async move {
            let found = read::all(&self.connection, &self.keys.records).await?;
            let records = found.iter().filter_map(|kv| match self.keys.read(kv.key()) {
                keys::Key::Record(uuid) => readable(keys::record(uuid, kv)),
                _ => None,
            });
            Ok(records.collect())
        }
        .boxed()
    }

    fn link<'a>(&'a self, hostname: &'a Hostname) -> BoxFuture<'a, Result<Option<Link>, StoreError>> {
        async move {
            let found = read::one(&self.connection, &self.keys.link(hostname)).await?;
            found.map(|kv| keys::link(hostname.as_str(), &kv)).transpose()
        }
        .boxed()
    }

    fn links(&self) -> BoxFuture<'_, Result<Vec<Link>, StoreError>> {
        async move {
            let found = read::all(&self.connection, &self.keys.links).await?;
            let links = found.iter().filter_map(|kv| match self.keys.read(kv.key()) {
                keys::Key::Link(hostname) => readable(keys::link(hostname, kv)),
                _ => None,
            });
            Ok(links.collect())
        }
        .boxed()
    }

    fn create_link<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Result<(), LinkError>> {
        links::create(&self.connection, &self.keys, link).boxed()
    }

    fn delete_link<'a>(&'a self, hostname: &'a Hostname, actor: &'a Actor) -> BoxFuture<'a, Result<(), LinkError>> {
        links::delete(&self.connection, &self.keys, hostname, actor).boxed()
    }

    fn watch(&self) -> BoxStream<'static, Update> {
        watch::follow(self.access.clone(), self.keys.clone())
    }
}

/// One value that cannot be read takes nothing from the others.
fn readable<T>(read: Result<T, StoreError>) -> Option<T> {
    read.inspect_err(|error| tracing::warn!(%error, "skipping unreadable registry entry")).ok()
}
