use std::fs::{self, Permissions};

use portsplice_model::error_line;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion};

use super::*;

fn client(version: &'static rustls::SupportedProtocolVersion, alpn: &[&[u8]]) -> ClientConnection {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap()
}

/// Passes records both ways until nobody has any.
fn shake(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), rustls::Error> {
    loop {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        let to_server = wire.len();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
        if to_server == 0 && wire.is_empty() {
            return Ok(());
        }
    }
}

fn server(identity: &TlsIdentity) -> ServerConnection {
    ServerConnection::new(Arc::clone(identity.acceptor.config())).unwrap()
}

#[test]
fn both_versions_give_both_ends_the_same_exporter_and_each_connection_another() {
    let identity = TlsIdentity::generate("worker-1.example").unwrap();
    let mut seen = Vec::new();
    for (version, number) in
        [(&rustls::version::TLS13, ProtocolVersion::TLSv1_3), (&rustls::version::TLS12, ProtocolVersion::TLSv1_2)]
    {
        for _ in 0..2 {
            let (mut client, mut server) = (client(version, &[b"h2", b"http/1.1"]), server(&identity));
            assert_eq!(exporter(&server), None, "before the handshake");
            shake(&mut client, &mut server).unwrap();
            assert_eq!(server.protocol_version(), Some(number));
            assert_eq!(server.alpn_protocol(), Some(b"http/1.1".as_slice()));
            assert_eq!(client.peer_certificates().unwrap()[0].as_ref(), identity.certificate_der);
            let ours = exporter(&server).unwrap();
            let theirs = client.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).unwrap();
            assert_eq!(ours, theirs);
            assert!(!seen.contains(&ours));
            seen.push(ours);
        }
    }
}

#[test]
fn only_http_1_is_negotiated_and_clients_without_alpn_are_served() {
    let identity = TlsIdentity::generate("").unwrap();
    shake(&mut client(&rustls::version::TLS13, &[]), &mut server(&identity)).unwrap();
    let error = shake(&mut client(&rustls::version::TLS13, &[b"h2"]), &mut server(&identity)).unwrap_err();
    assert_eq!(error, rustls::Error::NoApplicationProtocol);
}

#[test]
fn every_process_has_its_own_certificate() {
    let (a, b) = (TlsIdentity::generate("a_b c").unwrap(), TlsIdentity::generate("a").unwrap());
    assert_ne!(a.certificate_der, b.certificate_der);
}

/// RFC 7468.
fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
            for place in 0..4 {
                let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
                text.push(if place <= group.len() { char::from(digit) } else { '=' });
            }
        }
        text.push('\n');
    }
    format!("{text}-----END {label}-----\n")
}

fn files(dir: &std::path::Path) -> CertificateFiles {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = CertificateParams::new(vec!["x".to_owned()]).unwrap().self_signed(&key).unwrap();
    let files = CertificateFiles { certificate: dir.join("c.pem"), key: dir.join("k.pem") };
    fs::write(&files.certificate, pem("CERTIFICATE", certificate.der())).unwrap();
    fs::write(&files.key, pem("PRIVATE KEY", &key.serialize_der())).unwrap();
    fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
    files
}

#[test]
fn certificates_are_read_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let files = files(dir.path());
    let identity = TlsIdentity::load(&files).unwrap();
    let mut connection = client(&rustls::version::TLS13, &[]);
    shake(&mut connection, &mut server(&identity)).unwrap();
    let pem = fs::read(&files.certificate).unwrap();
    assert_eq!(identity.certificate_der, CertificateDer::from_pem_slice(&pem).unwrap().as_ref());
}

#[test]
fn bad_files_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let good = files(dir.path());
    let error = |files: &CertificateFiles| error_line(&TlsIdentity::load(files).unwrap_err());

    let missing = CertificateFiles { certificate: dir.path().join("none"), ..good.clone() };
    assert!(error(&missing).contains("cannot open"), "{}", error(&missing));
    let swapped = CertificateFiles { certificate: good.key.clone(), key: good.certificate.clone() };
    assert!(error(&swapped).contains("does not contain a certificate"), "{}", error(&swapped));
    let twice = CertificateFiles { key: good.certificate.clone(), ..good.clone() };
    fs::set_permissions(&good.certificate, Permissions::from_mode(0o640)).unwrap();
    assert!(error(&twice).contains("does not contain a private key"), "{}", error(&twice));

    let other = dir.path().join("other");
    fs::create_dir(&other).unwrap();
    let mixed = CertificateFiles { key: files(&other).key, ..good.clone() };
    assert!(error(&mixed).contains("do they match"), "{}", error(&mixed));

    fs::set_permissions(&good.key, Permissions::from_mode(0o604)).unwrap();
    assert!(error(&good).contains("chmod o="), "{}", error(&good));
}
