//! A client of one server that is reached over HTTP: one connection that is kept open, and bounds on everything.
//!
//! A request takes the kept connection, or opens one of its own while another request has it, so that an answer that does
//! not come keeps no other request waiting. Whoever needs an order sends one request after the other. A redirect is an
//! answer like any other and is not followed: the server is where the configuration says.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use crate::tls::{self, AnyCertificate, TlsError};
use portsplice_model::error_line;
use portsplice_model::url::Url;

/// Whose certificates a server may present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those signed by an authority that this system trusts.
    System,
    /// Those signed by an authority of this PEM file.
    File(PathBuf),
    /// Any: each answer has to prove in another way who gave it.
    Anyone,
}

/// How long things may take and how much may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// For name, connection and TLS handshake together.
    pub connect: Duration,
    /// From a request to the last byte of its response, the connection not included.
    pub request: Duration,
    /// Longest body of a response, in bytes.
    pub response_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), request: Duration::from_secs(10), response_bytes: 16 * 1024 * 1024 }
    }
}

/// What the connection contributes to a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel {
    /// The TLS exporter (RFC 9266); `None` on plain TCP.
    pub exporter: Option<[u8; 32]>,
}

/// Why there is no client; the texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file with the authorities cannot be read, or holds something else.
    #[error(transparent)]
    Authorities(#[from] TlsError),
    /// A certificate of the file is none.
    #[error("{} contains an invalid certificate", .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The system trusts nobody.
    #[error(
        "this system has no certificates of authorities; install ca-certificates, or name a file with `registry.ca-file`"
    )]
    NoAuthorities,
    /// The cryptography of this process lacks what TLS needs.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection could be made.
    #[error("cannot connect to {server}: {problem}")]
    Connect {
        /// The server.
        server: Url,
        /// What is wrong.
        problem: String,
    },
    /// No whole response came in time. What was asked for may have happened.
    #[error("no response from {server} within {}", humantime::format_duration(*.within))]
    Timeout {
        /// The server.
        server: Url,
        /// How long was waited.
        within: Duration,
    },
    /// The connection failed, or what came is no HTTP. What was asked for may have happened.
    #[error("the connection to {server} failed: {problem}")]
    Broken {
        /// The server.
        server: Url,
        /// What is wrong.
        problem: String,
    },
    /// The response is longer than allowed.
    #[error("the response of {server} is larger than {limit} bytes")]
    TooLong {
        /// The server.
        server: Url,
        /// [`Bounds::response_bytes`]
        limit: usize,
    },
}

/// A client of one server.
pub struct HttpClient {
    url: Url,
    tls: Option<TlsConnector>,
    bounds: Bounds,
    /// The kept connection. Taken out for the time of a request: one that is given up half-way leaves no connection behind
    /// on which the next would read its response.
    kept: Mutex<Option<Connection>>,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    channel: Channel,
    /// Moves the bytes; ends with this.
    _driver: AbortOnDropHandle<()>,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("url", &self.url.to_string()).field("bounds", &self.bounds).finish()
    }
}

impl HttpClient {
    /// A client of the server at `url`; connects with the first request.
    ///
    /// # Errors
    /// Where the certificates to trust cannot be read.
    pub fn new(url: Url, trust: &Trust, bounds: Bounds) -> Result<Self, ClientError> {
        let tls = if url.tls { Some(TlsConnector::from(Arc::new(client_config(trust)?))) } else { None };
        Ok(Self { url, tls, bounds, kept: Mutex::new(None) })
    }

