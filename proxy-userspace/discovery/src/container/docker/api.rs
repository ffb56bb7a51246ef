//! What is asked of the engine's API: a few documents, of which a few fields are read.
//!
//! Everything else in them is passed over, so that a state, a field or an event that this version has never heard of does no
//! harm. Each question has a connection of its own: one that is not answered holds up no other.

use std::collections::HashMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::container::Peer;
use portsplice_model::unix_time;

/// How long one answer of the engine may take.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest answer, in bytes. The list of 10,000 containers takes some 15 MiB.
const LONGEST: usize = 64 * 1024 * 1024;
/// The longest line of the stream of events, in bytes.
const EVENT: usize = 1024 * 1024;
/// The newest version of the API that this was written for.
const NEWEST: Version = Version(1, 51);
/// How far back events are asked for, so that none falls between subscribing and listing.
const OVERLAP: Duration = Duration::from_secs(2);
/// Events that wait to be looked at.
const BACKLOG: usize = 256;

/// Why a question to a container engine has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// There is no engine to be asked.
    #[error("cannot connect to it")]
    Away(#[source] std::io::Error),
    /// There is no such thing.
    #[error("it does not know that")]
    NotFound,
    /// No whole answer came within 10 seconds.
    #[error("no response within {} s", ANSWER.as_secs())]
    Late,
    /// The connection ended before an answer began. What hyper says is shown; its own sources are not.
    #[error("it does not respond: {0}")]
    Silent(hyper::Error),
    /// The connection ended within an answer, or the answer is too long. As above, of what is shown.
    #[error("its response was truncated: {0}")]
    Broken(Box<dyn Error + Send + Sync>),
    /// The answer is not what the API's documentation says.
    #[error("its response is invalid")]
    Garbled(#[source] serde_json::Error),
    /// It refuses.
    #[error("it answers with {status}: {message}")]
    Status {
        /// With this status.
        status: StatusCode,
        /// And these words, shortened.
        message: String,
    },
    /// The question cannot be written down.
    #[error("the request")]
    Request(#[source] hyper::http::Error),
    /// What was asked for has no id that can be in a path.
    #[error("{0:?} is no id")]
    Id(String),
}

/// Why the stream of events has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum EventsError {
    #[error(transparent)]
    Request(#[from] Failure),
    #[error("it answers with {0}")]
    Status(StatusCode),
    #[error("an event is longer than {} bytes", EVENT)]
    TooLong,
    #[error(transparent)]
    Stream(#[from] hyper::Error),
}

/// An engine.
#[derive(Clone, Debug)]
pub(super) struct Api {
    socket: PathBuf,
    /// What paths begin with.
    prefix: String,
    /// Who listens at the socket.
    pub(super) peer: Peer,
    /// The engine's own version.
    pub(super) version: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Versions {
    version: Option<String>,
    api_version: Option<String>,
}

/// A container of the list.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) names: Option<Vec<String>>,
}

/// What is read of an inspection.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Inspected {
    pub(super) name: Option<String>,
    /// The id of its image.
    pub(super) image: Option<String>,
    pub(super) config: Option<Config>,
    pub(super) state: Option<State>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Config {
    pub(super) labels: Option<HashMap<String, String>>,
}

/// How a container does. `Status` is not read: it has words that differ from engine to engine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct State {
    pub(super) running: Option<bool>,
    /// A paused container runs for Docker, and does not for Podman.
    pub(super) paused: Option<bool>,
    pub(super) pid: Option<i64>,
    pub(super) started_at: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: Option<Config>,
    labels: Option<HashMap<String, String>>,
}

/// What an engine's stream of events told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// This container, with this name, may have changed.
    Container(String, Option<String>),
    /// Something happened that was not understood.
    Unclear,
}

impl Api {
    /// Asks the engine who it is.
    pub(super) async fn connect(socket: PathBuf) -> Result<Self, Failure> {
        let stream = timeout(ANSWER, UnixStream::connect(&socket)).await;
        let stream = stream.map_err(|_| Failure::Away(std::io::ErrorKind::TimedOut.into()))?.map_err(Failure::Away)?;
        let (peer, prefix, version) = (Peer::of(&stream), String::new(), String::new());
        drop(stream);
        let api = Self { socket, prefix, peer, version };
        let versions: Versions = api.get("/version").await?;
        let spoken = versions.api_version.as_deref().and_then(Version::parse);
        let Version(major, minor) = spoken.map_or(NEWEST, |spoken| spoken.min(NEWEST));
        Ok(Self { prefix: format!("/v{major}.{minor}"), version: versions.version.unwrap_or_default(), ..api })
    }

    /// The containers that run or are paused, those that can be told by an id; and how many cannot.
    pub(super) async fn list(&self) -> Result<(Vec<Listed>, usize), Failure> {
        // {"status":["running","paused"]}: without it Docker lists paused ones and Podman does not.
        let filters = "%7B%22status%22%3A%5B%22running%22%2C%22paused%22%5D%7D";
        let listed: Vec<Value> = self.get(&format!("/containers/json?filters={filters}")).await?;
        let all = listed.len();
        let listed: Vec<Listed> = listed.into_iter().filter_map(|one| serde_json::from_value(one).ok()).collect();
        let without = all - listed.len();
        Ok((listed, without))
    }

    pub(super) async fn inspect(&self, id: &str) -> Result<Inspected, Failure> {
        self.get(&format!("/containers/{}/json", path_part(id)?)).await
    }

    /// The labels that an image carries.
    pub(super) async fn image_labels(&self, id: &str) -> Result<HashMap<String, String>, Failure> {
        let image: Image = self.get(&format!("/images/{}/json", path_part(id)?)).await?;
        let configured = image.config.and_then(|config| config.labels).unwrap_or_default();
        Ok(configured.into_iter().chain(image.labels.unwrap_or_default()).collect())
    }

    /// Changes of containers, from a moment ago on. The stream has ended when nothing more comes.
    pub(super) fn events(&self) -> (mpsc::Receiver<Result<Event, EventsError>>, AbortOnDropHandle<()>) {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let api = self.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = api.follow(&sender).await {
                let _ = sender.send(Err(error)).await;
            }
        });
        (receiver, AbortOnDropHandle::new(task))
    }

    async fn follow(&self, sender: &mpsc::Sender<Result<Event, EventsError>>) -> Result<(), EventsError> {
        let since = unix_time().saturating_sub(OVERLAP);
        // {"type":["container"]}. Which events matter is decided here: engines differ in their names.
        let filters = "%7B%22type%22%3A%5B%22container%22%5D%7D";
        let path = format!("/events?since={}.{:09}&filters={filters}", since.as_secs(), since.subsec_nanos());
        let (response, _connection) = self.ask(&path).await?;
        if !response.status().is_success() {
            return Err(EventsError::Status(response.status()));
        }
        let mut body = response.into_body();
        let mut line = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            for part in data.split_inclusive(|&byte| byte == b'\n') {
                line.extend_from_slice(part);
                if line.len() > EVENT {
                    return Err(EventsError::TooLong);
                }
                if line.ends_with(b"\n") {
                    if let Some(event) = read_event(&line)
                        && sender.send(Ok(event)).await.is_err()
                    {
                        return Ok(());
                    }
                    line.clear();
                }
            }
        }
        Ok(())
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let answer = async {
            let (response, _connection) = self.ask(path).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST).collect().await;
            let body = body.map_err(Failure::Broken)?.to_bytes();
            match status {
                StatusCode::NOT_FOUND => Err(Failure::NotFound),
                status if status.is_success() => serde_json::from_slice(&body).map_err(Failure::Garbled),
                status => Err(Failure::Status { status, message: message(&body) }),
            }
        };
        timeout(ANSWER, answer).await.unwrap_or(Err(Failure::Late))
    }

    /// Asks; the connection is to be kept for as long as the response is read.
    async fn ask(&self, path: &str) -> Result<(Response<Incoming>, AbortOnDropHandle<()>), Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(Failure::Away)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(Failure::Silent)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(async move {
            // What goes wrong is told to whoever reads the response.
            let _ = connection.await;
        }));
        let request = Request::get(format!("{}{path}", self.prefix)).header(hyper::header::HOST, "docker");
        let request = request.body(Empty::<Bytes>::new()).map_err(Failure::Request)?;
        let response = sender.send_request(request).await.map_err(Failure::Silent)?;
        Ok((response, connection))
    }
}

