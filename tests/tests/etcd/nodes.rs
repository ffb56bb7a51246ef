//! Daemons that report to etcd, and what becomes of their traffic and their records when either is killed.

use portsplice_model::State;
use portsplice_tests::etcd::Etcd;
use portsplice_tests::origin::Origin;
use portsplice_tests::privileged;
use portsplice_tests::rig::{Path, Rig};
use rustix::process::Signal;

use crate::conformance::View;
use crate::{edge, until_uuids};

/// A daemon with one container, which reports to `etcd` as `name`.
fn rig(etcd: &Etcd, name: &str) -> (Rig, Origin) {
    let rig = Rig::with(Path::Copy, |config| {
        config.set("registry", "store", "\"etcd\"").set("registry", "url", &format!("{:?}", etcd.url()));
        config.set("registry", "ttl", "\"2s\"").set("node", "name", &format!("{name:?}"));
    });
    let origin = rig.serve(|peer| {
        while peer.request()?.is_some() {
            peer.respond("200 OK", "here")?;
        }
        Ok(())
    });
    (rig, origin)
}

fn works(rig: &Rig) {
    assert_eq!(rig.connect().get("/").text(), "here");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_found_by_edges_and_lost_with_their_nodes() {
    if !privileged() {
        return;
    }
    let etcd = Etcd::start();
    let ((one, _serving_one), (mut two, _serving_two)) = (rig(&etcd, "n1"), rig(&etcd, "n2"));
    let edge = edge(&etcd);
    let mut view = View::new(&*edge);
    view.until(|view| view.records.contains_key(&one.name) && view.records.contains_key(&two.name)).await;
    let record = &view.records[&one.name];
    assert_eq!((record.node.as_str(), record.state), ("n1", State::Running));
    assert_eq!(record.address, one.node().plain[0].to_string());

    works(&one);
    let name = one.name.clone();
    view.until(|view| view.records[&name].accepted_any_connection).await;

    two.node_mut().process().kill();
    view.until(|view| view.records.keys().eq([&name])).await;
    two.restart();
    view.until(|view| view.records.contains_key(&two.name)).await;

    one.node().signal(Signal::TERM);
    view.until(|view| view.records.keys().eq([&two.name])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_etcd_touches_no_connection_and_is_caught_up_with() {
    if !privileged() {
        return;
    }
    let mut etcd = Etcd::start();
    let (rig, _serving) = rig(&etcd, "n1");
    let edge = edge(&etcd);
    until_uuids(&*edge, &[&rig.name]).await;
    let mut open = rig.connect();
    assert_eq!(open.get("/before").text(), "here");

    etcd.kill();
    assert_eq!(open.get("/kept-alive").text(), "here");
    works(&rig);
    // What comes meanwhile is known afterwards.
    let new = format!("{}x", rig.name);
    let file = rig.node().site.containers().join(format!("{new}.toml"));
    std::fs::write(file, format!("netns = {:?}\n", rig.netns.path())).unwrap();
    etcd.restart();
    until_uuids(&*edge, &[&rig.name, &new]).await;
    assert_eq!(open.get("/after").text(), "here");

    etcd.stop();
    works(&rig);
    tokio::time::sleep(2 * crate::TTL).await;
    works(&rig);
    etcd.go_on();
    let mut view = View::new(&*edge);
    // The leases may have ended before the node was heard again: then its records go, and come again.
    view.until(|view| view.records.len() == 2).await;
    until_uuids(&*edge, &[&rig.name, &new]).await;
    assert_eq!(open.get("/still").text(), "here");
}
