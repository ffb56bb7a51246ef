//! Following what changes, without ever mistaking silence for the absence of changes.
//!
//! A watch begins with all that is there at one revision, and goes on from the next. After a connection is lost it resumes
//! where it was, as long as etcd still has what came since and its history is the same; else it starts over.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Event, EventType, KeyValue, WatchOptions, WatchResponse, WatchStream};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Access, CALL, Connection};
use super::fault::Fault;
use super::keys::{self, Key, Keys};
use super::read::{ANSWER, ClusterRevision, Pages, end_of};
use crate::{StoreError, Update};
use portsplice_model::Hostname;
use portsplice_net::backoff::jittered;

/// How many updates may wait for whoever follows. When it is full, etcd keeps the rest.
const BACKLOG: usize = 1024;
/// After how long a silence etcd is asked whether it is there, and how long its answer may take.
const SILENCE: Duration = Duration::from_secs(5);
/// How soon a lost connection is made again, and how long at most that may take to come.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Follows everything below the prefix of `keys`, over a connection of its own.
pub(super) fn follow(access: Access, keys: Keys) -> BoxStream<'static, Update> {
    let (sender, updates) = mpsc::channel(BACKLOG);
    let follower = Follower { connection: Arc::new(Connection::new(access)), keys, sender, position: None };
    let task = AbortOnDropHandle::new(tokio::spawn(follower.run()));
    stream::unfold((updates, task), async |(mut updates, task)| Some((updates.recv().await?, (updates, task)))).boxed()
}

struct Follower {
    connection: Arc<Connection>,
    keys: Keys,
    sender: mpsc::Sender<Update>,
    /// Up to where everything has been told; `None` before all of a beginning has.
    position: Option<Position>,
}

#[derive(Clone, Copy, Debug)]
struct Position {
    /// The last answer's.
    point: ClusterRevision,
    /// The revision to go on from. After an event this is its own: one revision may come in several parts, and telling a part
    /// of it twice does no harm.
    next: i64,
}

/// Why a watch cannot go on as it is.
enum WatchEnd {
    /// Whoever followed has gone.
    Dropped,
    /// What was told is not known to be what is there: start over.
    Restart(&'static str),
    /// Go on where it was.
    Fault(Fault),
}

impl From<Fault> for WatchEnd {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Compacted => Self::Restart("etcd has compacted the revisions since then"),
            fault => Self::Fault(fault),
        }
    }
}

impl Follower {
    async fn run(mut self) {
        let mut retry = RETRY.0;
        loop {
            let before = self.position.map(|position| position.next);
            let end = self.session().await;
            if self.position.map(|position| position.next) != before {
                retry = RETRY.0;
            }
            match end {
                WatchEnd::Dropped => return,
                WatchEnd::Restart(why) => {
                    tracing::info!(why, "restarting the etcd watch");
                    self.position = None;
                }
                WatchEnd::Fault(fault) => {
                    tracing::warn!(error = %StoreError::from(fault), "cannot watch etcd, retrying");
                }
            }
            tokio::time::sleep(jittered(retry, 0.5..1.5)).await;
            retry = (retry * 2).min(RETRY.1);
        }
    }

