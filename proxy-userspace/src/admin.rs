//! Metrics and probes, on an address of their own: `/metrics`, `/healthz`, `/readyz`.
//!
//! It never shares a port, a connection limit or a parser with the data path. One request a connection, a bounded time
//! for each, and a bounded number at once: a scraper that is stuck holds nothing that anybody else needs.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::metrics::{self, Metrics};
use crate::readiness::Readiness;
use portsplice_net::listen;

/// Connections that are served at once; others wait in the backlog.
const CONNECTIONS: usize = 32;
/// For a request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// From accept to close. Prometheus gives up after ten seconds by default.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// The admin server's socket, open and not served yet.
#[derive(Debug)]
pub struct AdminListener {
    listener: TcpListener,
    address: SocketAddr,
}

/// What the admin server shows.
#[derive(Debug, Clone)]
pub struct Admin {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// For `/readyz`.
    pub readiness: Readiness,
}

impl AdminListener {
    /// Opens the socket; port 0 takes a free one.
    ///
    /// # Errors
    /// When it cannot be opened; the text says what to do.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let socket = listen::open(address, false)?;
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// The real address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the future is dropped.
    ///
    /// # Errors
    /// When the socket cannot be registered with the runtime or has become unusable.
    pub async fn serve(self, admin: Admin) -> Result<Infallible> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let (permits, listener) = (&permits, &listener);
        let accept = || async move {
            let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
            Ok((listener.accept().await?.0, permit))
        };
        let admit = |(stream, permit)| {
            let admin = admin.clone();
            tokio::spawn(async move {
                connection(stream, admin).await;
                drop(permit);
            });
        };
        Err(listen::accept("admin", accept, admit).await.into())
    }
}

async fn connection(stream: TcpStream, admin: Admin) {
    let service = service_fn(move |request| {
        let response = admin.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).keep_alive(false).max_buf_size(16 * 1024);
    // Whatever goes wrong on this connection is the scraper's to notice.
    match timeout(CONNECTION_TIMEOUT, http.serve_connection(TokioIo::new(stream), service)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin connection failed"),
        Err(_) => tracing::debug!("admin connection took too long and was closed"),
    }
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        // hyper leaves the body of an answer to HEAD out by itself.
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".to_owned());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics.render());
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
                response
            }
            "/healthz" => text(StatusCode::OK, "alive\n".to_owned()),
            "/readyz" => {
                let report = self.readiness.report();
                let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                text(status, report.to_string())
            }
            _ => text(StatusCode::NOT_FOUND, "there is /metrics, /healthz and /readyz\n".to_owned()),
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