/// An id as part of a path.
fn path_part(id: &str) -> Result<&str, Failure> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'_' | b'.' | b'+');
    let is_plain = !id.is_empty() && id.bytes().all(plain) && id != "." && id != "..";
    if is_plain { Ok(id) } else { Err(Failure::Id(id.to_owned())) }
}

/// What the engine says of a failure, as far as a line of the log has room for it.
fn message(body: &[u8]) -> String {
    let said = serde_json::from_slice::<Value>(body).ok();
    let said = said.as_ref().and_then(|said| said.get("message")?.as_str());
    said.unwrap_or("no reason").chars().take(300).collect()
}

/// The news in a line of the stream; none in what happens within a container, a health check say.
fn read_event(line: &[u8]) -> Option<Event> {
    if line.trim_ascii().is_empty() {
        return None;
    }
    let Ok(event) = serde_json::from_slice::<Value>(line) else { return Some(Event::Unclear) };
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
    if text("/Type").is_some_and(|kind| kind != "container") {
        return None;
    }
    let action = text("/Action").or(text("/status"));
    // Podman has `died` and `remove` where Docker has `die` and `destroy`.
    let matters =
        ["start", "restart", "die", "died", "stop", "destroy", "remove", "cleanup", "rename", "pause", "unpause"];
    if action.is_some_and(|action| !matters.contains(&action)) {
        return None;
    }
    match text("/Actor/ID").or(text("/id")) {
        Some(id) => Some(Event::Container(id.to_owned(), text("/Actor/Attributes/name").map(ToOwned::to_owned))),
        None => Some(Event::Unclear),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_several_engines() {
        let news = |id: &str| Some(Event::Container(id.to_owned(), None));
        for (line, expected) in [
            (r#"{"Type":"container","Action":"start","Actor":{"ID":"a"}}"#, news("a")),
            (r#"{"status":"died","id":"b"}"#, news("b")),
            (r#"{"Type":"container","Action":"exec_start: sh","Actor":{"ID":"a"}}"#, None),
            (r#"{"Type":"container","Action":"of a later version","Actor":{"ID":"a"}}"#, None),
            (r#"{"Type":"network","Action":"destroy","Actor":{"ID":"n"}}"#, None),
            (r#"{"Type":"container","Action":"die"}"#, Some(Event::Unclear)),
            ("{", Some(Event::Unclear)),
            ("\r\n", None),
        ] {
            assert_eq!(read_event(line.as_bytes()), expected, "{line}");
        }
        let named = br#"{"Type":"container","Action":"die","Actor":{"ID":"a","Attributes":{"name":"web"}}}"#;
        assert_eq!(read_event(named), Some(Event::Container("a".into(), Some("web".into()))));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(Version::parse("1.9") < Version::parse("1.41") && Version::parse("1.41") < Some(NEWEST));
        assert_eq!((Version::parse("1"), Version::parse("a.b")), (None, None));
    }

    #[test]
    fn what_is_no_id_is_not_asked_for() {
        for bad in ["", "..", "a/b", "a?b", "a b", "a%2f"] {
            assert!(path_part(bad).is_err(), "{bad}");
        }
        assert!(path_part("sha256:abc").is_ok());
    }

    #[test]
    fn what_is_unknown_or_missing_in_a_document_is_passed_over() {
        for text in
            ["{}", r#"{"State":null,"Config":null,"Name":null}"#, r#"{"State":{"Status":"of tomorrow"},"X":[1]}"#]
        {
            serde_json::from_str::<Inspected>(text).unwrap();
        }
    }
}
