//! The DaemonSet.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use portsplice_tests::node::{binary, write_secret};
use portsplice_tests::process::run;
use portsplice_tests::{privileged, tools};
use serde_json::Value;

use crate::{kept_capabilities, repository, temporary};

const MANIFEST: &str = "packaging/kubernetes/portsplice-node.yaml";

/// The manifest's documents, read by the YAML library that the validator brings along.
#[track_caller]
fn documents() -> Vec<Value> {
    let script = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let mut python = Command::new(python());
    let json = run(python.args(["-c", script]).arg(repository(MANIFEST)), None);
    serde_json::from_str(&json).expect("JSON")
}

fn python() -> PathBuf {
    tools::kubernetes_validate().with_file_name("python3")
}

#[track_caller]
fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// By the schemas of the API, none of whose fields is unknown. 1.30 is the first version with `appArmorProfile`.
#[test]
fn the_manifest_fits_the_api() {
    for version in ["1.30", "1.35"] {
        let mut validate = Command::new(tools::kubernetes_validate());
        run(validate.args(["--strict", "--quiet", "-k", version]).arg(repository(MANIFEST)), None);
    }
}

/// The pod may do what the daemon keeps by itself.
#[test]
fn the_pod_has_the_capabilities_that_the_daemon_keeps() {
    if !privileged() {
        return;
    }
    let documents = documents();
    let container = &of_kind(&documents, "DaemonSet")["spec"]["template"]["spec"]["containers"][0];
    let added = container["securityContext"]["capabilities"]["add"].as_array().expect("capabilities");
    let mut added: Vec<_> = added.iter().map(|name| format!("CAP_{}", name.as_str().expect("a name"))).collect();
    added.sort();
    assert_eq!(added, kept_capabilities());
    assert_eq!(container["securityContext"]["capabilities"]["drop"], serde_json::json!(["ALL"]));
}

/// The configuration is in order, and what it names is mounted; probes ask where the daemon answers.
#[test]
fn the_configuration_is_in_order() {
    let documents = documents();
    let config = of_kind(&documents, "ConfigMap")["data"]["node.toml"].as_str().expect("a text");
    let pod = &of_kind(&documents, "DaemonSet")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    for path in ["/etc/portsplice/secret", "/host/sys/fs/cgroup"] {
        assert!(config.contains(path) && mounts.iter().any(|mount| mount["mountPath"] == path), "{path}");
    }
    for probe in ["readinessProbe", "livenessProbe"] {
        let get = &container[probe]["httpGet"];
        let address = format!("{}:{}", get["host"].as_str().expect("a host"), get["port"]);
        assert!(config.contains(&format!("admin = {address:?}")), "{probe} asks {address}");
    }
    let dir = temporary();
    let at = |name: &str| dir.path().join(name);
    write_secret(&at("root.secret"), "secret");
    let here = config.replace("/etc/portsplice/secret", dir.path().to_str().expect("UTF-8"));
    fs::write(at("node.toml"), here).expect("written");
    let mut check = Command::new(binary());
    check.args(["node", "--check-config", "--config"]).arg(at("node.toml"));
    check.env("PORTSPLICE_NODE_NAME", "worker").env("PORTSPLICE_NODE_ADDRESS", "192.0.2.7:7450");
    run(&mut check, None);
}
