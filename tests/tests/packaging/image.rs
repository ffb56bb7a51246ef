//! The container image, built by a Docker engine and run as the DaemonSet runs it. No registry is asked.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portsplice_tests::docker::Engine;
use portsplice_tests::net::Netns;
use portsplice_tests::node::{ListenOn, Node, NodeConfig, binary};
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::process::{Process, run};
use portsplice_tests::{pattern, privileged};

use crate::{repository, text};

/// What stands for Debian's image: the libraries that the program is linked to, of this machine.
#[track_caller]
fn import_base(engine: &Engine, dir: &Path) {
    let libraries = run(Command::new("ldd").arg(binary()), None);
    let paths: BTreeSet<_> = libraries.split_whitespace().filter(|word| word.starts_with('/')).collect();
    let mut tar = Command::new("tar");
    tar.args(["--create", "--dereference", "--absolute-names", "--file"]).arg(dir.join("base.tar")).args(paths);
    run(&mut tar, None);
    let dockerfile = text("packaging/container/Dockerfile");
    let base = dockerfile.lines().find_map(|line| line.strip_prefix("FROM ")).expect("a base");
    engine.docker(&["import", dir.join("base.tar").to_str().expect("UTF-8"), base]);
}

#[track_caller]
fn build(engine: &Engine, dir: &Path) {
    let context = dir.join("context");
    fs::create_dir(&context).expect("a directory");
    fs::copy(binary(), context.join("portsplice")).expect("copied");
    let dockerfile = repository("packaging/container/Dockerfile");
    let mut docker = Command::new("docker");
    docker.arg("--host").arg(format!("unix://{}", engine.socket().display())).env("DOCKER_BUILDKIT", "0");
    run(docker.args(["build", "--tag", "portsplice:test", "--file"]).arg(dockerfile).arg(context), Some(&engine.host));
}

/// With the manifest's capabilities and nothing else, under Docker's seccomp filter, on a read-only root, with the host's
/// network and processes and a cgroup hierarchy that is read-only: a request is served, kernel programs are attached.
#[test]
fn the_image_serves_with_the_manifests_privileges() {
    if !privileged() {
        return;
    }
    let engine = Engine::start();
    let dir = tempfile::Builder::new().prefix("portsplice-image-").tempdir().expect("a directory");
    import_base(&engine, dir.path());
    build(&engine, dir.path());

    let inside = Netns::new();
    let origin = Origin::start(&inside, "127.0.0.1:0", contract::serve);
    let mut config = NodeConfig::new();
    config.listen(vec![ListenOn { address: "127.0.0.1:7450".into(), tls: false, credentials: vec!["bound"] }]);
    // By pid, as a hook of a runtime would register it.
    let mut sleep = Process::spawn("sleep", Command::new("sleep").arg("1000"), Some(&inside));
    config.container("here", &format!("pid = {}\n", sleep.pid()));
    let hybrid = Path::new("/sys/fs/cgroup/unified");
    let cgroup = if hybrid.exists() { "/host/sys/fs/cgroup/unified" } else { "/host/sys/fs/cgroup" };
    config.set("bpf", "mode", "\"required\"").set("bpf", "cgroup", &format!("{cgroup:?}"));
    let site = config.site();

    let mut docker = Command::new("docker");
    docker.arg("--host").arg(format!("unix://{}", engine.socket().display()));
    docker.args(["run", "--rm", "--network", "host", "--pid", "host", "--read-only", "--cap-drop", "ALL"]);
    docker.args(["--security-opt", "no-new-privileges"]);
    // Not BPF and PERFMON, which Debian 12's Docker does not know; for the kernel SYS_ADMIN includes them.
    for capability in ["SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN"] {
        docker.args(["--cap-add", capability]);
    }
    docker.args(["--volume", "/sys/fs/cgroup:/host/sys/fs/cgroup:ro"]);
    // At the same place, so that the configuration means the same inside.
    let folder: PathBuf = site.path(".").parent().expect("a folder").to_owned();
    docker.arg("--volume").arg(format!("{0}:{0}", folder.display()));
    docker.args(["portsplice:test", "node", "--config"]).arg(site.path("config.toml"));
    let process = Process::spawn("docker run", &mut docker, Some(&engine.host));
    let node = Node::ready(site, process, Some(engine.host.clone()));
    assert_eq!(node.connect("here", origin.port()).get("/bytes/5").body, pattern::bytes(5));
    assert!(sleep.running());
}
