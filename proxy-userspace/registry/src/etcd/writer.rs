//! The one task of a node that writes to etcd: one request at a time, in the order of what was reported.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{PutOptions, Txn, TxnOp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::claim;
use super::connection::{CALL, Connection};
use super::desired::{BATCH, Desired, Write};
use super::fault::Fault;
use super::keys::{self, Key, Keys};
use super::lease::Lease;
use crate::{Change, StoreError};
use portsplice_net::backoff::jittered;

/// How soon a failed attempt is repeated, and how long at most that may take to come.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often etcd is asked whether it has what it should have, besides each time that there was reason to doubt.
const AUDIT: Duration = Duration::from_secs(60);
/// How long the end may take.
const END: Duration = Duration::from_secs(3);

/// Who reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The node's name, which no other has.
    pub name: String,
    /// Where it is reached.
    pub address: String,
    /// How long its records outlive it.
    pub ttl: Duration,
}

/// What the task is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Write this.
    Report(Vec<Change>, oneshot::Sender<Result<(), StoreError>>),
    /// Only these containers are here.
    Retain(Vec<String>, oneshot::Sender<Result<(), StoreError>>),
    /// Remove everything and end.
    Close(oneshot::Sender<()>),
}

/// The task's state.
#[derive(Debug)]
pub(super) struct Writer {
    connection: Arc<Connection>,
    keys: Keys,
    node: NodeIdentity,
    /// Tells this process from the one before.
    instance: String,
    desired: Desired,
    lease: Option<Lease>,
    /// Whether this process has ever had the claim.
    held: bool,
    /// The revision of the claim, if nothing that was sent since is in doubt.
    fence: Option<i64>,
    /// A lease of ours from before, on which records may be left.
    predecessor: Option<i64>,
    retry: Duration,
    retry_at: Option<Instant>,
    audit_at: Instant,
}

/// Who waits for an order to be carried out.
#[derive(Debug)]
struct Waiter {
    answer: oneshot::Sender<Result<(), StoreError>>,
    /// What was to be written; nothing if the order stands for all.
    changes: Option<Vec<Change>>,
    /// How it went until now.
    noted: Result<(), StoreError>,
}

impl Writer {
    /// Knows of no container yet.
    pub(super) fn new(connection: Arc<Connection>, keys: Keys, node: NodeIdentity) -> Self {
        Self {
            connection,
            keys,
            node,
            instance: hex::encode(rand::random::<[u8; 16]>()),
            desired: Desired::default(),
            lease: None,
            held: false,
            fence: None,
            predecessor: None,
            retry: RETRY.0,
            retry_at: None,
            audit_at: audit_at(),
        }
    }

