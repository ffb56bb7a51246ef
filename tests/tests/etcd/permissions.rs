//! Users, roles and certificates.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use portsplice_registry::etcd::{Access, EtcdRegistry};
use portsplice_registry::{Change, LinkError, StoreError};
use portsplice_tests::etcd::Etcd;
use portsplice_tests::node::write_secret;
use portsplice_tests::process::run;
use tempfile::TempDir;

use crate::conformance::{View, link, put, record};
use crate::{access, edge_at, node_at, report, uuids};

/// What docs/registry.md tells an administrator to do.
const ROLES: [&[&str]; 11] = [
    &["user", "add", "root:secret"],
    &["user", "grant-role", "root", "root"],
    &["role", "add", "node"],
    &["role", "grant-permission", "--prefix=true", "node", "readwrite", "/portsplice/records/"],
    &["role", "grant-permission", "--prefix=true", "node", "readwrite", "/portsplice/nodes/"],
    &["role", "add", "edge"],
    &["role", "grant-permission", "--prefix=true", "edge", "read", "/portsplice/"],
    &["role", "grant-permission", "--prefix=true", "edge", "readwrite", "/portsplice/links/"],
    &["user", "add", "node:of-nodes"],
    &["user", "add", "edge:of-edges"],
    &["user", "grant-role", "node", "node"],
];

fn with_token(etcd: &Etcd, folder: &TempDir, token: &str) -> Access {
    let path = folder.path().join(token.split(':').next().unwrap());
    write_secret(&path, &format!("{token}\n"));
    Access { token_file: Some(path), ..access(&[etcd.url()]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_does_what_its_role_allows() {
    let mut etcd = Etcd::with(&["--bcrypt-cost", "4"]);
    let folder = tempfile::tempdir().unwrap();
    for args in ROLES {
        etcd.ctl(args);
    }
    etcd.ctl(&["user", "grant-role", "edge", "edge"]);
    etcd.ctl(&["auth", "enable"]);
    let node = node_at(with_token(&etcd, &folder, "node:of-nodes"), "n1");
    let edge = edge_at(with_token(&etcd, &folder, "edge:of-edges"));

    node.report(&[put(&record("a", "n1")), Change::Remove("b".into())]).await.unwrap();
    node.retain("n1", &["a".into()]).await.unwrap();
    edge.create_link(&link("app", "ann")).await.unwrap();
    let mut view = View::new(&*edge);
    view.until(|view| view.records.len() == 1 && view.links.len() == 1).await;
    let error = node.create_link(&link("lab", "ann")).await.unwrap_err();
    assert!(matches!(&error, LinkError::Store(StoreError::Refused(_))), "{error}");

    // Tokens do not outlive etcd.
    etcd.kill();
    etcd.restart();
    report(&*node, &[put(&record("c", "n1"))]).await;
    view.until(|view| view.records.len() == 2).await;
    assert_eq!(uuids(&*edge).await, ["a", "c"]);

    for (token, says) in [("node:wrong", "USER:PASSWORD"), ("", "authentication is required")] {
        let access = if token.is_empty() { access(&[etcd.url()]) } else { with_token(&etcd, &folder, token) };
        let error = node_at(access, "n2").report(&[put(&record("d", "n2"))]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused(text) if text.contains(says)), "{error}");
        assert!(!error.to_string().contains("wrong"), "no password in errors: {error}");
    }
    node.close().await;
    assert!(uuids(&*edge).await.is_empty(), "a node may end its own lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_where_none_is_asked_for_is_said_to_be_one() {
    let etcd = Etcd::start();
    let folder = tempfile::tempdir().unwrap();
    let error = edge_at(with_token(&etcd, &folder, "node:x")).records().await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("not enabled")), "{error}");
    let malformed = Access { token_file: Some(folder.path().join("bad")), ..access(&[etcd.url()]) };
    write_secret(&folder.path().join("bad"), "no colon");
    let error = EtcdRegistry::new(malformed, "/p/", None).unwrap_err().to_string();
    assert!(error.contains("USER:PASSWORD") && !error.contains("no colon"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_on_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let files = certificates(folder.path());
    let file = |name: &str| files.join(name).display().to_string();
    let etcd = Etcd::with(&[
        "--client-cert-auth",
        "--trusted-ca-file",
        &file("ca.pem"),
        "--cert-file",
        &file("server.pem"),
        "--key-file",
        &file("server.key"),
    ]);
    let ours = Access {
        ca_file: Some(files.join("ca.pem")),
        certificate: Some(files.join("client.pem")),
        key: Some(files.join("client.key")),
        ..access(&[etcd.url()])
    };
    let node = node_at(ours.clone(), "n1");
    report(&*node, &[put(&record("a", "n1"))]).await;
    let mut view = View::new(&*edge_at(ours.clone()));
    view.until(|view| view.records.len() == 1).await;

    let anonymous = Access { certificate: None, key: None, ..ours.clone() };
    let strange = Access { ca_file: Some(files.join("other.pem")), ..ours.clone() };
    let system = Access { ca_file: None, ..ours };
    for wrong in [anonymous, strange, system] {
        let error = edge_at(wrong.clone()).records().await.unwrap_err();
        assert!(error.is_transient(), "{wrong:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lets_nobody_in_keeps_no_call_from_the_others() {
    let etcd = Etcd::with(&["--bcrypt-cost", "4"]);
    for args in [&["user", "add", "root:secret"][..], &["user", "grant-role", "root", "root"], &["auth", "enable"]] {
        etcd.ctl(args);
    }
    // The kernel accepts for it, and nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let endpoints = [format!("http://{}", silent.local_addr().unwrap()), etcd.url()];
    let ours = Access { token_file: with_token(&etcd, &folder, "root:secret").token_file, ..access(&endpoints) };
    // Which endpoint comes first is chosen anew each time.
    for _ in 0..8 {
        let (edge, began) = (edge_at(ours.clone()), Instant::now());
        let (one, another) = tokio::join!(edge.records(), edge.links());
        assert!(one.unwrap().is_empty() && another.unwrap().is_empty());
        // Less than one of the two is given to let us in.
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}

/// An authority `ca`, a certificate of 127.0.0.1 and one of a client, and another authority.
fn certificates(folder: &Path) -> PathBuf {
    let script = r#"
        set -e
        key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        openssl req -x509 $key -keyout ca.key -out ca.pem -subj /CN=ca -days 2
        openssl req -x509 $key -keyout other.key -out other.pem -subj /CN=other -days 2
        for name in server client; do
            openssl req $key -keyout $name.key -out $name.csr -subj /CN=$name
            echo "subjectAltName=IP:127.0.0.1" > $name.ext
            openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out $name.pem -days 2 -extfile $name.ext
        done
    "#;
    run(Command::new("sh").args(["-c", script]).current_dir(folder), None);
    folder.to_owned()
}
