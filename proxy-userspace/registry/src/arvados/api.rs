//! Requests to Arvados's API, as its documentation has them: `doc/api/requests`, `methods`, `tokens` of Arvados.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, InvalidHeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::model::{HasUuid, Items};
use crate::StoreError;
use crate::pause::Pause;
use portsplice_files::regular_file;
use portsplice_model::error_line;
use portsplice_model::url::Url;
use portsplice_net::client::{Bounds, ClientError, HttpClient, HttpError, Trust};

/// How many objects are asked for at once. The server may give fewer and says how many it would.
const PAGE: usize = 500;
/// Pages of one list. Who answers without end is not believed.
const PAGES: usize = 10_000;
/// How long nothing is asked when the server says that it has too much to do but not for how long, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(120));
/// How much of an error's text is shown.
const SHOWN: usize = 300;
/// Largest file with a token.
const MAX_TOKEN: u64 = 64 * 1024;

/// Where the API is, and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The API's address.
    pub url: Url,
    /// What its certificate is checked against; `None` is the system's.
    pub ca_file: Option<PathBuf>,
    /// The file with the token.
    pub token_file: PathBuf,
}

/// Why the API cannot be asked; the texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// What its certificate is checked against cannot be had.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The file with the token cannot be read.
    #[error("`registry.token-file` {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("`registry.token-file` {} must contain a token and nothing else", .path.display())]
    NoToken {
        /// The file.
        path: PathBuf,
    },
    /// HTTP cannot carry the token.
    #[error("`registry.token-file` {}", .path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidHeaderValue,
    },
}

/// What the server says instead of giving what was asked for.
#[derive(Debug)]
pub(super) enum Failed {
    /// There is no such object, or none that the token may read: the server does not tell the two apart.
    NotFound,
    /// It does not want this: the object's state forbids it, or a constraint.
    Unprocessable(String),
    /// Anything else.
    Store(StoreError),
}

impl Failed {
    /// As an error of the store; `what` was asked for.
    pub(super) fn about(self, what: &str) -> StoreError {
        match self {
            Self::NotFound => StoreError::refused(format!("Arvados has no {what}, or the token's user may not see it")),
            Self::Unprocessable(text) => StoreError::refused(format!("Arvados refuses {what}: {text}")),
            Self::Store(error) => error,
        }
    }
}

impl From<HttpError> for Failed {
    fn from(error: HttpError) -> Self {
        Self::Store(error.into())
    }
}

/// A client of the API.
#[derive(Debug)]
pub(super) struct Api {
    http: HttpClient,
    token_file: PathBuf,
    /// Until when the server wants to be left alone.
    pause: Pause,
}

impl Api {
    /// Reads the token once, so that a mistake shows at the start. It is read again for each request.
    ///
    /// # Errors
    /// What is wrong with a file.
    pub(super) fn new(access: &Access) -> Result<Self, AccessError> {
        let trust = access.ca_file.clone().map_or(Trust::System, Trust::File);
        let http = HttpClient::new(access.url.clone(), &trust, Bounds::default())?;
        let this = Self { http, token_file: access.token_file.clone(), pause: Pause::new(PAUSE.0, PAUSE.1) };
        this.credential()?;
        Ok(this)
    }