    /// The server.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Sends the request that `make` makes for the connection at hand, and reads its response.
    ///
    /// The request's target is in origin form; `Host` is added. `make` is asked again when a connection that was kept open
    /// turns out to be closed before anything was sent on it; what was sent is never sent twice.
    ///
    /// # Errors
    /// See [`HttpError`].
    pub async fn request(
        &self,
        mut make: impl FnMut(&Channel) -> Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, HttpError> {
        loop {
            let kept = self.kept.lock().take().filter(|connection| !connection.sender.is_closed());
            let is_fresh = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect().await?,
            };
            let mut request = make(&connection.channel);
            let host = HeaderValue::from_str(&self.url.authority()).map_err(|e| self.broken(&e))?;
            request.headers_mut().entry(HOST).or_insert(host);
            let within = self.bounds.request;
            let exchanged = timeout(within, self.exchange(&mut connection, request)).await;
            match exchanged.map_err(|_| HttpError::Timeout { server: self.url.clone(), within })? {
                Ok(response) => {
                    // Of several that come back, the last is kept.
                    *self.kept.lock() = Some(connection);
                    return Ok(response);
                }
                Err(Failed::Unsent(_)) if !is_fresh => {}
                Err(Failed::Unsent(error) | Failed::Sent(error)) => return Err(error),
            }
        }
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, Failed> {
        let sent = connection.sender.try_send_request(request).await;
        let response = sent.map_err(|mut error| match error.take_message() {
            Some(_) => Failed::Unsent(self.broken(&error.into_error())),
            None => Failed::Sent(self.broken(&error.into_error())),
        })?;
        let (head, body) = response.into_parts();
        let limit = self.bounds.response_bytes;
        match Limited::new(body, limit).collect().await {
            Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(Failed::Sent(HttpError::TooLong { server: self.url.clone(), limit }))
            }
            Err(error) => Err(Failed::Sent(self.broken(&*error))),
        }
    }

    async fn connect(&self) -> Result<Connection, HttpError> {
        let within = self.bounds.connect;
        let failed = |problem: String| HttpError::Connect { server: self.url.clone(), problem };
        match timeout(within, self.try_connect()).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(failed(error_line(&error))),
            Err(_) => Err(failed(format!("no response within {}", humantime::format_duration(within)))),
        }
    }

    async fn try_connect(&self) -> Result<Connection, ConnectError> {
        let stream = TcpStream::connect((self.url.host.as_str(), self.url.port)).await?;
        // Requests are small and each is waited for.
        let _ = stream.set_nodelay(true);
        let Some(connector) = &self.tls else {
            return converse(stream, Channel { exporter: None }).await;
        };
        let name = ServerName::try_from(self.url.host.clone())?;
        let stream = connector.connect(name, stream).await?;
        let exporter = tls::client_exporter(stream.get_ref().1);
        // Without one, what is signed for this connection would hold on any plain one.
        let exporter = exporter.ok_or(ConnectError::NoExporter)?;
        converse(stream, Channel { exporter: Some(exporter) }).await
    }

    fn broken(&self, error: &dyn std::error::Error) -> HttpError {
        // hyper's own text says little without its source.
        let problem = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        HttpError::Broken { server: self.url.clone(), problem }
    }
}

/// Why an exchange failed, and whether the server can have seen the request.
enum Failed {
    Unsent(HttpError),
    Sent(HttpError),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    /// From TCP, or from the TLS handshake.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// TLS has no such names.
    #[error(transparent)]
    Name(#[from] InvalidDnsNameError),
    #[error("the TLS connection has no exporter")]
    NoExporter,
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    channel: Channel,
) -> Result<Connection, ConnectError> {
    let (sender, driver) = http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(async move {
        if let Err(error) = driver.await {
            tracing::debug!(%error, "an HTTP connection has failed");
        }
    });
    Ok(Connection { sender, channel, _driver: AbortOnDropHandle::new(driver) })
}

fn client_config(trust: &Trust) -> Result<ClientConfig, ClientError> {
    let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions()?;
    let mut config = match trust {
        Trust::Anyone => {
            let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate));
            let mut config = builder.with_no_client_auth();
            // The exporter is all that ties the proof to the connection: see `TlsIdentity`.
            config.require_ems = true;
            config
        }
        Trust::File(path) => builder.with_root_certificates(roots_of(path)?).with_no_client_auth(),
        Trust::System => builder.with_root_certificates(system_roots()?).with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The authorities in a PEM file.
fn roots_of(path: &Path) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    for certificate in tls::certificates(path)? {
        roots.add(certificate).map_err(|source| ClientError::Certificate { path: path.to_owned(), source })?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, ClientError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(ClientError::NoAuthorities);
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
