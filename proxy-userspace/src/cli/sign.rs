//! `portsplice sign`: the headers of a signed request, for curl and for finding out why a request is refused.

use std::fs;
use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{ArgGroup, Args, ValueEnum, ValueHint};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection};
use zeroize::Zeroizing;

use super::output;
use portsplice_auth::{ContainerKey, RootKey, sign};
use portsplice_files::regular_file;
use portsplice_model::ContainerName;
use portsplice_model::unix_time;
use portsplice_net::tls;
use portsplice_net::tls::AnyCertificate;

/// For the connection and for the handshake of `--certificate-of`, each.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scheme {
    /// Covers time, container, port, method, target and, with --exporter, the TLS connection
    Bound,
    /// Covers the certificate that the node presents; what Arvados controllers send
    Certificate,
    /// Covers only a time; needs the root secret
    Timestamp,
}

/// What `portsplice sign` takes.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("secret").required(true),
    after_help = "\
A `bound` credential is good for one request within the node's window (a minute by default).
Over TLS it also covers the connection, whose exporter curl does not reveal. So sign with
`certificate` for curl over TLS, and with `bound` for a listener on plain TCP.

Examples:
  portsplice sign --uuid web --port 8080 --target /index.html --root-secret-file root |
      curl -H @- http://127.0.0.1:7451/index.html
  portsplice sign --uuid web --port 8080 --certificate-of node1:7450 --root-secret-file root |
      curl -k -H @- https://node1:7450/"
)]
pub(super) struct SignArgs {
    /// The container: its uuid, or a name or id that the node knows it by
    #[arg(long, value_name = "UUID")]
    uuid: String,
    /// The port inside the container
    #[arg(long, value_name = "PORT")]
    port: NonZeroU16,
    /// The method of the request, as it will be sent
    #[arg(long, default_value = "GET")]
    method: String,
    /// The target of the request, as it will be sent
    #[arg(long, default_value = "/")]
    target: String,
    /// The kind of credential; `certificate` when a certificate is given, else `bound`
    #[arg(long, value_enum)]
    scheme: Option<Scheme>,
    /// A file with the cluster's root secret
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "secret")]
    root_secret_file: Option<PathBuf>,
    /// A file with the container's own key, 64 hex digits
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, group = "secret")]
    key_file: Option<PathBuf>,
    /// Ask this node for its certificate
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "certificate")]
    certificate_of: Option<String>,
    /// A file with the node's certificate, PEM or DER
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    certificate: Option<PathBuf>,
    /// The TLS exporter of the connection that the request will be sent on (RFC 9266), 64 hex digits
    #[arg(long, value_name = "HEX", value_parser = exporter)]
    exporter: Option<[u8; 32]>,
}

fn exporter(text: &str) -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| "write 64 hexadecimal digits".to_owned())?;
    Ok(bytes)
}

pub(super) fn run(args: &SignArgs) -> Result<()> {
    ensure!(
        ContainerName::parse(&args.uuid).is_some(),
        "{:?} is not a valid container name: use letters, digits, `_`, `.` and `-`",
        args.uuid
    );
    let has_certificate = args.certificate.is_some() || args.certificate_of.is_some();
    let scheme = args.scheme.unwrap_or(if has_certificate { Scheme::Certificate } else { Scheme::Bound });
    ensure!(
        scheme == Scheme::Certificate || !has_certificate,
        "--certificate and --certificate-of need `--scheme certificate`"
    );
    ensure!(scheme == Scheme::Bound || args.exporter.is_none(), "--exporter needs `--scheme bound`");
    let authorization = match scheme {
        Scheme::Bound => {
            let request =
                sign::Request { uuid: &args.uuid, port: args.port.get(), method: &args.method, target: &args.target };
            sign::bound(&key(args)?, &request, unix_time().as_secs(), &sign::nonce(), args.exporter.as_ref())
        }
        Scheme::Certificate => {
            let certificate = certificate(args)?;
            sign::certificate(&key(args)?, &certificate)
        }
        Scheme::Timestamp => {
            let root =
                root(args)?.context("`--scheme timestamp` is signed with the root secret; give --root-secret-file")?;
            sign::timestamp(&root, unix_time().as_secs(), &sign::nonce())
        }
    };
    let mut lines = Vec::new();
    writeln!(lines, "X-Arvados-Container-Gateway-Uuid: {}", args.uuid)?;
    writeln!(lines, "X-Arvados-Container-Target-Port: {}", args.port)?;
    writeln!(lines, "X-Arvados-Authorization: {authorization}")?;
    output::print(&lines)
}

fn root(args: &SignArgs) -> Result<Option<RootKey>> {
    args.root_secret_file.as_deref().map(|path| Ok(RootKey::new(&read_secret(path)?))).transpose()
}

fn key(args: &SignArgs) -> Result<ContainerKey> {
    if let Some(root) = root(args)? {
        return Ok(root.container(&args.uuid));
    }
    let path = args.key_file.as_deref().context("no secret; give --root-secret-file or --key-file")?;
    let secret = read_secret(path)?;
    let key = std::str::from_utf8(&secret).ok().and_then(|text| ContainerKey::from_hex(text.trim()).ok());
    key.with_context(|| format!("{} does not contain a key: expected 64 lower-case hexadecimal digits", path.display()))
}

fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let secret = fs::read(path).map(Zeroizing::new);
    let mut secret = secret.with_context(|| format!("cannot read the secret file {}", path.display()))?;
    // As the node takes it.
    regular_file::strip_line_end(&mut secret);
    ensure!(!secret.is_empty(), "the secret file {} is empty", path.display());
    Ok(secret)
}

fn certificate(args: &SignArgs) -> Result<Vec<u8>> {
    match (&args.certificate, &args.certificate_of) {
        (Some(path), _) => {
            let bytes = fs::read(path).with_context(|| format!("cannot read the certificate {}", path.display()))?;
            let is_pem = bytes.trim_ascii_start().starts_with(b"-----BEGIN");
            let pem = || CertificateDer::from_pem_slice(&bytes).map(|der| der.to_vec());
            if is_pem {
                pem().with_context(|| format!("{} does not contain a certificate", path.display()))
            } else {
                Ok(bytes)
            }
        }
        (None, Some(node)) => fetch(node).with_context(|| format!("cannot get the certificate of {node}")),
        (None, None) => bail!(
            "`--scheme certificate` covers the node's certificate; give --certificate-of HOST:PORT or --certificate FILE"
        ),
    }
}

/// The leaf certificate that a node presents. Nothing but its possession of the key is checked: whoever answers in the
/// node's place gets a credential that is no use at the node.
fn fetch(node: &str) -> Result<Vec<u8>> {
    let (host, _) = node.rsplit_once(':').context("write HOST:PORT, for example node1:7450 or [::1]:7450")?;
    let mut last = None;
    let mut connected = None;
    for address in node.to_socket_addrs().context("write HOST:PORT, for example node1:7450 or [::1]:7450")? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(stream) => {
                connected = Some(stream);
                break;
            }
            Err(error) => last = Some(error),
        }
    }
    let Some(mut stream) = connected else {
        return Err(last.unwrap_or_else(|| io::ErrorKind::NotFound.into()).into());
    };
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).or_else(|_| ServerName::try_from("localhost"))?;
    let mut connection = ClientConnection::new(Arc::new(config), name)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream).context("the TLS handshake failed; is this a tls listener?")?;
    }
    let leaf = connection.peer_certificates().and_then(<[_]>::first).context("it presented no certificate")?;
    Ok(leaf.to_vec())
}
