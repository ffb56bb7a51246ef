//! The record API: see [`portsplice_registry::api`] for what a request says.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{HeaderMap, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout_at;

use super::Edge;
use portsplice_auth::{AuthFailure, Authenticator, Channel, Presented, Scheme};
use portsplice_model::ContainerName;
use portsplice_model::Record;
use portsplice_model::unix_time;
use portsplice_model::url::authority;
use portsplice_net::deadline::deadline;
use portsplice_registry::StoreError;
use portsplice_registry::api;
use portsplice_registry::api::{Alive, AliveAnswer, Call, NoCall, PutAnswer};

/// Bodies up to this many bytes, as almost all are, wait for no other.
const LARGE: u64 = 16 * 1024;

/// What the connection adds to a request.
pub(super) struct Caller<'a> {
    pub(super) authenticator: &'a Authenticator,
    pub(super) channel: Channel<'a>,
    /// Where it comes from.
    pub(super) address: IpAddr,
}

/// Why a request is not done.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    /// One line that says what to do.
    text: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refused {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), header: None }
    }

    /// To be tried again after a second.
    fn for_now(status: StatusCode, text: impl Into<String>) -> Self {
        Self { header: Some((RETRY_AFTER, HeaderValue::from_static("1"))), ..Self::new(status, text) }
    }

    fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }
}

impl From<AuthFailure> for Refused {
    fn from(failure: AuthFailure) -> Self {
        // Who guesses keys connects anew for each guess.
        let header = Some((CONNECTION, HeaderValue::from_static("close")));
        Self { header, ..Self::new(StatusCode::UNAUTHORIZED, failure.advice()) }
    }
}

impl From<NoCall> for Refused {
    fn from(no: NoCall) -> Self {
        match no {
            NoCall::Path => Self::new(
                StatusCode::NOT_FOUND,
                "No such path; the record API is /v1/records/UUID and /v1/nodes/NODE/alive.",
            ),
            NoCall::Method(allowed) => Self {
                header: Some((ALLOW, HeaderValue::from_static(allowed))),
                ..Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("Use one of {allowed} here."))
            },
            NoCall::Query(expected) => Self::bad(format!("The query is wrong; write {expected}.")),
        }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        tracing::warn!("cannot store a report: {error}");
        Self::for_now(StatusCode::SERVICE_UNAVAILABLE, "The store is unavailable; see the edge's log.")
    }
}

impl Edge {
    /// Answers one request. Nothing of an unauthenticated one's body is read.
    pub(super) async fn answer(&self, request: Request<Incoming>, caller: &Caller<'_>) -> Response<Full<Bytes>> {
        let (call, proof) = match authenticate(&request, caller) {
            Ok((call, proof)) => (call, proof),
            Err(refused) => return self.respond(Err(refused), None),
        };
        self.metrics.granted(Scheme::Bound);
        tracing::debug!(%call, "request of a node");
        let done = match self.requests.take(&call.identity(), caller.address) {
            Some(_place) => self.perform(call, request.into_body()).await,
            None => Err(Refused::for_now(
                StatusCode::TOO_MANY_REQUESTS,
                "Too many concurrent requests for this key or from this address; wait for the earlier ones to finish.",
            )),
        };
        self.respond(done, proof)
    }

    fn respond(&self, done: Result<Answer, Refused>, proof: Option<String>) -> Response<Full<Bytes>> {
        let mut response = match done {
            Ok(answer) => answer.into_response(),
            Err(Refused { status, text, header }) => {
                let mut response = Response::new(Full::new(Bytes::from(text + "\n")));
                *response.status_mut() = status;
                let headers = response.headers_mut();
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
                headers.extend(header);
                response
            }
        };
        if let Some(proof) = proof.and_then(|proof| HeaderValue::try_from(proof).ok()) {
            response.headers_mut().insert(api::PROOF, proof);
        }
        self.metrics.request(response.status().as_u16(), None);
        response
    }

    async fn perform(&self, call: Call, body: Incoming) -> Result<Answer, Refused> {
        let body = self.body(body, call.sha256()).await?;
        match call {
            Call::Put { uuid, node, ttl, .. } => {
                let record: Record = from_json(&body)?;
                check(&record, &uuid, &node).map_err(Refused::bad)?;
                let ttl = self.ttl(ttl);
                self.leases.put(ttl, record).await?;
                Answer::json(&PutAnswer { ttl })
            }
            Call::Remove { uuid, node } => {
                self.leases.remove(&node, uuid).await?;
                Ok(Answer(StatusCode::NO_CONTENT, Bytes::new()))
            }
            Call::Get { uuid } => match self.leases.record(&uuid).await? {
                Some(record) => Answer::json(&record),
                None => Err(Refused::new(StatusCode::NOT_FOUND, "There is no record of this container.")),
            },
            Call::Alive { node, ttl, .. } => {
                let Alive { running } = from_json(&body)?;
                if let Some(bad) = running.iter().find(|uuid| ContainerName::parse(uuid).is_none()) {
                    return Err(Refused::bad(format!("{bad:?} is not a container's name.")));
                }
                let ttl = self.ttl(ttl);
                let standing = self.leases.alive(&node, ttl, running).await?;
                Answer::json(&AliveAnswer { ttl, missing: standing.missing, elsewhere: standing.elsewhere })
            }
        }
    }

