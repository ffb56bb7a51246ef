//! An edge's record API as the store of a node.
//!
//! The node writes records and says regularly that it lives, with the list of what it has written; the edge answers what it
//! lacks of that, which is written again. So both may crash and lose what they like, and agree again within a third of
//! `registry.ttl`.
//!
//! Requests carry the `bound` credential: a record's is made with its container's key, so that a node which holds only the
//! keys of its containers can report these and nothing else; the heartbeat's with the node's own. Every answer must
//! carry the edge's proof that it holds the key too. Over TLS the credential covers the connection, so that without any
//! authority's certificate nobody can stand in between; on plain TCP the network between the two has to be trusted.
//!
//! The API takes reports, and no more: a [`Directory`](super::Directory) is for the edge itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response, StatusCode};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::api::{self, Alive, AliveAnswer, Call, PutAnswer};
use super::pause::Pause;
use super::{Change, Record, Reporter, StoreError};
use portsplice_auth::{ContainerKey, Keyring, sign};
use portsplice_model::unix_time;
use portsplice_model::url::Url;
use portsplice_net::backoff::{Backoff, jittered};
use portsplice_net::client::{Bounds, Channel, ClientError, HttpClient, Trust};

/// An answer is as long as a list of what is missing, or a record.
const BOUNDS: Bounds =
    Bounds { connect: Duration::from_secs(5), request: Duration::from_secs(10), response_bytes: api::BODY_BYTES };
/// How long an edge that has too much to do is left alone if it does not say, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How much of an edge's refusal is shown.
const SHOWN: usize = 300;

/// Where the edge is, and who reports.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// Where the edge's record API is.
    pub url: Url,
    /// What its certificate is checked against; `None` leaves that to its proofs.
    pub ca_file: Option<PathBuf>,
    /// This node's name.
    pub node: String,
    /// How long records outlive this node.
    pub ttl: Duration,
}

/// How many orders may wait.
const ORDERS: usize = 64;

/// The store.
#[derive(Debug)]
pub struct Remote {
    orders: mpsc::Sender<Order>,
    problem: Problem,
    /// Speaks with the edge, as long as this does.
    _task: AbortOnDropHandle<()>,
}

/// Why the last heartbeat failed.
type Problem = Arc<Mutex<Option<String>>>;

/// What the edge is to be told. Whoever drops the other end of the answer does not want it any more.
#[derive(Debug)]
enum Order {
    Report(Vec<Change>, oneshot::Sender<Result<(), StoreError>>),
    /// Only these containers run here.
    Retain(Vec<String>, oneshot::Sender<Result<(), StoreError>>),
}

/// The one task that writes to the edge. It does one thing after the other, so that no heartbeat brings back what is
/// being removed, and nothing that waits holds a lock.
struct EdgeLink {
    client: HttpClient,
    settings: RemoteSettings,
    keyring: Arc<ArcSwap<Keyring>>,
    /// Until when the edge wants to be left alone.
    pause: Pause,
    /// What the edge has acknowledged.
    held: BTreeMap<String, Record>,
    /// What was warned about: containers that others report too.
    elsewhere: BTreeSet<String>,
    problem: Problem,
    /// When the edge is told next that this node lives.
    due: Instant,
    backoff: Backoff,
}

impl Remote {
    /// Begins to say that this node lives. The edge need not be there yet.
    ///
    /// # Errors
    /// Where the certificates cannot be read.
    pub fn start(settings: RemoteSettings, keyring: Arc<ArcSwap<Keyring>>) -> Result<Self, ClientError> {
        let trust = settings.ca_file.clone().map_or(Trust::Anyone, Trust::File);
        let problem = Problem::default();
        let link = EdgeLink {
            client: HttpClient::new(settings.url.clone(), &trust, BOUNDS)?,
            settings,
            keyring,
            pause: Pause::new(PAUSE.0, PAUSE.1),
            held: BTreeMap::new(),
            elsewhere: BTreeSet::new(),
            problem: Arc::clone(&problem),
            due: Instant::now(),
            backoff: Backoff::default(),
        };
        let (orders, waiting) = mpsc::channel(ORDERS);
        let task = AbortOnDropHandle::new(tokio::spawn(link.run(waiting)));
        Ok(Self { orders, problem, _task: task })
    }

