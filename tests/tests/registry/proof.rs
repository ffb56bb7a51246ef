//! An edge that cannot prove that it holds the key is believed nothing; one that can is left alone when it says so.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portsplice_tests::origin::Origin;
use portsplice_tests::privileged;
use portsplice_tests::sign;
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
    assert!(head.status() == 200 && text.contains("did not prove"), "{text}");
    assert_eq!(node.metric("portsplice_registry_reports_total", &["succeeded"]), 0.0);
    visit(&node, "a", &container);
}

/// An edge that has too much to do says when to come again; the node comes then, and neither earlier nor never.
#[test]
fn a_busy_edge_is_left_alone_for_a_while() {
    if !privileged() {
        return;
    }
    let (cluster, container) = (Cluster::new(), Container::new());
    let (root, came) = (cluster.root.clone(), Arc::<Mutex<Vec<Instant>>>::default());
    let times = Arc::clone(&came);
    let edge = Origin::start(&cluster.netns, "127.0.0.1:0", move |peer| {
        while let Some(request) = peer.request()? {
            let field = |name| request.head.get(name).expect("signed").to_owned();
            let key = sign::container_key(&root, &field("x-arvados-container-gateway-uuid"));
            let authorization = field("x-arvados-authorization");
            let (_, mac) = authorization.split_once(",s=").expect("`bound`");
            let proof = sign::hmac_hex(key.as_bytes(), mac.as_bytes());
            let mut times = times.lock().expect("times");
            times.push(Instant::now());
            let status = match times.len() {
                1 => "429 Too Many Requests\r\nRetry-After: 3",
                2 => "503 Service Unavailable\r\nRetry-After: 2",
                3 => "408 Request Timeout",
                _ => "200 OK",
            };
            drop(times);
            peer.respond(&format!("{status}\r\nX-Arvados-Authorization-Response: {proof}"), "{\"ttl\":60}")?;
        }
        Ok(())
    });
    let mut config = cluster.node("n1", &format!("http://127.0.0.1:{}", edge.port()));
    let node = config.container("a", &container.toml()).start();
    wait::until_true("four requests", || came.lock().expect("times").len() >= 4);
    wait::until_true("the record to be taken", || node.metric("portsplice_registry_up", &[]) == 1.0);
    let came = came.lock().expect("times").clone();
    assert!(came[1] - came[0] >= Duration::from_secs(3), "after 429: {:?}", came[1] - came[0]);
    assert!(came[2] - came[1] >= Duration::from_secs(2), "after 503: {:?}", came[2] - came[1]);
    edge.check();
}
