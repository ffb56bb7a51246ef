//! An edge that cannot prove that it holds the key is believed nothing.

use portsplice_tests::origin::Origin;
use portsplice_tests::privileged;
use portsplice_tests::wait;

use crate::cluster::{Cluster, Container, visit};

/// Somebody in the edge's place takes every report. The node does not take that for success, and goes on.
#[test]
fn an_answer_without_proof_is_no_answer() {
    if !privileged() {
        return;
    }
    let (cluster, container) = (Cluster::new(), Container::new());
    let impostor = Origin::start(&cluster.netns, "127.0.0.1:0", |peer| {
        while let Some(request) = peer.request()? {
            let _ = request;
            peer.respond("200 OK", "{\"ttl\":60}")?;
        }
        Ok(())
    });
    let url = format!("http://127.0.0.1:{}", impostor.port());
    let node = cluster.node("n1", &url).container("a", &container.toml()).start();
    wait::until_true("the node to notice", || node.metric("portsplice_registry_up", &[]) == 0.0);
    let (head, text) = node.admin_get("/readyz");
    assert!(head.status() == 200 && text.contains("does not prove"), "{text}");
    assert_eq!(node.metric("portsplice_registry_reports_total", &["succeeded"]), 0.0);
    visit(&node, "a", &container);
}
