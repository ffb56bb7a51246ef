//! One connection to one of etcd's endpoints, and the next one when it fails.
//!
//! Calls stay with an endpoint as long as it answers. One that does not is left, with its connection, so that a process
//! that is stopped, or a network that swallows packets, costs one timeout and not each call's. No lock is held over the
//! network: while one endpoint is slow to let us in, other calls try the next, and all take the first connection that is
//! there.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::fault::Fault;
use crate::StoreError;
use portsplice_files::regular_file;
use portsplice_model::error_line;
use portsplice_model::url::Url;
use portsplice_net::tls::TlsError;

/// How long one call may take, a new connection and its authentication included.
pub(super) const CALL: Duration = Duration::from_secs(4);
/// How long a connection may take to be made. Less than a call, which may have to make one.
const CONNECT: Duration = Duration::from_secs(2);
/// How often HTTP/2 asks whether the other end is there, while a stream is open, and how long it waits for the answer. etcd takes
/// more than one a 5 seconds for an attack (`--grpc-keepalive-min-time`), and any without a stream.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));
/// Largest file with a certificate, a key or a password.
const MAX_FILE: u64 = 1024 * 1024;

/// Where etcd is, and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Its members' client addresses.
    pub endpoints: Vec<Url>,
    /// What their certificates are checked against; `None` is the system's.
    pub ca_file: Option<PathBuf>,
    /// The certificate that this client presents, PEM; `None` presents none.
    pub certificate: Option<PathBuf>,
    /// The key of that certificate, PEM.
    pub key: Option<PathBuf>,
    /// A file with `USER:PASSWORD`.
    pub token_file: Option<PathBuf>,
}

/// Why etcd cannot be asked; the texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// [`Access`] names no member.
    #[error("etcd needs an endpoint: set `registry.url`")]
    NoEndpoint,
    /// The file with the password holds something else.
    #[error("{} must contain USER:PASSWORD for etcd and nothing else", .path.display())]
    NoPassword {
        /// The file.
        path: PathBuf,
    },
    /// The members' certificates cannot be checked.
    #[error(transparent)]
    Authorities(#[from] TlsError),
    /// A file cannot be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl Access {
    /// Reads all files once, so that a mistake shows at the start. They are read again for each connection.
    ///
    /// # Errors
    /// What is wrong with one.
    pub fn check(&self) -> Result<(), AccessError> {
        if self.endpoints.is_empty() {
            return Err(AccessError::NoEndpoint);
        }
        self.endpoints.iter().try_for_each(|url| self.options(url).map(drop))
    }

    fn options(&self, url: &Url) -> Result<ConnectOptions, AccessError> {
        // A member without a leader would answer from what it knew, for hours.
        let mut options = ConnectOptions::new()
            .with_require_leader(true)
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING.0, PING.1)
            .with_keep_alive_while_idle(false)
            .with_tcp_keepalive(PING.0);
        if url.tls {
            options = options.with_tls(self.tls()?);
        }
        if let Some(path) = &self.token_file {
            let text = Zeroizing::new(read(path)?);
            let text = Zeroizing::new(std::str::from_utf8(&text).unwrap_or_default().trim_end().to_owned());
            let (user, password) = text
                .split_once(':')
                .filter(|(user, password)| !user.is_empty() && !password.is_empty())
                .ok_or_else(|| AccessError::NoPassword { path: path.clone() })?;
            options = options.with_user(user, password);
        }
        Ok(options)
    }

    fn tls(&self) -> Result<TlsOptions, AccessError> {
        let mut tls = TlsOptions::new();
        tls = match &self.ca_file {
            Some(path) => {
                // The library passes over a file that holds none, and would then trust nobody without saying why.
                portsplice_net::tls::certificates(path)?;
                tls.ca_certificate(Certificate::from_pem(read(path)?))
            }
            None => tls.with_native_roots(),
        };
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            let key = Zeroizing::new(read(key)?);
            tls = tls.identity(Identity::from_pem(read(certificate)?, key.as_slice()));
        }
        Ok(tls)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, AccessError> {
    let content = regular_file::read(path, MAX_FILE)
        .map_err(|source| AccessError::Unreadable { path: path.to_owned(), source })?;
    Ok(content.to_vec())
}

