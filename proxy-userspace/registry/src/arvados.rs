//! The record as Arvados's API keeps it. docs/registry.md describes what is read and written there.
//!
//! Arvados knows its containers, requests and links itself, and more of them than a node does. A node adds where it reaches
//! a container; the rest of a record is read.

mod api;
mod model;
mod poll;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Actor, Change, Directory, Hostname, Link, LinkError, Record, Reporter, StoreError, Update};
pub use api::{Access, AccessError};
use api::{Api, Failed};
pub use model::User;
use model::{Container, ContainerRequest, PortLink, is_container, new_link, requests_of};
use report::Written;

/// How many containers one question names: what is in a request's target has to stay within what servers take.
const NAMED: usize = 100;
/// What a duplicate name looks like: the database's own words, which the API passes on.
const DUPLICATE: [&str; 2] = ["RecordNotUnique", "duplicate key value"];

/// A registry in Arvados.
#[derive(Debug)]
pub struct ArvadosRegistry {
    reader: Arc<Reader>,
    written: Written,
    /// Where this node is reached; `None` where nothing is reported.
    address: Option<String>,
}

impl ArvadosRegistry {
    /// A registry in the Arvados at `access`. A node reports under its `address`.
    ///
    /// # Errors
    /// Where a file that `access` names is wrong. Whether Arvados is there shows when it is used.
    pub fn new(access: &Access, address: Option<String>) -> Result<Self, AccessError> {
        let reader = Arc::new(Reader { api: Api::new(access)?, requests: Mutex::default() });
        Ok(Self { reader, written: Written::default(), address })
    }

    /// Whom the token belongs to.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn current_user(&self) -> Result<User, StoreError> {
        let select = ["uuid", "is_admin", "is_active"];
        self.reader.api.get("users/current", &select).await.map_err(|failed| failed.about("current user"))
    }

    fn address(&self) -> Result<&str, StoreError> {
        self.address.as_deref().ok_or_else(|| StoreError::refused("not running as a node"))
    }

    async fn create(&self, link: &Link) -> Result<(), LinkError> {
        let api = &self.reader.api;
        let created: Result<Value, Failed> = api.create("links", "link", new_link(link), &["uuid"]).await;
        let text = match created {
            Ok(_) => return Ok(()),
            Err(Failed::Unprocessable(text)) => text,
            Err(failed) => return Err(failed.about("link").into()),
        };
        match self.reader.port_link(&link.hostname).await?.map(|there| there.link()) {
            // Ours, whose answer was lost.
            Some(Some(there)) if there == *link => Ok(()),
            Some(_) => Err(LinkError::Taken(link.hostname.clone())),
            // Somebody's whose links we may not see.
            None if DUPLICATE.iter().any(|words| text.contains(words)) => Err(LinkError::Taken(link.hostname.clone())),
            None => Err(Failed::Unprocessable(text).about("link").into()),
        }
    }

    async fn delete(&self, hostname: &Hostname, actor: &Actor) -> Result<(), LinkError> {
        let missing = || LinkError::Missing(hostname.clone());
        let found = self.reader.port_link(hostname).await?.ok_or_else(missing)?;
        // One without a port leads nowhere; only an administrator removes what is not understood.
        let may = found.link().map_or(*actor == Actor::Admin, |link| actor.may_delete(&link));
        if !may {
            return Err(LinkError::NotYours(hostname.clone()));
        }
        // By its uuid: what somebody else has put under the name since stays.
        match self.reader.api.delete(&format!("links/{}", found.uuid)).await {
            Ok(()) => Ok(()),
            Err(Failed::NotFound) => Err(missing()),
            Err(failed) => Err(failed.about("link").into()),
        }
    }
}

/// The reading half, which polls share.
#[derive(Debug)]
struct Reader {
    api: Api,
    /// The request of each container that was seen, which does not change while it runs.
    requests: Mutex<BTreeMap<String, String>>,
}

impl Reader {
    async fn record(&self, uuid: &str) -> Result<Option<Record>, StoreError> {
        if !is_container(uuid) {
            return Ok(None);
        }
        let container: Container = match self.api.get(&format!("containers/{uuid}"), &Container::SELECT).await {
            Ok(container) => container,
            Err(Failed::NotFound) => return Ok(None),
            Err(failed) => return Err(failed.about(&format!("container {uuid}"))),
        };
        let request = self.requests(&[uuid]).await?.remove(uuid);
        Ok(container.record(request))
    }