    async fn order(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> Order,
    ) -> Result<(), StoreError> {
        let ended = || StoreError::internal("the task that reports to the edge has ended");
        let (done, answer) = oneshot::channel();
        self.orders.send(order(done)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl EdgeLink {
    /// Until nobody is left who could order anything.
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    None => return,
                    Some(Order::Report(changes, done)) => carry_out(done, self.report_all(&changes)).await,
                    Some(Order::Retain(running, done)) => carry_out(done, self.retain(running)).await,
                },
                () = sleep_until(self.due) => self.live().await,
            }
        }
    }

    /// Seconds, of which the API has whole ones.
    fn ttl(&self) -> u32 {
        u32::try_from(self.settings.ttl.as_secs()).unwrap_or(u32::MAX).max(1)
    }

    /// Says that this node lives, and when it says so next.
    async fn live(&mut self) {
        let pause = match self.heartbeat().await {
            Ok(()) => {
                if self.problem.lock().take().is_some() {
                    tracing::info!("heartbeats to the edge succeed again");
                }
                self.backoff = Backoff::default();
                // Many nodes do not speak in step.
                jittered(self.settings.ttl / 3, 0.75..1.0)
            }
            Err(error) => {
                let text = error.to_string();
                if self.problem.lock().replace(text.clone()).is_none_or(|before| before != text) {
                    tracing::warn!("heartbeat to the edge failed: {text}");
                }
                self.backoff.pause()
            }
        };
        self.due = Instant::now() + pause;
    }

    async fn heartbeat(&mut self) -> Result<(), StoreError> {
        if self.held.is_empty() {
            // Nothing depends on it, and a node that has just started must not remove what it is about to report again.
            return Ok(());
        }
        let answer = self.alive(self.held.keys().cloned().collect()).await?;
        for record in answer.missing.iter().filter_map(|uuid| self.held.get(uuid)) {
            match self.put(record).await {
                Err(error) if error.is_transient() => return Err(error),
                Err(error) => tracing::warn!(container = record.uuid, "cannot write the record again: {error}"),
                Ok(()) => tracing::debug!(container = record.uuid, "wrote a record again that the edge had lost"),
            }
        }
        let elsewhere: BTreeSet<String> = answer.elsewhere.into_iter().collect();
        for uuid in elsewhere.difference(&self.elsewhere) {
            tracing::warn!(
                container = uuid,
                "another node reports a container of the same name and has replaced its record; give each its own name"
            );
        }
        self.elsewhere = elsewhere;
        Ok(())
    }

    async fn report_all(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let mut rejection = None;
        for change in changes {
            // A long report must not make the edge believe that this node has gone.
            if self.due <= Instant::now() {
                self.live().await;
            }
            match self.report(change).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => return Err(error),
                // Others are signed with other keys.
                Err(error) => drop(rejection.get_or_insert(error)),
            }
        }
        rejection.map_or(Ok(()), Err)
    }

    async fn retain(&mut self, running: Vec<String>) -> Result<(), StoreError> {
        self.held.retain(|uuid, _| running.contains(uuid));
        self.alive(running).await.map(drop)
    }

    async fn alive(&self, running: Vec<String>) -> Result<AliveAnswer, StoreError> {
        let body = to_json(&Alive { running })?;
        let (node, ttl) = (self.settings.node.clone(), self.ttl());
        let answer = self.call(&Call::Alive { node, ttl, sha256: api::digest(&body) }, body).await?;
        from_json(&answer)
    }

    async fn put(&self, record: &Record) -> Result<(), StoreError> {
        let body = to_json(record)?;
        let (uuid, node) = (record.uuid.clone(), self.settings.node.clone());
        let answer = self.call(&Call::Put { uuid, node, ttl: self.ttl(), sha256: api::digest(&body) }, body).await?;
        from_json::<PutAnswer>(&answer).map(drop)
    }

    async fn report(&mut self, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::Put(record) => {
                self.put(record).await?;
                self.held.insert(record.uuid.clone(), (**record).clone());
            }
            Change::Remove(uuid) => {
                // Before the edge is asked: it may have done it though its answer is lost.
                self.held.remove(uuid);
                let call = Call::Remove { uuid: uuid.clone(), node: self.settings.node.clone() };
                match self.call(&call, Bytes::new()).await {
                    // The key may have gone with the container; the node's own says as well what is no more.
                    Err(StoreError::Refused(_)) => drop(self.alive(self.held.keys().cloned().collect()).await?),
                    done => drop(done?),
                }
            }
        }
        Ok(())
    }

    /// Sends a signed request. Gives the body of an answer that is proven and says yes.
    async fn call(&self, call: &Call, body: Bytes) -> Result<Bytes, StoreError> {
        if let Some(left) = self.pause.left() {
            let url = &self.settings.url;
            return Err(StoreError::unavailable(format!("{url} is rate limiting us; retrying in {left} s")));
        }
        let identity = call.identity();
        let key = self.keyring.load().key(&identity).ok_or_else(|| {
            StoreError::refused(format!(
                "there is no key of {identity} here: put it into the file {identity} of `secrets.keys-dir`, or give the root secret"
            ))
        })?;
        let mut authorization = String::new();
        let response = self.client.request(|channel| {
            authorization = credential(&key, &identity, call, channel);
            request(&identity, call, &authorization, body.clone())
        });
        let response = response.await?;
        let proof = response.headers().get(api::PROOF).and_then(|proof| proof.to_str().ok());
        let is_proven = proof.is_some_and(|proof| sign::is_proof(&key, &authorization, proof));
        self.judge(response, is_proven)
    }

    fn judge(&self, response: Response<Bytes>, is_proven: bool) -> Result<Bytes, StoreError> {
        let status = response.status();
        let url = &self.settings.url;
        let text = String::from_utf8_lossy(response.body());
        let text: String = text.trim().chars().filter(|c| !c.is_control()).take(SHOWN).collect();
        let says = format!("{url} responds {status}: {text}");
        match (is_proven, status) {
            (true, _) if status.is_success() => Ok(response.into_body()),
            // Nobody but the edge can hold this node up.
            (true, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                self.pause.begin(&response);
                Err(StoreError::unavailable(says))
            }
            // It came too slowly this time.
            (true, StatusCode::REQUEST_TIMEOUT) => Err(StoreError::unavailable(says)),
            (true, _) if status.is_client_error() => Err(StoreError::refused(says)),
            (false, StatusCode::UNAUTHORIZED) => Err(StoreError::refused(says)),
            (false, _) if status.is_success() => Err(StoreError::unavailable(format!(
                "{url} did not prove that it has the key: it is not an edge of this cluster, or the connection is being intercepted"
            ))),
            _ => Err(StoreError::unavailable(says)),
        }
    }
}