/// A connection that is made when it is needed, and again when it has failed.
pub(super) struct Connection {
    access: Access,
    /// What calls use; `None` until it is made, and after it was left. Whoever needs one waits for whoever makes one.
    current: watch::Sender<Option<Current>>,
    /// As many connections are made at a time as there are endpoints.
    makers: Semaphore,
    /// The endpoint that is tried next.
    next: AtomicUsize,
    /// Counts clients, so that two calls that fail on one do not give up two.
    generation: AtomicU64,
}

#[derive(Clone)]
struct Current {
    client: Client,
    generation: u64,
    endpoint: usize,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("access", &self.access).finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects when it is first used.
    pub(super) fn new(access: Access) -> Self {
        // Not all clients begin with the same member.
        let endpoints = access.endpoints.len().max(1);
        Self {
            access,
            current: watch::Sender::new(None),
            makers: Semaphore::new(endpoints),
            next: AtomicUsize::new(rand::random_range(0..endpoints)),
            generation: AtomicU64::new(0),
        }
    }

    /// One attempt at one endpoint, within `within`; when it fails for the connection's sake, the next attempt is at the next.
    ///
    /// # Errors
    /// Why it failed. Unless etcd itself said so, what was asked for may have happened, or may still happen.
    pub(super) async fn once<T, F: Future<Output = Result<T, etcd_client::Error>>>(
        &self,
        within: Duration,
        call: impl FnOnce(Client) -> F,
    ) -> Result<T, Fault> {
        let mut generation = None;
        let attempt = async {
            let current = self.client().await?;
            generation = Some(current.generation);
            call(current.client).await.map_err(Fault::from)
        };
        let late =
            || StoreError::unavailable(format!("no response from etcd within {}", humantime::format_duration(within)));
        let result = timeout(within, attempt).await.unwrap_or_else(|_| Err(late().into()));
        if let (Err(fault), Some(generation)) = (&result, generation)
            && fault.is_transient()
        {
            self.leave(generation);
        }
        result
    }

    /// Asks each endpoint once until one answers. Only for what may happen twice.
    ///
    /// # Errors
    /// The last endpoint's, or what one of them refused.
    pub(super) async fn call<T, F: Future<Output = Result<T, etcd_client::Error>>>(
        &self,
        call: impl Fn(Client) -> F,
    ) -> Result<T, Fault> {
        let mut attempts = self.access.endpoints.len().clamp(2, 3);
        loop {
            attempts -= 1;
            match self.once(CALL, &call).await {
                Err(fault) if fault.is_transient() && attempts > 0 => {}
                result => return result,
            }
        }
    }

    /// The client, made if there is none.
    async fn client(&self) -> Result<Current, Fault> {
        let mut current = self.current.subscribe();
        if let Some(current) = &*current.borrow_and_update() {
            return Ok(current.clone());
        }
        tokio::select! {
            made = self.make() => made,
            made = current.wait_for(Option::is_some) => match made.ok().and_then(|made| made.clone()) {
                Some(made) => Ok(made),
                // Not to be expected: the sender is this one's.
                None => Err(StoreError::unavailable("the connection to etcd was given up").into()),
            },
        }
    }

    /// Makes a client of the next endpoint, for all calls.
    async fn make(&self) -> Result<Current, Fault> {
        let _maker = self.makers.acquire().await;
        // Also when this is given up half-way, or another call comes meanwhile, the next attempt is elsewhere.
        let endpoint = self.next.fetch_add(1, Ordering::Relaxed) % self.access.endpoints.len();
        let url = &self.access.endpoints[endpoint];
        let options = self.access.options(url).map_err(|e| StoreError::refused(error_line(&e)).because(e))?;
        let made = timeout(CONNECT, Client::connect([url.to_string()], Some(options))).await;
        let client = made.map_err(|_| StoreError::unavailable(format!("{url} does not respond")))??;
        let mut used = None;
        self.current.send_if_modified(|current| {
            // Of two that are made at a time, the first is everybody's.
            let is_first = current.is_none();
            let generation = || self.generation.fetch_add(1, Ordering::Relaxed);
            used = Some(current.get_or_insert_with(|| Current { client, generation: generation(), endpoint }).clone());
            is_first
        });
        used.ok_or_else(|| StoreError::internal("a connection to etcd is lost").into())
    }

    /// Gives the client of `generation` up, unless that has happened.
    fn leave(&self, generation: u64) {
        self.current.send_if_modified(|current| {
            let left = current.take_if(|current| current.generation == generation);
            if let Some(left) = &left {
                self.next.store(left.endpoint + 1, Ordering::Relaxed);
            }
            left.is_some()
        });
    }
}