    /// Begins, or goes on, until something breaks.
    async fn session(&mut self) -> WatchEnd {
        match self.try_session().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_session(&mut self) -> Result<std::convert::Infallible, WatchEnd> {
        let position = match self.position {
            Some(position) => position,
            None => self.begin().await?,
        };
        let mut stream = self.open(position).await?;
        loop {
            let message = self.message(&mut stream).await?;
            self.take(&message).await?;
        }
    }

    /// Tells all that is there.
    async fn begin(&mut self) -> Result<Position, WatchEnd> {
        self.emit(Update::Reset).await?;
        let connection = Arc::clone(&self.connection);
        let mut pages = Pages::new(&connection, &self.keys.root);
        while let Some(page) = pages.next().await? {
            for kv in &page {
                self.there(kv).await?;
            }
        }
        self.emit(Update::Current).await?;
        let point = ClusterRevision::of(None);
        let point = pages.point.unwrap_or(point);
        let position = Position { point, next: point.revision + 1 };
        self.position = Some(position);
        Ok(position)
    }

    /// Opens the watch, and makes sure that it is of the same history.
    async fn open(&self, position: Position) -> Result<WatchStream, WatchEnd> {
        let root = self.keys.root.as_str();
        let options = WatchOptions::new()
            .with_range(end_of(root))
            .with_start_revision(position.next)
            .with_fragment()
            .with_progress_notify();
        let open = async |client: Client| {
            let mut client = client.watch_client().max_decoding_message_size(ANSWER);
            let mut stream = client.watch(root, Some(options)).await?;
            let first = stream.message().await?;
            Ok((stream, first))
        };
        let (stream, first) = self.connection.once(CALL, open).await?;
        let Some(first) = first else { return Err(ended().into()) };
        let now = ClusterRevision::of(first.header());
        if !position.point.precedes(&now) || now.revision < position.next - 1 {
            return Err(WatchEnd::Restart("the history of the etcd cluster has changed"));
        }
        refused(&first)?;
        Ok(stream)
    }

    /// The next message. Silence is broken by asking for one.
    async fn message(&self, stream: &mut WatchStream) -> Result<WatchResponse, WatchEnd> {
        for is_last in [false, true] {
            match timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(message))) => return Ok(message),
                Ok(Ok(None)) => return Err(ended().into()),
                Ok(Err(error)) => return Err(Fault::from(error).into()),
                Err(_) if is_last => {}
                Err(_) => match timeout(SILENCE, stream.request_progress()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Err(Fault::from(error).into()),
                    Err(_) => break,
                },
            }
        }
        Err(Fault::from(StoreError::unavailable("etcd does not respond")).into())
    }

    /// Tells what a message says.
    async fn take(&mut self, message: &WatchResponse) -> Result<(), WatchEnd> {
        let now = ClusterRevision::of(message.header());
        let Some(position) = &mut self.position else { return Err(WatchEnd::Restart("nothing was read yet")) };
        if !position.point.precedes(&now) {
            return Err(WatchEnd::Restart("the history of the etcd cluster has changed"));
        }
        position.point = now;
        refused(message)?;
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            self.event(event, kv).await?;
            if let Some(position) = &mut self.position {
                position.next = position.next.max(kv.mod_revision());
            }
        }
        Ok(())
    }

    async fn event(&self, event: &Event, kv: &KeyValue) -> Result<(), WatchEnd> {
        match event.event_type() {
            EventType::Put => self.there(kv).await,
            EventType::Delete => match self.gone(kv.key()) {
                Some(update) => self.emit(update).await,
                None => Ok(()),
            },
        }
    }

    /// Tells what a key has now. What cannot be read is not there.
    async fn there(&self, kv: &KeyValue) -> Result<(), WatchEnd> {
        let read = match self.keys.read(kv.key()) {
            Key::Record(uuid) => keys::record(uuid, kv).map(|record| Update::Record(Box::new(record))),
            Key::Link(hostname) => keys::link(hostname, kv).map(Update::Link),
            Key::Other => return Ok(()),
        };
        match read {
            Ok(update) => self.emit(update).await,
            Err(error) => {
                tracing::warn!(key = %String::from_utf8_lossy(kv.key()), %error, "skipping unreadable registry entry");
                match self.gone(kv.key()) {
                    Some(update) => self.emit(update).await,
                    None => Ok(()),
                }
            }
        }
    }

    fn gone(&self, key: &[u8]) -> Option<Update> {
        match self.keys.read(key) {
            Key::Record(uuid) => Some(Update::RecordGone(uuid.to_owned())),
            Key::Link(hostname) => hostname.parse::<Hostname>().ok().map(Update::LinkGone),
            Key::Other => None,
        }
    }

    async fn emit(&self, update: Update) -> Result<(), WatchEnd> {
        self.sender.send(update).await.map_err(|_| WatchEnd::Dropped)
    }
}

/// What etcd says of a watch that it ends.
fn refused(message: &WatchResponse) -> Result<(), WatchEnd> {
    if message.compact_revision() > 0 {
        return Err(Fault::Compacted.into());
    }
    if !message.canceled() {
        return Ok(());
    }
    let reason = message.cancel_reason();
    let text = format!("etcd canceled the watch: {}", if reason.is_empty() { "no reason given" } else { reason });
    Err(Fault::from(StoreError::unavailable(text)).into())
}

fn ended() -> Fault {
    StoreError::unavailable("etcd has closed the stream").into()
}