    /// Works until it is told to end, or nobody is left who could.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            let mut waiters = Vec::new();
            tokio::select! {
                command = commands.recv() => match command {
                    None => return,
                    Some(command) => if let Some(done) = self.take(command, &mut commands, &mut waiters).await {
                        self.end().await;
                        let _ = done.send(());
                        return;
                    },
                },
                () = lost(self.lease.as_ref()) => {}
                () = at(self.retry_at) => {}
                () = sleep_until(self.audit_at) => self.audit().await,
            }
            let written = self.write_all().await.map_err(StoreError::from);
            self.schedule(written.as_ref().err());
            for waiter in waiters {
                self.answer(waiter, written.as_ref().err());
            }
        }
    }

    /// Notes this order and those that have come with it, so that they are written together.
    async fn take(
        &mut self,
        first: Command,
        more: &mut mpsc::Receiver<Command>,
        waiters: &mut Vec<Waiter>,
    ) -> Option<oneshot::Sender<()>> {
        let mut next = Some(first);
        while let Some(command) = next {
            match command {
                Command::Report(changes, answer) => {
                    let noted = self.desired.note(&changes);
                    waiters.push(Waiter { answer, changes: Some(changes), noted });
                }
                Command::Retain(running, answer) => {
                    let noted = self.retain(&running).await.map_err(StoreError::from);
                    waiters.push(Waiter { answer, changes: None, noted });
                }
                Command::Close(done) => return Some(done),
            }
            next = more.try_recv().ok();
        }
        None
    }

    /// Says how it went: by what was asked for, not by what else there was to write.
    fn answer(&mut self, waiter: Waiter, error: Option<&StoreError>) {
        let Waiter { answer, changes, noted } = waiter;
        let error = error.filter(|_| changes.as_ref().is_none_or(|changes| !self.desired.is_confirmed(changes)));
        let result = noted.and_then(|()| error.map_or(Ok(()), |error| Err(error.clone())));
        if let (Err(StoreError::Refused(_)), Some(changes)) = (&result, &changes) {
            self.desired.refuse(changes);
        }
        // Whoever asked may have given up.
        let _ = answer.send(result);
    }

    /// Takes back all that is not `running`, what a daemon before this one has left included.
    async fn retain(&mut self, running: &[String]) -> Result<(), Fault> {
        let running: BTreeSet<&str> = running.iter().map(String::as_str).collect();
        self.desired.retain(&running);
        self.stand().await?;
        let Some(before) = self.predecessor else { return Ok(()) };
        let left = claim::attached(&self.connection, before).await?;
        let left = left.iter().filter_map(|key| self.uuid(key)).filter(|uuid| !running.contains(uuid));
        let gone: Vec<Change> = left.map(|uuid| Change::Remove(uuid.to_owned())).collect();
        Ok(self.desired.note(&gone)?)
    }

    /// Writes all that is due.
    async fn write_all(&mut self) -> Result<(), Fault> {
        if self.lease.as_ref().is_some_and(Lease::is_gone) {
            self.lose_lease();
        }
        let mut limit = BATCH;
        while self.desired.is_due() {
            let (lease, fence) = self.stand().await?;
            limit = self.write_batch(lease, fence, limit).await?;
        }
        Ok(())
    }

    /// The lease to write on and the revision to compare with, made if they are missing.
    async fn stand(&mut self) -> Result<(i64, i64), Fault> {
        if self.lease.as_ref().is_some_and(Lease::is_gone) {
            self.lose_lease();
        }
        if let (Some(lease), Some(fence)) = (&self.lease, self.fence) {
            return Ok((lease.id(), fence));
        }
        let key = self.keys.node(&self.node.name);
        let mut claim = claim::of(&self.node.address, &self.instance, 0);
        let found = claim::look(&self.connection, &key, &claim, self.held).await;
        if matches!(found, Err(Fault::Store(StoreError::Refused(_)))) {
            // Whoever has the name answers for it now; what is left of ours ends with the lease.
            self.lose_lease();
        }
        let found = found?;
        let lease = match &self.lease {
            Some(lease) => lease.id(),
            None => {
                let lease = Lease::grant(&self.connection, self.node.ttl).await?;
                self.lease.insert(lease).id()
            }
        };
        claim.lease = keys::lease_text(lease);
        let claimed = claim::write(&self.connection, &key, &claim, lease, found).await;
        if matches!(claimed, Err(Fault::LeaseGone)) {
            self.lose_lease();
        }
        let claimed = claimed?;
        self.predecessor = claimed.predecessor.or(self.predecessor);
        self.held = true;
        self.fence = Some(claimed.revision);
        Ok((lease, claimed.revision))
    }

    /// Writes one transaction. The limit for the next.
    async fn write_batch(&mut self, lease: i64, fence: i64, limit: usize) -> Result<usize, Fault> {
        let node = self.keys.node(&self.node.name);
        let batch = self.desired.batch(limit);
        let leases: Vec<i64> = std::iter::once(lease).chain(self.predecessor).collect();
        let operations: Vec<TxnOp> = batch.iter().filter_map(|write| self.operation(write, &leases)).collect();
        let count = batch.len();
        let transaction = || Txn::new().when([claim::holds(&node, fence)]).and_then(operations);
        match self.connection.once(CALL, async |mut client| client.txn(transaction()).await).await {
            Ok(answer) if answer.succeeded() => {
                self.desired.confirm(count);
                Ok(limit)
            }
            // Somebody else has written the claim, or it has vanished with its lease.
            Ok(_) => {
                self.fence = None;
                self.desired.doubt_all();
                Ok(limit)
            }
            Err(fault) => {
                // What was sent may still be carried out: not after the next claim.
                self.fence = None;
                match fault {
                    Fault::LeaseGone => self.lose_lease(),
                    Fault::TooLarge if count > 1 => return Ok(count / 2),
                    Fault::TooLarge => {
                        // It must not keep the others from being written.
                        self.desired.give_up_first();
                        return Err(Fault::TooLarge);
                    }
                    fault => return Err(fault),
                }
                Ok(limit)
            }
        }
    }

    fn operation(&self, write: &Write<'_>, leases: &[i64]) -> Option<TxnOp> {
        match write {
            Write::Put(uuid, value) => {
                let options = PutOptions::new().with_lease(leases[0]);
                Some(TxnOp::put(self.keys.record(uuid), *value, Some(options)))
            }
            Write::Remove(uuid) => claim::remove_ours(&self.keys.record(uuid), leases),
        }
    }

    /// What was written has gone with the lease, or will.
    fn lose_lease(&mut self) {
        if let Some(lease) = self.lease.take() {
            tracing::info!("the etcd lease of this node has expired; reporting everything again");
            self.predecessor = Some(lease.id());
        }
        self.fence = None;
        self.desired.doubt_all();
    }

    /// Compares with what etcd has: records may have been removed by hand, or lost with a backup that was restored.
    async fn audit(&mut self) {
        self.audit_at = audit_at();
        let Some(lease) = self.lease.as_ref().map(Lease::id) else { return };
        match claim::attached(&self.connection, lease).await {
            Ok(found) => {
                let stored: BTreeSet<&str> = found.iter().filter_map(|key| uuid_of(&self.keys, key)).collect();
                let differ = self.desired.compare(&stored);
                if differ > 0 {
                    tracing::warn!(records = differ, "records of this node are missing in etcd; writing them again");
                }
            }
            Err(fault) => {
                tracing::debug!(error = %StoreError::from(fault), "cannot read this node's records from etcd")
            }
        }
    }

    /// Sets when to try again.
    fn schedule(&mut self, error: Option<&StoreError>) {
        if error.is_none() {
            (self.retry, self.retry_at) = (RETRY.0, None);
            return;
        }
        // Apart from the other nodes, whom the same outage has hit.
        self.retry_at = Some(Instant::now() + jittered(self.retry, 0.5..1.5));
        self.retry = (self.retry * 2).min(RETRY.1);
    }

    /// Takes everything back with the lease, which etcd does by itself if it cannot be asked.
    async fn end(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        let id = lease.id();
        drop(lease);
        let revoke = self.connection.once(END, async |mut client| client.lease_revoke(id).await);
        if let Ok(Err(fault)) = timeout(END, revoke).await {
            tracing::warn!(error = %StoreError::from(fault), "the records of this node remain in etcd until its lease expires");
        }
    }

    fn uuid<'a>(&self, key: &'a [u8]) -> Option<&'a str> {
        uuid_of(&self.keys, key)
    }
}

fn uuid_of<'a>(keys: &Keys, key: &'a [u8]) -> Option<&'a str> {
    match keys.read(key) {
        Key::Record(uuid) => Some(uuid),
        Key::Link(_) | Key::Other => None,
    }
}

async fn lost(lease: Option<&Lease>) {
    match lease {
        Some(lease) => lease.gone().await,
        None => std::future::pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn audit_at() -> Instant {
    Instant::now() + jittered(AUDIT, 0.7..1.3)
}
