//! What a node writes: where a container's gateway is, and whether anybody was ever let in.
//!
//! The API has no other place for a report. What of a record is not written stays with the node.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::api::{Api, Failed};
use super::model::{Container, is_container};
use crate::{Change, StoreError};
use portsplice_model::Record;

/// What is read of a container before it is written.
const SELECT: [&str; 3] = ["uuid", "state", "gateway_address"];

/// What was written last, so that changes that have no place in the API cost no request.
#[derive(Debug, Default)]
pub(super) struct Written(Mutex<BTreeMap<String, Said>>);

/// What the API says of a container through us: the gateway's address, and whether a session has been started.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    address: String,
    accepted: bool,
}

impl Written {
    /// Writes `changes`, one after the other, until one fails.
    ///
    /// # Errors
    /// See [`StoreError`]; those before it are written.
    pub(super) async fn report(&self, api: &Api, address: &str, changes: &[Change]) -> Result<(), StoreError> {
        for change in changes.iter().filter(|change| is_container(change.uuid())) {
            match change {
                Change::Put(record) => self.put(api, record).await?,
                Change::Remove(uuid) => self.remove(api, address, uuid).await?,
            }
        }
        Ok(())
    }

    async fn put(&self, api: &Api, record: &Record) -> Result<(), StoreError> {
        let uuid = &record.uuid;
        let said = Said { address: record.address.clone(), accepted: record.accepted_any_connection };
        if self.0.lock().get(uuid) == Some(&said) {
            return Ok(());
        }
        let mut attributes = json!({ "gateway_address": said.address });
        if said.accepted {
            attributes["interactive_session_started"] = true.into();
        }
        match update(api, uuid, attributes).await {
            Ok(()) => {}
            Err(Failed::Unprocessable(text)) => return not_now(api, uuid, text).await,
            Err(failed) => return Err(failed.about(&format!("container {uuid}"))),
        }
        self.0.lock().insert(uuid.clone(), said);
        Ok(())
    }

    /// Takes the gateway back, if it is still this node's. A container that does not run has none anyway.
    async fn remove(&self, api: &Api, address: &str, uuid: &str) -> Result<(), StoreError> {
        self.0.lock().remove(uuid);
        let what = || format!("container {uuid}");
        let container: Container = match api.get(&path(uuid), &SELECT).await {
            Ok(container) => container,
            Err(Failed::NotFound) => return Ok(()),
            Err(failed) => return Err(failed.about(&what())),
        };
        if !container.is_running() || container.gateway_address.as_deref() != Some(address) {
            return Ok(());
        }
        match update(api, uuid, json!({ "gateway_address": "" })).await {
            // It has ended in between.
            Ok(()) | Err(Failed::NotFound | Failed::Unprocessable(_)) => Ok(()),
            Err(failed) => Err(failed.about(&what())),
        }
    }

    /// Takes the gateway of all containers back that have this `address` and are not `running`.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(super) async fn retain(&self, api: &Api, address: &str, running: &[String]) -> Result<(), StoreError> {
        // What another has written since is not known any more.
        self.0.lock().clear();
        let filters = [json!(["state", "=", "Running"]), json!(["gateway_address", "=", address])];
        let ours: Vec<Container> =
            api.list("containers", &filters, &SELECT).await.map_err(|failed| failed.about("a list of containers"))?;
        for container in ours.iter().filter(|container| !running.contains(&container.uuid)) {
            self.remove(api, address, &container.uuid).await?;
        }
        Ok(())
    }
}

async fn update(api: &Api, uuid: &str, attributes: Value) -> Result<(), Failed> {
    let _: Value = api.update(&path(uuid), "container", attributes, &["uuid"]).await?;
    Ok(())
}

/// Only a container that runs can be written. One that is about to run will be, and one that has ended need not.
async fn not_now(api: &Api, uuid: &str, text: String) -> Result<(), StoreError> {
    let container: Container =
        api.get(&path(uuid), &SELECT).await.map_err(|failed| failed.about(&format!("container {uuid}")))?;
    if container.is_waiting() {
        return Err(StoreError::unavailable(format!("Arvados: container {uuid} is not running yet")));
    }
    if !container.is_running() {
        return Ok(());
    }
    Err(Failed::Unprocessable(text).about(&format!("container {uuid}")))
}

fn path(uuid: &str) -> String {
    format!("containers/{uuid}")
}