    /// The whole body, which is what the credential covers.
    async fn body(&self, body: Incoming, sha256: Option<&str>) -> Result<Bytes, Refused> {
        let until = deadline(self.settings.load().limits.body_timeout);
        let is_large = body.size_hint().upper().is_none_or(|bytes| bytes > LARGE);
        let reading = async {
            let place = if is_large { Some(self.large_bodies.acquire().await) } else { None };
            let read = Limited::new(body, api::BODY_BYTES).collect().await;
            drop(place);
            read
        };
        let bytes = match timeout_at(until, reading).await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                let text = format!("A body has {} bytes at most.", api::BODY_BYTES);
                return Err(Refused::new(StatusCode::PAYLOAD_TOO_LARGE, text));
            }
            Ok(Err(_)) => return Err(Refused::bad("The body is incomplete.")),
            Err(_) => return Err(Refused::new(StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time.")),
        };
        match sha256 {
            None if bytes.is_empty() => Ok(bytes),
            None => Err(Refused::bad("This request takes no body.")),
            Some(sha256) if api::digest(&bytes) == sha256 => Ok(bytes),
            Some(_) => Err(Refused::bad("The body does not match the sha256 of the request.")),
        }
    }

    /// As long as was asked for, within the configured bounds.
    fn ttl(&self, asked: u32) -> u32 {
        let (shortest, longest) = self.settings.load().ttl;
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        asked.clamp(seconds(shortest), seconds(longest).max(seconds(shortest)))
    }
}

fn authenticate(request: &Request<Incoming>, caller: &Caller<'_>) -> Result<(Call, Option<String>), Refused> {
    let uri = request.uri();
    let target = match uri.path_and_query() {
        Some(target) if uri.scheme().is_none() => target.as_str(),
        _ => return Err(Refused::bad("Write the request's target as a path.")),
    };
    let call = Call::parse(request.method(), target)?;
    let headers = request.headers();
    let identity = the_only(headers, &api::IDENTITY)?;
    if the_only(headers, &api::PORT)? != "0" {
        return Err(Refused::bad("Set X-Arvados-Container-Target-Port to 0: a record has no port."));
    }
    let authorization = the_only(headers, &api::AUTHORIZATION)?;
    if identity != call.identity() {
        let text = format!("Set X-Arvados-Container-Gateway-Uuid to {}, whose key signs this.", call.identity());
        return Err(Refused::bad(text));
    }
    let presented = Presented { uuid: identity, port: 0, method: request.method().as_str(), target, authorization };
    let now = unix_time().as_secs();
    let granted = caller.authenticator.check(&presented, &caller.channel, now)?;
    Ok((call, granted.response))
}

/// The value of a field that must be there once and not be empty.
fn the_only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, AuthFailure> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(_), Some(_)) => Err(AuthFailure::Duplicate),
        (Some(value), None) if !value.is_empty() => value.to_str().map_err(|_| AuthFailure::Malformed),
        _ => Err(AuthFailure::Missing),
    }
}

/// What is wrong with a record that is reported under these names.
fn check(record: &Record, uuid: &str, node: &str) -> Result<(), String> {
    if record.uuid != uuid {
        return Err(format!("The record is of {:?} and the path of {uuid:?}; write the same.", record.uuid));
    }
    if record.node != node {
        return Err(format!("The record's node is {:?} and the query's {node:?}; write the same.", record.node));
    }
    if authority(&record.address).is_none() {
        return Err(format!("The record's address is {:?}; write HOST:PORT.", record.address));
    }
    if record.published_ports.contains_key(&0) || record.listening.iter().any(|listening| listening.port == 0) {
        return Err("The record has a port 0; ports are 1 to 65535.".to_owned());
    }
    Ok(())
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|e| Refused::bad(format!("Invalid body: {e}.")))
}

/// A status with JSON.
struct Answer(StatusCode, Bytes);

impl Answer {
    fn json(value: &impl Serialize) -> Result<Self, Refused> {
        let body = serde_json::to_vec(value);
        let body = body.map_err(|e| Refused::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
        Ok(Self(StatusCode::OK, body.into()))
    }

    fn into_response(self) -> Response<Full<Bytes>> {
        let Self(status, body) = self;
        let has_body = !body.is_empty();
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        if has_body {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        response
    }
}
