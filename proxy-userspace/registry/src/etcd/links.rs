//! Links: added by comparing with nothing, removed by comparing with what was read.

use etcd_client::{Client, Compare, CompareOp, KeyValue, Txn, TxnOp, TxnOpResponse};

use super::connection::{CALL, Connection};
use super::keys::{self, Keys};
use super::read;
use crate::{Actor, LinkError, StoreError};
use portsplice_model::{Hostname, Link};

/// How often a removal is tried against somebody who writes the same link in between.
const ATTEMPTS: usize = 3;

/// Adds `link`, unless its host name is taken.
///
/// # Errors
/// See [`LinkError`].
pub(super) async fn create(connection: &Connection, keys: &Keys, link: &Link) -> Result<(), LinkError> {
    let key = keys.link(&link.hostname);
    let value = serde_json::to_vec(link)
        .map_err(|e| StoreError::refused(format!("the link {}: {e}", link.hostname)).because(e))?;
    let transaction = || {
        Txn::new()
            .when([Compare::create_revision(key.as_str(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.as_str(), value.clone(), None)])
            .or_else([TxnOp::get(key.as_str(), None)])
    };
    let create = async |mut client: Client| client.txn(transaction()).await;
    let answer = connection.call(create).await.map_err(StoreError::from)?;
    if answer.succeeded() {
        return Ok(());
    }
    let there = answer.op_responses().into_iter().find_map(|response| match response {
        TxnOpResponse::Get(mut found) => found.take_kvs().pop(),
        _ => None,
    });
    match there.map(|kv| keys::link(link.hostname.as_str(), &kv)) {
        // Ours, whose answer was lost.
        Some(Ok(there)) if there == *link => Ok(()),
        _ => Err(LinkError::Taken(link.hostname.clone())),
    }
}

/// Removes the link `hostname`, if `actor` may.
///
/// # Errors
/// See [`LinkError`].
pub(super) async fn delete(
    connection: &Connection,
    keys: &Keys,
    hostname: &Hostname,
    actor: &Actor,
) -> Result<(), LinkError> {
    let key = keys.link(hostname);
    for _ in 0..ATTEMPTS {
        let found = read::one(connection, &key).await.map_err(StoreError::from)?;
        let found = found.ok_or_else(|| LinkError::Missing(hostname.clone()))?;
        if !may_delete(hostname, &found, actor)? {
            return Err(LinkError::NotYours(hostname.clone()));
        }
        // What is removed is what was looked at, and not what somebody else has put there since.
        let transaction = Txn::new()
            .when([Compare::mod_revision(key.as_str(), CompareOp::Equal, found.mod_revision())])
            .and_then([TxnOp::delete(key.as_str(), None)]);
        let delete = async |mut client: Client| client.txn(transaction).await;
        if connection.once(CALL, delete).await.map_err(StoreError::from)?.succeeded() {
            return Ok(());
        }
    }
    Err(StoreError::unavailable(format!("etcd: conflicting changes of the link {hostname}")).into())
}

/// What cannot be read belongs to nobody, so that only an administrator removes it.
fn may_delete(hostname: &Hostname, kv: &KeyValue, actor: &Actor) -> Result<bool, StoreError> {
    match keys::link(hostname.as_str(), kv) {
        Ok(link) => Ok(actor.may_delete(&link)),
        Err(_) if *actor == Actor::Admin => Ok(true),
        Err(error) => Err(error),
    }
}