    /// Those that run and that a node has reported.
    async fn records(&self) -> Result<Vec<Record>, StoreError> {
        let filters = [json!(["state", "=", "Running"]), json!(["gateway_address", "!=", ""])];
        let mut containers: Vec<Container> = self
            .api
            .list("containers", &filters, &Container::SELECT)
            .await
            .map_err(|failed| failed.about("a list of containers"))?;
        containers.sort_by(|a, b| a.uuid.cmp(&b.uuid));
        let uuids: Vec<&str> = containers.iter().map(|container| container.uuid.as_str()).collect();
        let mut requests = self.known_requests(&uuids).await?;
        let records = containers.into_iter().filter_map(|container| {
            let request = requests.remove(&container.uuid);
            container.record(request)
        });
        Ok(records.collect())
    }

    /// The requests of these containers, asked for only where they are new.
    async fn known_requests(&self, uuids: &[&str]) -> Result<BTreeMap<String, String>, StoreError> {
        let mut known = std::mem::take(&mut *self.requests.lock());
        known.retain(|uuid, _| uuids.binary_search(&uuid.as_str()).is_ok());
        let new: Vec<&str> = uuids.iter().filter(|uuid| !known.contains_key(**uuid)).copied().collect();
        for some in new.chunks(NAMED) {
            known.extend(self.requests(some).await?);
        }
        self.requests.lock().clone_from(&known);
        Ok(known)
    }

    async fn requests(&self, containers: &[&str]) -> Result<BTreeMap<String, String>, StoreError> {
        let filters = [json!(["container_uuid", "in", containers]), json!(["state", "=", "Committed"])];
        let found = self.api.list("container_requests", &filters, &ContainerRequest::SELECT).await;
        found.map(requests_of).map_err(|failed| failed.about("a list of container requests"))
    }

    async fn links(&self) -> Result<Vec<Link>, StoreError> {
        let found = self.api.list("links", &[PortLink::filter()], &PortLink::SELECT).await;
        let found: Vec<PortLink> = found.map_err(|failed| failed.about("a list of links"))?;
        let mut links: Vec<Link> = found.iter().filter_map(PortLink::link).collect();
        links.sort_by(|a, b| a.hostname.cmp(&b.hostname));
        Ok(links)
    }

    /// The link of this name, whatever else it says.
    async fn port_link(&self, hostname: &Hostname) -> Result<Option<PortLink>, StoreError> {
        let filters = [PortLink::filter(), json!(["name", "=", hostname])];
        let found: Result<Vec<PortLink>, Failed> = self.api.list("links", &filters, &PortLink::SELECT).await;
        Ok(found.map_err(|failed| failed.about("a list of links"))?.pop())
    }
}

impl Reporter for ArvadosRegistry {
    fn report<'a>(&'a self, changes: &'a [Change]) -> BoxFuture<'a, Result<(), StoreError>> {
        async move { self.written.report(&self.reader.api, self.address()?, changes).await }.boxed()
    }

    fn retain<'a>(&'a self, _: &'a str, running: &'a [String]) -> BoxFuture<'a, Result<(), StoreError>> {
        async move { self.written.retain(&self.reader.api, self.address()?, running).await }.boxed()
    }
}

impl Directory for ArvadosRegistry {
    fn record<'a>(&'a self, uuid: &'a str) -> BoxFuture<'a, Result<Option<Record>, StoreError>> {
        self.reader.record(uuid).boxed()
    }

    fn records(&self) -> BoxFuture<'_, Result<Vec<Record>, StoreError>> {
        self.reader.records().boxed()
    }

    fn link<'a>(&'a self, hostname: &'a Hostname) -> BoxFuture<'a, Result<Option<Link>, StoreError>> {
        async move { Ok(self.reader.port_link(hostname).await?.and_then(|found| found.link())) }.boxed()
    }

    fn links(&self) -> BoxFuture<'_, Result<Vec<Link>, StoreError>> {
        self.reader.links().boxed()
    }

    fn create_link<'a>(&'a self, link: &'a Link) -> BoxFuture<'a, Result<(), LinkError>> {
        self.create(link).boxed()
    }

    fn delete_link<'a>(&'a self, hostname: &'a Hostname, actor: &'a Actor) -> BoxFuture<'a, Result<(), LinkError>> {
        self.delete(hostname, actor).boxed()
    }

    fn watch(&self) -> BoxStream<'static, Update> {
        poll::follow(Arc::clone(&self.reader))
    }
}
