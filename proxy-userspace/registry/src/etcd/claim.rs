//! A node's claim to its name, which fences its writes.
//!
//! A request whose answer never came may still be on its way, and etcd may carry it out after a later one: an old report
//! would overwrite a newer, or bring back a record that was removed. So every transaction of a node is conditional on the
//! revision at which its claim was last written, and after each doubtful request the claim is written again: whatever was
//! sent before fails from then on.
//!
//! It also finds out a second node of the same name.

use etcd_client::{
    Client, Compare, CompareOp, KeyValue, LeaseTimeToLiveOptions, PutOptions, ResponseHeader, Txn, TxnOp,
};

use super::connection::{CALL, Connection};
use super::fault::Fault;
use super::keys::{self, Claim};
use crate::StoreError;

/// A claim that was written.
#[derive(Debug)]
pub(super) struct Claimed {
    /// When: what transactions compare with.
    pub(super) revision: i64,
    /// The lease that the one before hung on, if it was another: records may be left on it.
    pub(super) predecessor: Option<i64>,
}

/// What stands where a claim is to be written.
#[derive(Debug)]
pub(super) struct Found {
    /// 0 if nothing does.
    revision: i64,
    claim: Option<Claim>,
}

/// Looks whether `key` may be claimed by the daemon `instance` at `address`.
///
/// A claim of another instance gives way if it is of the same address: that is this node's daemon before it was started
/// again. But not if this one `held` the name before: then the other is the one that was started later.
///
/// # Errors
/// Where another node, or a newer daemon, has the name; else see [`Connection::once`].
pub(super) async fn look(connection: &Connection, key: &str, claim: &Claim, held: bool) -> Result<Found, Fault> {
    let found = connection.once(CALL, async |mut client: Client| client.get(key, None).await).await?;
    let found = found.kvs().first();
    let before = found.and_then(read);
    match &before {
        Some(other) if other.instance != claim.instance && other.address != claim.address => Err(taken(key, other)),
        Some(other) if other.instance != claim.instance && held => Err(superseded(key)),
        _ => Ok(Found { revision: found.map_or(0, KeyValue::mod_revision), claim: before }),
    }
}

/// Writes `claim` to `key`, on `lease`, over what was `found`.
///
/// # Errors
/// Where it is no longer what was found; else see [`Connection::once`].
pub(super) async fn write(
    connection: &Connection,
    key: &str,
    claim: &Claim,
    lease: i64,
    found: Found,
) -> Result<Claimed, Fault> {
    let value = serde_json::to_vec(claim)
        .map_err(|e| StoreError::refused(format!("the claim of this node: {e}")).because(e))?;
    let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
    let put = Txn::new().when([holds(key, found.revision)]).and_then([put]);
    let written = connection.once(CALL, async |mut client: Client| client.txn(put).await).await?;
    if !written.succeeded() {
        return Err(StoreError::unavailable(format!("{key:?} in etcd is held by another writer")).into());
    }
    let revision = written.header().map_or(0, ResponseHeader::revision);
    let predecessor = found.claim.and_then(|before| before.lease()).filter(|&before| before != lease);
    Ok(Claimed { revision, predecessor })
}

/// A claim that cannot be read claims nothing.
fn read(kv: &KeyValue) -> Option<Claim> {
    serde_json::from_slice(kv.value()).ok()
}

fn taken(key: &str, other: &Claim) -> Fault {
    let address = &other.address;
    let text = format!("the node at {address} uses the same name ({key:?} in etcd); give each its own `node.name`");
    StoreError::refused(text).into()
}

fn superseded(key: &str) -> Fault {
    let text = format!("a daemon that was started later reports for this node ({key:?} in etcd); stop one of the two");
    StoreError::refused(text).into()
}

/// The condition that a claim written at `revision` is the last.
pub(super) fn holds(key: &str, revision: i64) -> Compare {
    Compare::mod_revision(key, CompareOp::Equal, revision)
}

/// Removes `key` if it hangs on one of `leases`, and else leaves it alone.
pub(super) fn remove_ours(key: &str, leases: &[i64]) -> Option<TxnOp> {
    let (lease, others) = leases.split_first()?;
    let remove = Txn::new()
        .when([Compare::lease(key, CompareOp::Equal, *lease)])
        .and_then([TxnOp::delete(key, None)])
        .or_else(remove_ours(key, others).into_iter().collect::<Vec<_>>());
    Some(TxnOp::txn(remove))
}

/// The keys on `lease`; none if there is no such lease.
///
/// # Errors
/// See [`Connection::once`].
pub(super) async fn attached(connection: &Connection, lease: i64) -> Result<Vec<Vec<u8>>, Fault> {
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let asked = async |mut client: Client| client.lease_time_to_live(lease, Some(options)).await;
    match connection.once(CALL, asked).await {
        Ok(answer) => Ok(answer.keys().to_vec()),
        Err(Fault::LeaseGone) => Ok(Vec::new()),
        Err(fault) => Err(fault),
    }
}

/// The claim of the daemon `instance` at `address`.
pub(super) fn of(address: &str, instance: &str, lease: i64) -> Claim {
    Claim { address: address.to_owned(), instance: instance.to_owned(), lease: keys::lease_text(lease) }
}
