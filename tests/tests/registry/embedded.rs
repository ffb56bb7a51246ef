//! One node with a file of its own.

use std::collections::BTreeMap;

use portsplice_tests::node::{Node, NodeConfig};
use portsplice_tests::privileged;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cluster::{Container, until, until_uuids, visit};

/// Starts a node whose registry is a file beside its other ones, which outlives it.
fn start(config: &mut NodeConfig, dir: &tempfile::TempDir) -> Node {
    let (store, accepted) = (dir.path().join("registry.db"), dir.path().join("accepted"));
    config.set("node", "name", "\"n1\"").set("registry", "store", "\"embedded\"");
    config.set("registry", "path", &format!("{store:?}")).set("registry", "accepted-file", &format!("{accepted:?}"));
    config.set("registry", "debounce", "\"10ms\"").start()
}

/// A record says what its container publishes, and whether anybody was let in; it goes with the container and the node.
#[test]
fn a_record_says_what_runs() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("registry.db");
    let container = Container::new();
    let published = "service = true\nrequest = \"request-1\"\n[publish.8080]\naccess = \"public\"\nlabel = \"App\"\ninitial_path = \"lab\"\n[publish.9000]\n";
    let mut config = NodeConfig::new();
    let mut node = start(config.container("c-1", &format!("{}{published}", container.toml())), &dir);
    let record = until(&store, "the record", |records| records.contains_key("c-1")).remove("c-1").unwrap();
    assert_eq!(
        (&record["node"], &record["address"], &record["state"]),
        (&json!("n1"), &json!(node.plain[0].to_string()), &json!("running"))
    );
    assert_eq!((&record["service"], &record["container_request_uuid"]), (&json!(true), &json!("request-1")));
    let ports = json!({
        "8080": { "access": "public", "label": "App", "initial_path": "lab" },
        "9000": { "access": "private", "label": "", "initial_path": "" },
    });
    assert_eq!(record["published_ports"], ports);
    assert_eq!((&record["accepted_any_connection"], &record["connections"]["total"]), (&json!(false), &json!(0)));

    visit(&node, "c-1", &container);
    let has_accepted = |records: &BTreeMap<String, Value>| {
        records.get("c-1").is_some_and(|record| record["accepted_any_connection"] == true)
    };
    let records = until(&store, "a connection in the record", has_accepted);
    assert!(records["c-1"]["connections"]["total"].as_u64() >= Some(1));
    assert!(records["c-1"]["last_activity"].is_string());

    let listens = |records: &BTreeMap<String, Value>| {
        let listening = records["c-1"]["listening"].as_array().cloned().unwrap_or_default();
        listening.iter().any(|l| l["port"] == container.port() && l["address"] == "127.0.0.1" && l["since"].is_string())
    };
    until(&store, "the listening port in the record", listens);

    node.register("c-2", &container.toml());
    until_uuids(&store, &["c-1", "c-2"]);
    assert_eq!(node.metric("portsplice_registry_up", &[]), 1.0);
    node.unregister("c-2");
    until_uuids(&store, &["c-1"]);
    node.signal(Signal::TERM);
    assert!(node.wait().success());
    until_uuids(&store, &[]);

    // It is the same container for which another daemon answers now.
    let node = start(config.container("c-3", &container.toml()), &dir);
    let records = until(&store, "the records again", |records| records.len() == 2);
    assert!(has_accepted(&records), "{records:?}");
    assert_eq!(records["c-3"]["accepted_any_connection"], false);
    drop(node);
}

/// Containers that ended while the daemon was dead are not there any more when it is back.
#[test]
fn what_a_killed_node_left_behind_is_put_right() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("registry.db");
    let container = Container::new();
    let mut config = NodeConfig::new();
    let mut node = start(config.container("stays", &container.toml()).container("goes", &container.toml()), &dir);
    until_uuids(&store, &["goes", "stays"]);
    node.process().kill();
    until_uuids(&store, &["goes", "stays"]);
    let mut config = NodeConfig::new();
    let node = start(config.container("stays", &container.toml()).container("new", &container.toml()), &dir);
    until_uuids(&store, &["new", "stays"]);
    // A second one by the same name does not harm the first; what is registered behind it shows that it was looked at.
    node.register("double", &format!("name = \"stays\"\n{}", container.toml()));
    node.register("late", &container.toml());
    until_uuids(&store, &["late", "new", "stays"]);
    node.unregister("double");
    node.unregister("late");
    until_uuids(&store, &["new", "stays"]);
}

/// A file of a newer version, or of another program, stops the node before it serves.
#[test]
fn a_file_that_is_not_ours_is_an_error_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    std::fs::write(
        &path,
        "This is a text and no database, and it is long enough to be seen as one of those.\n".repeat(20),
    )
    .unwrap();
    let mut config = NodeConfig::new();
    config.set("registry", "store", "\"embedded\"").set("registry", "path", &format!("{path:?}"));
    let site = config.site();
    for check_only in [false, true] {
        let mut command = site.command(&config);
        command.args(check_only.then_some("--check-config"));
        let (ok, out, err) = portsplice_tests::process::try_run(&mut command, None);
        assert!(!ok && err.contains("not a database"), "{out}{err}");
    }
}

/// Checking the configuration of either daemon makes no database of the file, and nothing beside it: one that runs may use it.
#[test]
fn checking_the_configuration_leaves_the_file_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.db");
    std::fs::write(&path, "").unwrap();
    let mut config = NodeConfig::new();
    config.set("registry", "store", "\"embedded\"").set("registry", "path", &format!("{path:?}"));
    let site = config.site();
    let mut node = site.command(&config);
    node.arg("--check-config");
    let mut edge = std::process::Command::new(portsplice_tests::node::binary());
    edge.args(["edge", "--check-config", "--listen", "tcp://127.0.0.1:0", "--root-secret-file"]).arg(site.path("root"));
    std::fs::write(site.path("edge.toml"), "").unwrap();
    edge.arg("--config").arg(site.path("edge.toml")).arg("--store").arg(&path);
    for mut command in [node, edge] {
        let (ok, out, err) = portsplice_tests::process::try_run(&mut command, None);
        assert!(ok, "{out}{err}");
        let there: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(there, ["registry.db"], "{command:?}");
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0, "{command:?}");
    }
}
