//! The embedded store: several who have the file open, crashes, and files that are not ours.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use portsplice_registry::embedded::{Embedded, Lease};
use portsplice_registry::{Change, Directory, Reporter, SharedRegistry, StoreError};
use rusqlite::Connection;

use crate::stores::conformance::{View, conformance, link, name, put, record};

/// Tells the child which file to use.
const FILE: &str = "PORTSPLICE_TEST_REGISTRY";

fn open(path: &Path, node: &str) -> Embedded {
    Embedded::open(path, node).unwrap()
}

fn file() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/registry.db");
    (dir, path)
}

/// This test program again, as another process that runs one of the functions below.
fn child(test: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("stores::embedded::{test}"), "--ignored", "--nocapture"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_what_every_store_promises() {
    let (_dir, path) = file();
    let (one, two): (SharedRegistry, SharedRegistry) = (Arc::new(open(&path, "n1")), Arc::new(open(&path, "n2")));
    conformance(one, two).await;
}

#[tokio::test]
async fn what_is_written_is_there_when_the_file_is_opened_again() {
    let (_dir, path) = file();
    let record = record("a", "n1");
    let store = open(&path, "n1");
    store.report(&[put(&record)]).await.unwrap();
    store.create_link(&link("app", "ann")).await.unwrap();
    drop(store);
    let store = open(&path, "n1");
    assert_eq!(store.records().await.unwrap(), [record]);
    assert_eq!(store.links().await.unwrap(), [link("app", "ann")]);
}

/// Run by [`acknowledged_writes_survive_a_kill`] alone: writes for ever and says what was acknowledged.
#[tokio::test]
#[ignore = "a part of another test, which runs it as a process of its own"]
#[expect(clippy::print_stdout, reason = "the other test reads it")]
async fn child_writes_for_ever() {
    let path = PathBuf::from(std::env::var_os(FILE).expect("run by the other test"));
    let store = open(&path, "n1");
    for n in 0_u64.. {
        store.report(&[put(&record(&format!("c-{n}"), "n1"))]).await.unwrap();
        store.create_link(&link(&format!("l-{n}"), "ann")).await.unwrap();
        println!("acknowledged {n}");
    }
}

#[tokio::test]
async fn acknowledged_writes_survive_a_kill() {
    use std::io::{BufRead, BufReader};
    for writes in [1, 25, 60] {
        let (_dir, path) = file();
        let mut child = child("child_writes_for_ever", &path);
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut acknowledged = None;
        let mut numbers =
            out.lines().map_while(Result::ok).filter_map(|l| l.strip_prefix("acknowledged ")?.parse::<u64>().ok());
        while acknowledged < Some(writes) {
            acknowledged = Some(numbers.next().expect("the child writes"));
        }
        child.kill().unwrap();
        acknowledged = numbers.last().or(acknowledged);
        child.wait().unwrap();

        let store = open(&path, "n1");
        let integrity: String =
            Connection::open(&path).unwrap().pragma_query_value(None, "integrity_check", |row| row.get(0)).unwrap();
        assert_eq!(integrity, "ok");
        for n in 0..=acknowledged.unwrap() {
            assert!(store.record(&format!("c-{n}")).await.unwrap().is_some(), "record {n}");
            assert!(store.link(&name(&format!("l-{n}"))).await.unwrap().is_some(), "link {n}");
        }
        store.report(&[put(&record("after", "n1"))]).await.unwrap();
    }
}

/// Run by [`two_processes_open_one_file_at_once`] alone.
#[tokio::test]
#[ignore = "a part of another test, which runs it as a process of its own"]
async fn child_writes_once() {
    let path = PathBuf::from(std::env::var_os(FILE).expect("run by the other test"));
    let store = open(&path, "n2");
    store.report(&[put(&record(&format!("c-{}", std::process::id()), "n2"))]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_open_one_file_at_once_and_see_each_others_changes() {
    let (_dir, path) = file();
    let children: Vec<Child> = (0..4).map(|_| child("child_writes_once", &path)).collect();
    let store = open(&path, "n1");
    let mut view = View::new(&store);
    store.report(&[put(&record("own", "n1"))]).await.unwrap();
    let mut expected = vec!["own".to_owned()];
    for mut child in children {
        expected.push(format!("c-{}", child.id()));
        assert!(child.wait().unwrap().success());
    }
    view.until(|view| expected.iter().all(|uuid| view.records.contains_key(uuid))).await;
}

#[tokio::test]
async fn a_watcher_that_is_far_behind_or_sees_another_file_begins_anew() {
    let (_dir, path) = file();
    let store = open(&path, "n1");
    store.report(&[put(&record("a", "n1")), put(&record("b", "n1"))]).await.unwrap();
    let mut view = View::new(&store);
    view.until(|view| view.records.len() == 2).await;
    // As after more transactions than are remembered.
    let other = Connection::open(&path).unwrap();
    other.execute_batch("UPDATE meta SET revision = 20000; DELETE FROM records WHERE uuid = 'a'").unwrap();
    store.report(&[put(&record("c", "n1"))]).await.unwrap();
    store.report(&[Change::Remove("c".into())]).await.unwrap();
    other.execute_batch("UPDATE meta SET forgotten = 20000").unwrap();
    view.until(|view| view.records.keys().eq(["b"])).await;
    other.execute_batch("UPDATE meta SET revision = 0, forgotten = 0; DELETE FROM records").unwrap();
    view.until(|view| view.records.is_empty()).await;
}

#[tokio::test]
async fn leased_records_are_told_from_a_nodes_own() {
    let (_dir, path) = file();
    let (edge, node) = (open(&path, ""), open(&path, "n1"));
    node.report(&[put(&record("own", "n1"))]).await.unwrap();
    let leased = ["a", "b", "c"].map(|uuid| put(&record(uuid, "n2")));
    edge.report_leased("n2", 15, leased.into(), || ()).await.unwrap();
    let mut leases = edge.leases().await.unwrap();
    leases.sort_by(|a, b| a.uuid.cmp(&b.uuid));
    let lease = |uuid: &str| Lease { uuid: uuid.into(), node: "n2".into(), ttl: 15 };
    assert_eq!(leases, [lease("a"), lease("b"), lease("c")]);

    let outcome = edge.retain_leased("n2", ["a", "own", "lost"].map(String::from).into(), |_| ()).await.unwrap();
    assert_eq!((outcome.held, outcome.missing), (vec!["a".into()], vec!["lost".into()]));
    assert_eq!(outcome.elsewhere, ["own"]);
    let uuids =
        |records: Vec<_>| records.into_iter().map(|record: portsplice_model::Record| record.uuid).collect::<Vec<_>>();
    assert_eq!(uuids(edge.records().await.unwrap()), ["a", "own"]);
    // A node that says nothing over the API writes for itself, and its records never expire.
    edge.retain_leased("n1", Vec::new(), |_| ()).await.unwrap();
    edge.expire(|| vec!["a".into(), "own".into()], |_| ()).await.unwrap();
    assert_eq!(uuids(edge.records().await.unwrap()), ["own"]);
    node.retain("n2", &[]).await.unwrap();
}

#[test]
fn a_newer_or_foreign_file_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path, expected: &str| {
        let before = std::fs::read(path).unwrap();
        let error = Embedded::open(path, "n1").unwrap_err();
        assert!(matches!(error, StoreError::Corrupt(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(std::fs::read(path).unwrap(), before, "{expected}");
    };
    let newer = dir.path().join("newer.db");
    drop(open(&newer, "n1"));
    // The thread closes the file a moment after its last user.
    while newer.with_extension("db-wal").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    Connection::open(&newer).unwrap().pragma_update(None, "user_version", 999).unwrap();
    refused(&newer, "the file has version 999");
    let foreign = dir.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x); PRAGMA user_version = 1").unwrap();
    refused(&foreign, "the database of another program");
    let unversioned = dir.path().join("unversioned.db");
    Connection::open(&unversioned).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    refused(&unversioned, "the database of another program");
    let text = dir.path().join("text");
    std::fs::write(&text, "This is no database, but it is longer than the head of one. ".repeat(10)).unwrap();
    refused(&text, "not a database");
}

#[tokio::test]
async fn what_cannot_be_used_is_an_error_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = Embedded::open(&dir.path().join("file/registry.db"), "n1").unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)) && error.to_string().contains("choose another"), "{error}");
    let error = Embedded::open(dir.path(), "n1").unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");

    let path = dir.path().join("r.db");
    let store = open(&path, "n1");
    store.report(&[put(&record("a", "n1")), put(&record("b", "n1"))]).await.unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("UPDATE records SET body = '{', revision = 9 WHERE uuid = 'a'").unwrap();
    assert!(matches!(store.record("a").await, Err(StoreError::Corrupt(_))));
    assert!(store.record("b").await.unwrap().is_some());
    let mut view = View::new(&store);
    view.until(|view| view.records.keys().eq(["b"])).await;
}
