//! TLS towards controllers: the certificate that a listener presents, and what binds a credential to the connection.
//!
//! The certificate proves nothing by itself and no authority signs it. A controller's credential either covers it
//! (`certificate`) or covers the connection's exporter (`bound`), so that a man in the middle, who would have another
//! certificate and other keys, is found out at the first request.

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, date_time_ymd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::{ClientConnection, DigitallySignedStruct, ServerConfig, ServerConnection, SignatureScheme};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use portsplice_files::regular_file;
use portsplice_model::unix_time;

/// RFC 9266 section 2.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";
/// How long a certificate made at start is valid. The process ends long before.
const VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How far in the past it begins to be valid, for clients whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 3600);
/// More than any real chain or key; a path to something endless must not fill the memory.
const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// A certificate that is not made at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM: PKCS #8, PKCS #1 or SEC1.
    pub key: PathBuf,
}

/// Why a certificate or a key cannot be used; the texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No key or certificate can be made.
    #[error("cannot {doing}")]
    Generate {
        /// What was tried.
        doing: &'static str,
        /// What the generator says.
        source: rcgen::Error,
    },
    /// The key that was made is none that TLS knows.
    #[error("{0}")]
    GeneratedKey(&'static str),
    /// The identity that was made is of no use.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A file cannot be read.
    #[error("cannot {doing} {}", .path.display())]
    Unreadable {
        /// What was tried: `open`, `look at` or `read`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// More than 1 MiB.
    #[error("{} is too long for a certificate chain", .path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// Everybody may access a file with a private key.
    #[error("{} contains a private key and is accessible to everybody; run: chmod o= {}", .path.display(), .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// A file of certificates is no PEM.
    #[error("{} is not a PEM file of certificates", .path.display())]
    NoPem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file of certificates holds something else, or nothing.
    #[error("{} does not contain a certificate; it must begin with -----BEGIN CERTIFICATE-----", .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A key's file holds something else.
    #[error("{} does not contain a private key in PEM (PKCS #8, PKCS #1 or SEC1, not encrypted)", .path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// Certificate and key are of no use together.
    #[error("{} and {} cannot be used; do they match?", .files.certificate.display(), .files.key.display())]
    Unusable {
        /// The two.
        files: CertificateFiles,
        /// What is wrong with them.
        source: IdentityError,
    },
}

/// Why TLS does not take a certificate chain with a key.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is no certificate in it.
    #[error("an empty certificate chain")]
    Empty,
    /// What TLS says.
    #[error(transparent)]
    Rejected(#[from] rustls::Error),
}

/// What a listener presents, and how it accepts handshakes with it.
pub struct TlsIdentity {
    /// Does the server's side of handshakes.
    pub acceptor: TlsAcceptor,
    /// The leaf certificate in DER, which the `certificate` credential covers.
    pub certificate_der: Vec<u8>,
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIdentity").field("certificate_bytes", &self.certificate_der.len()).finish_non_exhaustive()
    }
}

/// A listener's identity, which a reload may replace. A connection takes the present one once, when it is accepted, so
/// that the certificate its credentials are checked against is the one it was shown.
pub type TlsSlot = ArcSwap<TlsIdentity>;

impl TlsIdentity {
    /// Makes a key and a self-signed certificate: ECDSA on P-256, about ten years, for localhost and `host`.
    ///
    /// # Errors
    /// When the random number generator or the encoder fails.
    pub fn generate(host: &str) -> Result<Self, TlsError> {
        let cannot = |doing| move |source| TlsError::Generate { doing, source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(cannot("make a TLS key"))?;
        let mut names = vec!["localhost".to_owned()];
        // A host name that DNS could not carry is left out; nobody verifies the names anyway.
        let is_dns = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if is_dns && host != "localhost" {
            names.push(host.to_owned());
        }
        let mut params = CertificateParams::new(names).map_err(cannot("name a TLS certificate"))?;
        params.distinguished_name.push(DnType::CommonName, "portsplice");
        let now = date_time_ymd(1970, 1, 1) + unix_time();
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + VALIDITY;
        let certificate = params.self_signed(&key).map_err(cannot("sign a TLS certificate"))?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(TlsError::GeneratedKey)?;
        Ok(Self::new(vec![certificate.der().clone()], key)?)
    }

    /// Reads a certificate chain and its key from PEM files.
    ///
    /// # Errors
    /// When a file cannot be read or holds something else, when everybody may read the key, or when the two do not belong
    /// together.
    pub fn load(files: &CertificateFiles) -> Result<Self, TlsError> {
        let chain = certificates(&files.certificate)?;
        let pem = read_pem(&files.key, true)?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|source| TlsError::NoKey { path: files.key.clone(), source })?;
        Self::new(chain, key).map_err(|source| TlsError::Unusable { files: files.clone(), source })
    }

    fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, IdentityError> {
        let certificate_der = chain.first().ok_or(IdentityError::Empty)?.to_vec();
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Without the extended master secret a TLS 1.2 exporter does not identify the connection (RFC 7627 section 1,
        // RFC 9266 section 3).
        config.require_ems = true;
        // No resumption: each connection sees the certificate, which a credential may cover, and a replaced one is in
        // force at once. Controllers keep connections open, so that a signature more on each is cheap.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), certificate_der })
    }
}

/// The cryptography of the whole process.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(ring::default_provider())))
}

/// The `tls-exporter` channel binding of RFC 9266; `None` before the handshake is complete.
pub fn exporter(connection: &ServerConnection) -> Option<[u8; 32]> {
    // A context of zero length, not none: RFC 9266 section 2. In TLS 1.2 they differ.
    connection.export_keying_material([0; 32], EXPORTER_LABEL, Some(b"")).ok()
}

/// The same, seen from the client.
pub fn client_exporter(connection: &ClientConnection) -> Option<[u8; 32]> {
    connection.export_keying_material([0; 32], EXPORTER_LABEL, Some(b"")).ok()
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// When it cannot be read or holds something else.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read_pem(path, false)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|source| TlsError::NoPem { path: path.to_owned(), source })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

/// Accepts every certificate of a server, but only from whoever has its key: the handshake's signature is checked.
///
/// For connections whose other end is proved in another way, or needs no proof.
#[derive(Debug)]
pub struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn read_pem(path: &Path, secret: bool) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let unreadable = |doing| move |source| TlsError::Unreadable { doing, path: path.to_owned(), source };
    let file = regular_file::open(path).map_err(unreadable("open"))?;
    let metadata = file.metadata().map_err(unreadable("look at"))?;
    if secret && metadata.permissions().mode() & 0o007 != 0 {
        return Err(TlsError::Exposed { path: path.to_owned() });
    }
    let mut pem = Zeroizing::new(Vec::new());
    file.take(MAX_PEM_BYTES + 1).read_to_end(&mut pem).map_err(unreadable("read"))?;
    if pem.len() as u64 > MAX_PEM_BYTES {
        return Err(TlsError::TooLong { path: path.to_owned() });
    }
    Ok(pem)
}

#[cfg(test)]
mod tests;
