//! The record in Arvados, against a small server that does what Arvados's documentation says.

mod server;

use std::path::PathBuf;

use futures_util::StreamExt;
use portsplice_model::{Link, Record, State};
use portsplice_registry::arvados::{Access, ArvadosRegistry};
use portsplice_registry::{Actor, Change, Directory, LinkError, Registry, Reporter, StoreError, Update};
use serde_json::json;
use tempfile::TempDir;

use self::server::{ADMIN, ADMIN_TOKEN, ANN, ANN_TOKEN, Server};
use crate::stores::conformance::{name, put, record};

const OURS: &str = "n1.example:7450";

/// A server, and the registry as nodes and edges have it.
struct Rig {
    server: Server,
    folder: TempDir,
}

impl Rig {
    async fn new() -> Self {
        Self { server: Server::start().await, folder: tempfile::tempdir().unwrap() }
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    /// The registry at `address` with this token, which the next call replaces.
    fn with_token(&self, token: &str, address: &str) -> ArvadosRegistry {
        std::fs::write(self.token_file(), format!("{token}\n")).unwrap();
        let access = Access { url: self.server.url.clone(), ca_file: None, token_file: self.token_file() };
        ArvadosRegistry::new(&access, Some(address.into())).unwrap()
    }

    fn node(&self) -> ArvadosRegistry {
        self.with_token(ADMIN_TOKEN, OURS)
    }
}

fn ours(uuid: &str) -> Record {
    Record { address: OURS.into(), ..record(uuid, "n1") }
}

fn link(hostname: &str, owner: &str) -> Link {
    let container_request_uuid = "zzzzz-xvhdp-000000000000001".into();
    Link { hostname: name(hostname), container_request_uuid, port: 8080, owner: owner.into() }
}

async fn uuids(store: &dyn Registry) -> Vec<String> {
    store.records().await.unwrap().into_iter().map(|record| record.uuid).collect()
}

#[tokio::test]
async fn a_report_says_where_the_gateway_is_and_whether_anybody_was_let_in() {
    let rig = Rig::new().await;
    let node = rig.node();
    let (a, b) = (rig.server.container(1, "Running"), rig.server.container(2, "Running"));
    node.report(&[put(&ours(&a)), put(&ours(&b)), put(&ours("somebody-elses"))]).await.unwrap();
    assert_eq!(rig.server.of(&a, "gateway_address"), OURS);
    assert_eq!(rig.server.of(&a, "interactive_session_started"), false);
    let busy = Record { accepted_any_connection: true, ..ours(&a) };
    node.report(&[put(&busy)]).await.unwrap();
    assert_eq!(rig.server.of(&a, "interactive_session_started"), true);

    let found = node.record(&a).await.unwrap().unwrap();
    assert_eq!((found.address.as_str(), found.node.as_str(), found.state), (OURS, "n1.example", State::Running));
    assert!(found.accepted_any_connection && found.service);
    assert_eq!(found.container_request_uuid.as_deref(), Some("zzzzz-xvhdp-000000000000001"));
    assert_eq!(found.published_ports, ours(&a).published_ports);
    assert_eq!(uuids(&node).await, [a.clone(), b.clone()]);

    // What has no place in the API costs no request.
    let asked = rig.server.world.lock().log.len();
    let mut counted = busy.clone();
    counted.connections.total = 7;
    node.report(&[put(&counted)]).await.unwrap();
    assert_eq!(rig.server.world.lock().log.len(), asked);

    rig.server.set(&b, "gateway_address", json!("n2.example:7450"));
    node.report(&[Change::Remove(a.clone()), Change::Remove(b.clone())]).await.unwrap();
    assert_eq!(rig.server.of(&a, "gateway_address"), "");
    assert_eq!(rig.server.of(&b, "gateway_address"), "n2.example:7450", "late news of the node that it has left");
    assert_eq!(node.record(&a).await.unwrap(), None);
    assert_eq!(node.record("../users/current").await.unwrap(), None);
}

#[tokio::test]
async fn only_containers_that_run_are_written() {
    let rig = Rig::new().await;
    let node = rig.node();
    let (locked, done) = (rig.server.container(1, "Locked"), rig.server.container(2, "Complete"));
    let error = node.report(&[put(&ours(&locked))]).await.unwrap_err();
    assert!(error.is_transient(), "it is about to run: {error}");
    node.report(&[put(&ours(&done)), Change::Remove(done.clone())]).await.expect("nothing is left to be said");
    rig.server.set(&locked, "state", json!("Running"));
    node.report(&[put(&ours(&locked))]).await.unwrap();
    assert_eq!(rig.server.of(&locked, "gateway_address"), OURS);
    let error = node.report(&[put(&ours("zzzzz-dz642-00000000000none"))]).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
}

#[tokio::test]
async fn what_a_node_left_behind_is_taken_back() {
    let rig = Rig::new().await;
    let all: Vec<String> = (0..7).map(|i| rig.server.container(i, "Running")).collect();
    rig.server.world.lock().most = 2;
    let before = rig.node();
    before.report(&all.iter().map(|uuid| put(&ours(uuid))).collect::<Vec<_>>()).await.unwrap();
    rig.server.set(&all[6], "gateway_address", json!("n2.example:7450"));
    let after = rig.node();
    assert_eq!(uuids(&after).await, all, "page by page");
    after.retain("n1", &all[..2]).await.unwrap();
    assert_eq!(uuids(&after).await, [&all[..2], &all[6..]].concat());
    after.report(&[put(&ours(&all[3]))]).await.unwrap();
    assert_eq!(rig.server.of(&all[3], "gateway_address"), OURS);
}

#[tokio::test]
async fn links_belong_to_whoever_comes_first() {
    let rig = Rig::new().await;
    let edge = rig.node();
    let app = link("app", ANN);
    assert_eq!(edge.link(&app.hostname).await.unwrap(), None);
    edge.create_link(&app).await.unwrap();
    edge.create_link(&app).await.expect("the same again, as after an answer that was lost");
    edge.create_link(&link("lab", ADMIN)).await.unwrap();
    assert!(matches!(edge.create_link(&link("app", ADMIN)).await, Err(LinkError::Taken(_))));
    assert_eq!(edge.link(&app.hostname).await.unwrap(), Some(app.clone()));
    assert_eq!(edge.links().await.unwrap(), [app.clone(), link("lab", ADMIN)]);

    let other = Actor::User("zzzzz-tpzed-000000000000ben".into());
    assert!(matches!(edge.delete_link(&app.hostname, &other).await, Err(LinkError::NotYours(_))));
    assert!(matches!(edge.delete_link(&name("none"), &Actor::Admin).await, Err(LinkError::Missing(_))));
    edge.delete_link(&app.hostname, &Actor::User(ANN.into())).await.unwrap();
    edge.delete_link(&name("lab"), &Actor::Admin).await.unwrap();
    assert!(edge.links().await.unwrap().is_empty());

    let wrong = Link { container_request_uuid: "elsewhere".into(), ..app };
    let error = edge.create_link(&wrong).await.unwrap_err();
    assert!(matches!(&error, LinkError::Store(StoreError::Refused(t)) if t.contains("container request")), "{error}");
}

#[tokio::test]
async fn a_users_own_token_does_what_the_user_may() {
    let rig = Rig::new().await;
    let admin = rig.node();
    assert_eq!(admin.current_user().await.map(|user| (user.uuid, user.is_admin)).unwrap(), (ADMIN.into(), true));
    admin.create_link(&link("hers", ANN)).await.unwrap();
    admin.create_link(&link("theirs", ADMIN)).await.unwrap();
    // The same registry: the file is read again.
    let ann = rig.with_token(ANN_TOKEN, OURS);
    assert_eq!(admin.current_user().await.unwrap().uuid, ANN);
    assert_eq!(ann.links().await.unwrap(), [link("hers", ANN)]);
    let taken = ann.create_link(&link("theirs", ANN)).await;
    assert!(matches!(taken, Err(LinkError::Taken(_))), "by somebody whose links she does not see: {taken:?}");
    let error = ann.create_link(&link("mine", ADMIN)).await.unwrap_err();
    assert!(matches!(&error, LinkError::Store(StoreError::Refused(t)) if t.contains("docs/registry.md")), "{error}");
}

#[tokio::test]
async fn what_goes_wrong_is_said_and_no_token_with_it() {
    let rig = Rig::new().await;
    let node = rig.with_token("not-a-token-they-know", OURS);
    let error = node.records().await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused(text) if text.contains("registry.token-file")), "{error}");
    assert!(!format!("{error} {node:?}").contains("not-a-token"), "{error}");
    std::fs::write(rig.token_file(), "two words").unwrap();
    assert!(matches!(node.records().await, Err(StoreError::Refused(_))));

    let node = rig.node();
    for (status, transient) in [(500, true), (502, true), (418, false), (403, false)] {
        rig.server.world.lock().failing = Some((status, None));
        let error = node.records().await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{error}");
        assert!(error.to_string().contains("1478640000+0123abcd"), "what finds it in their log: {error}");
    }
    rig.server.world.lock().failing = Some((503, Some("1")));
    assert!(node.records().await.unwrap_err().is_transient());
    let asked = rig.server.world.lock().log.len();
    let error = node.records().await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("rate limiting"), "{error}");
    assert_eq!(rig.server.world.lock().log.len(), asked, "it is left alone");
    rig.server.world.lock().failing = None;
    while node.records().await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn who_watches_comes_to_know_of_changes() {
    let rig = Rig::new().await;
    let node = rig.node();
    let (a, b) = (rig.server.container(1, "Running"), rig.server.container(2, "Running"));
    node.report(&[put(&ours(&a)), put(&ours(&b))]).await.unwrap();
    node.create_link(&link("app", ANN)).await.unwrap();
    let mut updates = node.watch();
    let mut first = Vec::new();
    while first.last() != Some(&Update::Current) {
        first.push(updates.next().await.unwrap());
    }
    assert_eq!((first.len(), &first[0]), (5, &Update::Reset));
    assert_eq!(first[3], Update::Link(link("app", ANN)));

    rig.server.set(&a, "state", json!("Complete"));
    rig.server.set(&b, "interactive_session_started", json!(true));
    node.delete_link(&name("app"), &Actor::Admin).await.unwrap();
    assert_eq!(updates.next().await.unwrap(), Update::RecordGone(a));
    assert_eq!(updates.next().await.unwrap(), Update::LinkGone(name("app")));
    assert!(matches!(updates.next().await.unwrap(), Update::Record(record) if record.uuid == b));
}
