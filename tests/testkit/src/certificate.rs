//! Certificates that sign themselves, made by `openssl`.

use std::path::Path;
use std::process::Command;

use crate::process::run;

/// Writes a certificate for the DNS name `name`, good for two days, and its key, as PEM files: ECDSA on P-256, as the one that
/// the daemon makes for itself.
#[track_caller]
pub fn make(name: &str, certificate: &Path, key: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]);
    run(openssl.arg(key).arg("-out").arg(certificate), None);
}
