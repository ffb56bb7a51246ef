//! What every store promises, as one function: open the store, pass it in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use portsplice_model::{Access, Hostname, Link, PublishedPort, Record, State};
use portsplice_registry::{Actor, Change, LinkError, Registry, SharedRegistry, Update};
use tokio::time::timeout;

/// Nothing takes as long; what does is a hang.
const HANG: Duration = Duration::from_secs(60);

/// Checks a store that is empty. `one` and `two` are the same store, as the nodes "n1" and "n2" have opened it.
pub(crate) async fn conformance(one: SharedRegistry, two: SharedRegistry) {
    records_are_replaced_and_removed(&*one, &*two).await;
    what_a_node_left_behind_is_removed(&*one, &*two).await;
    links_belong_to_whoever_comes_first(&*one, &*two).await;
    only_one_of_many_gets_a_host_name(&one, &two).await;
    watchers_come_to_know_what_there_is(&*one, &*two).await;
}

/// A record of a container on a node.
pub(crate) fn record(uuid: &str, node: &str) -> Record {
    let published = PublishedPort { access: Access::Public, label: "App".into(), initial_path: "lab".into() };
    Record {
        uuid: uuid.into(),
        container_request_uuid: Some(format!("request-of-{uuid}")),
        node: node.into(),
        address: "192.0.2.1:7450".into(),
        state: State::Running,
        service: true,
        published_ports: [(8080, published)].into(),
        listening: Vec::new(),
        accepted_any_connection: false,
        connections: Default::default(),
        last_activity: None,
    }
}

/// A host name.
pub(crate) fn name(text: &str) -> Hostname {
    text.parse().expect("a host name")
}

/// A link of a user.
pub(crate) fn link(hostname: &str, owner: &str) -> Link {
    Link { hostname: name(hostname), container_request_uuid: "request".into(), port: 8080, owner: owner.into() }
}

/// A report of this record.
pub(crate) fn put(record: &Record) -> Change {
    Change::Put(Box::new(record.clone()))
}

async fn uuids(store: &dyn Registry) -> Vec<String> {
    store.records().await.unwrap().into_iter().map(|record| record.uuid).collect()
}

async fn records_are_replaced_and_removed(one: &dyn Registry, two: &dyn Registry) {
    let (a, b) = (record("c-a", "n1"), record("c-b", "n1"));
    assert_eq!(one.record("c-a").await.unwrap(), None);
    one.report(&[put(&b), put(&a)]).await.unwrap();
    assert_eq!(two.record("c-a").await.unwrap(), Some(a.clone()), "what one has written the other reads");
    assert_eq!(one.records().await.unwrap(), [a.clone(), b], "in the order of uuids");

    let busy = Record { accepted_any_connection: true, ..a.clone() };
    one.report(&[put(&a), put(&busy), Change::Remove("c-b".into())]).await.unwrap();
    assert_eq!(two.records().await.unwrap(), [busy], "the last of a report counts");
    one.report(&[Change::Remove("never-there".into())]).await.unwrap();

    let moved = record("c-a", "n2");
    two.report(&[put(&moved)]).await.unwrap();
    one.report(&[Change::Remove("c-a".into())]).await.unwrap();
    assert_eq!(one.record("c-a").await.unwrap(), Some(moved), "late news of the node that it has left");
    two.report(&[Change::Remove("c-a".into())]).await.unwrap();
    one.report(&[]).await.unwrap();
    assert!(uuids(two).await.is_empty());
}

async fn what_a_node_left_behind_is_removed(one: &dyn Registry, two: &dyn Registry) {
    let ours: Vec<Change> = ["a", "b", "c"].map(|uuid| put(&record(uuid, "n1"))).into();
    one.report(&ours).await.unwrap();
    two.report(&[put(&record("d", "n2")), put(&record("b", "n2"))]).await.unwrap();
    one.retain("n1", &["c".into(), "not-reported-yet".into()]).await.unwrap();
    assert_eq!(uuids(two).await, ["b", "c", "d"], "those of others stay");
    one.retain("n1", &[]).await.unwrap();
    two.retain("n2", &[]).await.unwrap();
    assert!(uuids(one).await.is_empty());
}