    /// The object at `path`.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str, select: &[&str]) -> Result<T, Failed> {
        self.send(Method::GET, path, &[("select", Value::from(select))]).await
    }

    /// All objects of a kind that fit `filters`, in the order of their uuids, which must be in `select`.
    ///
    /// The next page begins behind the last uuid, and not at a number: objects come and go meanwhile.
    pub(super) async fn list<T: DeserializeOwned + HasUuid>(
        &self,
        path: &str,
        filters: &[Value],
        select: &[&str],
    ) -> Result<Vec<T>, Failed> {
        let mut all: Vec<T> = Vec::new();
        for _ in 0..PAGES {
            let mut filters = filters.to_vec();
            if let Some(last) = all.last() {
                filters.push(Value::from(vec!["uuid", ">", last.uuid()]));
            }
            let parameters = [
                ("filters", Value::from(filters)),
                ("select", Value::from(select)),
                ("order", Value::from(vec!["uuid asc"])),
                ("limit", Value::from(PAGE)),
                ("count", Value::from("none")),
            ];
            let page: Items<T> = self.send(Method::GET, path, &parameters).await?;
            let is_last = page.items.is_empty() || page.limit.is_some_and(|limit| page.items.len() < limit);
            all.extend(page.items);
            if is_last {
                return Ok(all);
            }
        }
        Err(Failed::Store(StoreError::corrupt(format!("the Arvados list {path} does not end"))))
    }

    /// Makes an object.
    pub(super) async fn create<T: DeserializeOwned>(
        &self,
        path: &str,
        kind: &'static str,
        object: Value,
        select: &[&str],
    ) -> Result<T, Failed> {
        self.send(Method::POST, path, &[(kind, object), ("select", Value::from(select))]).await
    }

    /// Sets some attributes of an object.
    pub(super) async fn update<T: DeserializeOwned>(
        &self,
        path: &str,
        kind: &'static str,
        attributes: Value,
        select: &[&str],
    ) -> Result<T, Failed> {
        self.send(Method::PUT, path, &[(kind, attributes), ("select", Value::from(select))]).await
    }

    /// Deletes an object.
    pub(super) async fn delete(&self, path: &str) -> Result<(), Failed> {
        let _: Value = self.send(Method::DELETE, path, &[("select", Value::from(vec!["uuid"]))]).await?;
        Ok(())
    }

    /// Parameters go into the query of GET and DELETE, and else into the body.
    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        parameters: &[(&str, Value)],
    ) -> Result<T, Failed> {
        self.wait_over()?;
        let form = encoded(parameters);
        let in_query = method == Method::GET || method == Method::DELETE;
        let target = if in_query { format!("/arvados/v1/{path}?{form}") } else { format!("/arvados/v1/{path}") };
        let credential =
            self.credential().map_err(|e| Failed::Store(StoreError::refused(error_line(&e)).because(e)))?;
        let make = || {
            let request = Request::builder().method(&method).uri(&target).header(AUTHORIZATION, credential.clone());
            let body = if in_query { Bytes::new() } else { Bytes::from(form.clone()) };
            request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(Full::new(body))
        };
        // What goes into it has been checked above; the client wants one for each attempt.
        make().map_err(|e| Failed::Store(StoreError::refused(format!("{path}: {e}")).because(e)))?;
        let response = self.http.request(|_| make().unwrap_or_default()).await?;
        self.read(path, &response)
    }

    fn read<T: DeserializeOwned>(&self, path: &str, response: &Response<Bytes>) -> Result<T, Failed> {
        let (status, body) = (response.status(), response.body());
        if status.is_success() {
            let corrupt = |e| StoreError::corrupt(format!("invalid response from Arvados for {path}: {e}")).because(e);
            return serde_json::from_slice(body).map_err(|e| Failed::Store(corrupt(e)));
        }
        let says = || text_of(status, body);
        let refused = |advice: &str| Failed::Store(StoreError::refused(format!("Arvados, {path}: {}{advice}", says())));
        Err(match status {
            StatusCode::NOT_FOUND => Failed::NotFound,
            StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => Failed::Unprocessable(says()),
            StatusCode::UNAUTHORIZED => refused("; check the token in `registry.token-file`"),
            StatusCode::FORBIDDEN => refused("; docs/registry.md lists the scopes that the token needs"),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                self.pause.begin(response);
                Failed::Store(StoreError::unavailable(format!("Arvados, {path}: {}", says())))
            }
            status if status.is_server_error() => {
                Failed::Store(StoreError::unavailable(format!("Arvados, {path}: {}", says())))
            }
            _ => refused("; check `registry.url`"),
        })
    }

    fn wait_over(&self) -> Result<(), Failed> {
        let left = |left| StoreError::unavailable(format!("Arvados is rate limiting us; retrying in {left} s"));
        self.pause.left().map_or(Ok(()), |seconds| Err(Failed::Store(left(seconds))))
    }

    fn credential(&self) -> Result<HeaderValue, AccessError> {
        let path = || self.token_file.clone();
        let text = regular_file::read_text(&self.token_file, MAX_TOKEN)
            .map_err(|source| AccessError::Unreadable { path: path(), source })?;
        let token = text.trim();
        let is_token = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        if !is_token {
            return Err(AccessError::NoToken { path: path() });
        }
        let text = Zeroizing::new(format!("Bearer {token}"));
        let mut credential =
            HeaderValue::from_str(&text).map_err(|source| AccessError::Header { path: path(), source })?;
        credential.set_sensitive(true);
        Ok(credential)
    }
}

/// Each value as JSON; a text as it is.
fn encoded(parameters: &[(&str, Value)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    for (name, value) in parameters {
        match value {
            Value::String(text) => form.append_pair(name, text),
            value => form.append_pair(name, &value.to_string()),
        };
    }
    form.finish()
}

/// What an error says.
fn text_of(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        #[serde(default)]
        errors: Vec<String>,
        #[serde(default)]
        error_token: String,
    }
    let said = serde_json::from_slice(body).unwrap_or(Said { errors: Vec::new(), error_token: String::new() });
    let errors = said.errors.join("; ");
    let shown: String = errors.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    let token: String = said.error_token.chars().filter(char::is_ascii_graphic).take(40).collect();
    match (&*shown, &*token) {
        ("", _) => format!("{status}"),
        (text, "") => format!("{status}: {text}"),
        (text, token) => format!("{status}: {text} (error token {token})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_shown_with_what_finds_them_in_the_servers_log() {
        let body = br#"{"errors":["Path not found (req-1)","x\u001b[31m"],"error_token":"1478+ab12"}"#;
        let text = text_of(StatusCode::NOT_FOUND, body);
        assert_eq!(text, "404 Not Found: Path not found (req-1); x[31m (error token 1478+ab12)");
        assert_eq!(text_of(StatusCode::BAD_GATEWAY, b"<html>"), "502 Bad Gateway");
    }
}
