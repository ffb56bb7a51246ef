//! News, of an API that tells none: everything is asked for again and compared.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Reader;
use crate::{StoreError, Update};
use portsplice_model::{Hostname, Link, Record};
use portsplice_net::backoff::jittered;

/// How often.
const POLL: Duration = Duration::from_secs(5);
/// How rarely, while the API is away.
const AWAY: Duration = Duration::from_secs(60);
/// How many updates may wait for whoever follows.
const BACKLOG: usize = 1024;

/// Follows the API.
pub(super) fn follow(reader: Arc<Reader>) -> BoxStream<'static, Update> {
    let (sender, updates) = mpsc::channel(BACKLOG);
    let task = AbortOnDropHandle::new(tokio::spawn(run(reader, sender)));
    stream::unfold((updates, task), async |(mut updates, task)| Some((updates.recv().await?, (updates, task)))).boxed()
}

async fn run(reader: Arc<Reader>, sender: mpsc::Sender<Update>) {
    let mut known: Option<Seen> = None;
    let mut pause = POLL;
    loop {
        match Seen::of(&reader).await {
            Ok(seen) => {
                let updates_due = match &known {
                    None => seen.all(),
                    Some(known) => known.changes_to(&seen),
                };
                for update in updates_due {
                    if sender.send(update).await.is_err() {
                        return;
                    }
                }
                known = Some(seen);
                pause = POLL;
            }
            Err(error) => {
                tracing::warn!(%error, "cannot watch Arvados, retrying");
                pause = (pause * 2).min(AWAY);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(jittered(pause, 0.8..1.2)) => {}
            () = sender.closed() => return,
        }
    }
}

/// What there was.
#[derive(Debug, Default)]
struct Seen {
    records: BTreeMap<String, Record>,
    links: BTreeMap<Hostname, Link>,
}

impl Seen {
    async fn of(reader: &Reader) -> Result<Self, StoreError> {
        let (records, links) = (reader.records().await?, reader.links().await?);
        Ok(Self {
            records: records.into_iter().map(|record| (record.uuid.clone(), record)).collect(),
            links: links.into_iter().map(|link| (link.hostname.clone(), link)).collect(),
        })
    }

    fn all(&self) -> Vec<Update> {
        let mut all = vec![Update::Reset];
        all.extend(Self::default().changes_to(self));
        all.push(Update::Current);
        all
    }

    fn changes_to(&self, now: &Self) -> Vec<Update> {
        let mut changes = Vec::new();
        changes.extend(gone(&self.records, &now.records).map(Update::RecordGone));
        changes.extend(gone(&self.links, &now.links).map(Update::LinkGone));
        changes.extend(new(&self.records, &now.records).map(|record| Update::Record(Box::new(record))));
        changes.extend(new(&self.links, &now.links).map(Update::Link));
        changes
    }
}

fn gone<K: Ord + Clone, V>(before: &BTreeMap<K, V>, now: &BTreeMap<K, V>) -> impl Iterator<Item = K> {
    before.keys().filter(|key| !now.contains_key(*key)).cloned()
}

fn new<K: Ord, V: PartialEq + Clone>(before: &BTreeMap<K, V>, now: &BTreeMap<K, V>) -> impl Iterator<Item = V> {
    now.iter().filter(|(key, value)| before.get(key) != Some(value)).map(|(_, value)| value.clone())
}