async fn links_belong_to_whoever_comes_first(one: &dyn Registry, two: &dyn Registry) {
    let (app, lab) = (link("app", "ann"), link("lab", "ben"));
    assert_eq!(one.link(&app.hostname).await.unwrap(), None);
    one.create_link(&lab).await.unwrap();
    two.create_link(&app).await.unwrap();
    two.create_link(&app).await.expect("the same again, as after an answer that was lost");
    for other in [link("app", "ben"), Link { port: 1, ..app.clone() }] {
        assert!(matches!(one.create_link(&other).await, Err(LinkError::Taken(n)) if n == app.hostname), "{other:?}");
    }
    assert_eq!(one.link(&app.hostname).await.unwrap(), Some(app.clone()));
    assert_eq!(one.links().await.unwrap(), [app.clone(), lab.clone()], "in the order of names");

    let ben = Actor::User("ben".into());
    assert!(matches!(one.delete_link(&app.hostname, &ben).await, Err(LinkError::NotYours(_))));
    assert!(matches!(one.delete_link(&name("none"), &Actor::Admin).await, Err(LinkError::Missing(_))));
    one.delete_link(&lab.hostname, &ben).await.unwrap();
    two.delete_link(&app.hostname, &Actor::Admin).await.unwrap();
    assert!(matches!(one.delete_link(&app.hostname, &Actor::Admin).await, Err(LinkError::Missing(_))));
    one.create_link(&link("app", "ben")).await.expect("free again");
    one.delete_link(&app.hostname, &ben).await.unwrap();
}

async fn only_one_of_many_gets_a_host_name(one: &SharedRegistry, two: &SharedRegistry) {
    for round in 0..4 {
        let hostname = format!("wanted-{round}");
        let tries = (0..32).map(|user| {
            let store = Arc::clone(if user % 2 == 0 { one } else { two });
            let link = link(&hostname, &format!("user-{user}"));
            tokio::spawn(async move { store.create_link(&link).await.map(|()| link) })
        });
        let mut winners = Vec::new();
        for result in join_all(tries).await {
            match result.unwrap() {
                Ok(link) => winners.push(link),
                Err(LinkError::Taken(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(two.link(&name(&hostname)).await.unwrap(), winners.pop());
        one.delete_link(&name(&hostname), &Actor::Admin).await.unwrap();
    }
}

/// What a watcher knows.
pub(crate) struct View {
    updates: BoxStream<'static, Update>,
    pub(crate) records: BTreeMap<String, Record>,
    pub(crate) links: BTreeMap<Hostname, Link>,
    current: bool,
}

impl View {
    pub(crate) fn new(store: &dyn Registry) -> Self {
        Self { updates: store.watch(), records: BTreeMap::new(), links: BTreeMap::new(), current: false }
    }

    async fn step(&mut self) {
        let update = timeout(HANG, self.updates.next()).await.expect("news").expect("a stream without end");
        match update {
            Update::Reset => {
                self.records.clear();
                self.links.clear();
                self.current = false;
            }
            Update::Current => self.current = true,
            Update::Record(record) => drop(self.records.insert(record.uuid.clone(), *record)),
            Update::RecordGone(uuid) => drop(self.records.remove(&uuid)),
            Update::Link(link) => drop(self.links.insert(link.hostname.clone(), link)),
            Update::LinkGone(hostname) => drop(self.links.remove(&hostname)),
        }
    }

    /// Goes on until what is known fits.
    pub(crate) async fn until(&mut self, fits: impl Fn(&Self) -> bool) {
        while !(self.current && fits(self)) {
            self.step().await;
        }
    }
}

async fn watchers_come_to_know_what_there_is(one: &dyn Registry, two: &dyn Registry) {
    let (mut a, b, c) = (record("w-a", "n1"), record("w-b", "n1"), record("w-c", "n2"));
    one.report(&[put(&a)]).await.unwrap();
    one.create_link(&link("early", "ann")).await.unwrap();
    let mut views = [View::new(one), View::new(two)];
    assert!(matches!(timeout(HANG, views[0].updates.next()).await, Ok(Some(Update::Reset))), "first of all");
    for view in &mut views {
        view.until(|v| v.records.len() == 1 && v.links.len() == 1).await;
        assert_eq!(view.records["w-a"], a);
    }
    one.report(&[put(&b)]).await.unwrap();
    two.report(&[put(&c)]).await.unwrap();
    two.create_link(&link("late", "ben")).await.unwrap();
    for view in &mut views {
        view.until(|v| v.records.len() == 3 && v.links.contains_key(&name("late"))).await;
    }
    a.accepted_any_connection = true;
    one.report(&[put(&a), Change::Remove("w-b".into())]).await.unwrap();
    two.report(&[Change::Remove("w-c".into())]).await.unwrap();
    one.delete_link(&name("early"), &Actor::Admin).await.unwrap();
    for view in &mut views {
        view.until(|v| v.records.get("w-a") == Some(&a) && v.records.len() == 1 && v.links.len() == 1).await;
    }
    one.report(&[Change::Remove("w-a".into())]).await.unwrap();
    two.delete_link(&name("late"), &Actor::Admin).await.unwrap();
    for view in &mut views {
        view.until(|v| v.records.is_empty() && v.links.is_empty()).await;
    }
}