fn credential(key: &ContainerKey, identity: &str, call: &Call, channel: &Channel) -> String {
    let (method, target) = (call.method(), call.to_string());
    let request = sign::Request { uuid: identity, port: 0, method: method.as_str(), target: &target };
    let now = unix_time().as_secs();
    sign::bound(key, &request, now, &sign::nonce(), channel.exporter.as_ref())
}

fn request(identity: &str, call: &Call, authorization: &str, body: Bytes) -> Request<Full<Bytes>> {
    // Names are container names and the credential is of our making, so that none of this fails.
    let value = |text: &str| HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = call.method();
    *request.uri_mut() = call.to_string().parse().unwrap_or_default();
    let headers = request.headers_mut();
    headers.insert(api::IDENTITY, value(identity));
    headers.insert(api::PORT, HeaderValue::from_static("0"));
    headers.insert(api::AUTHORIZATION, value(authorization));
    if call.sha256().is_some() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    request
}

fn to_json(value: &impl serde::Serialize) -> Result<Bytes, StoreError> {
    let body = serde_json::to_vec(value).map_err(|e| StoreError::refused(e.to_string()).because(e))?;
    if body.len() > api::BODY_BYTES {
        let limit = api::BODY_BYTES;
        return Err(StoreError::refused(format!("a report of {} bytes; the edge takes up to {limit}", body.len())));
    }
    Ok(body.into())
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(body)
        .map_err(|e| StoreError::corrupt(format!("invalid response from the edge: {e}")).because(e))
}

/// Does what was ordered, for as long as somebody waits for it.
async fn carry_out(
    mut done: oneshot::Sender<Result<(), StoreError>>,
    work: impl Future<Output = Result<(), StoreError>>,
) {
    let result = tokio::select! {
        result = work => result,
        () = done.closed() => return,
    };
    let _ = done.send(result); // whoever asked may have given up just now
}

impl Reporter for Remote {
    fn report<'a>(&'a self, changes: &'a [Change]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.order(|done| Order::Report(changes.to_vec(), done)))
    }

    fn retain<'a>(&'a self, _: &'a str, running: &'a [String]) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.order(|done| Order::Retain(running.to_vec(), done)))
    }

    fn problem(&self) -> Option<String> {
        self.problem.lock().clone()
    }
}

#[cfg(test)]
mod tests;
