//! Programs that the tests run: built beside them, or installed or compiled once into the build's own folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::process::run;

/// Autobahn's WebSocket cases with a runner of today (PyPI).
const KOSOKU: &str = "kosoku==0.1.0";
/// A WebSocket server that passes them (npm).
const WS: &str = "ws@8.23.0";
/// Schemas of Kubernetes's API, and what checks a manifest against them (PyPI).
const KUBERNETES_VALIDATE: &str = "kubernetes-validate==1.37.0";

/// `target/test-tools` of the workspace.
fn folder() -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let target = test.ancestors().nth(3).expect("target/PROFILE/deps/TEST");
    target.join("test-tools")
}

/// A program of the tests' own, which cargo builds beside them.
#[track_caller]
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let path = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").join(name);
    assert!(path.exists(), "{} is missing: run `cargo build -p portsplice-tests`", path.display());
    path
}

/// Installs a tool unless it is there. Tests of several processes may ask at once: one of them does it, under a lock.
fn installed(name: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let place = folder().join(name);
    std::fs::create_dir_all(&place).expect("a directory");
    let lock = std::fs::File::create(folder().join(format!("{name}.lock"))).expect("a lock file");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("the lock");
    let done = place.join("installed");
    if !done.exists() {
        install(&place);
        std::fs::write(done, "").expect("written");
    }
    place
}

/// The `kosoku` command.
#[track_caller]
#[must_use]
pub fn kosoku() -> PathBuf {
    from_pypi(KOSOKU).join("kosoku")
}

/// The `kubernetes-validate` command. Beside it is a `python3` that can read YAML.
#[track_caller]
#[must_use]
pub fn kubernetes_validate() -> PathBuf {
    from_pypi(KUBERNETES_VALIDATE).join("kubernetes-validate")
}

/// The programs of a package, `NAME==VERSION`, in an environment of its own.
#[track_caller]
fn from_pypi(package: &str) -> PathBuf {
    let place = installed(&package.replace("==", "-"), |place| {
        run(Command::new("python3").args(["-m", "venv"]).arg(place), None);
        run(
            Command::new(place.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", package]),
            None,
        );
    });
    place.join("bin")
}

/// A value for `NODE_PATH` with which Node finds `ws`.
#[track_caller]
#[must_use]
pub fn ws() -> PathBuf {
    let place = installed("ws-8.23.0", |place| {
        run(
            Command::new("npm").args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(place).arg(WS),
            None,
        );
    });
    place.join("node_modules")
}

/// The folder of something compiled from a source of the tests; its name changes with the source.
#[track_caller]
fn compiled(source: &str, compile: impl FnOnce(&Path, &Path)) -> PathBuf {
    let from = crate::servers::scripts().join(source);
    let text = std::fs::read(&from).expect("a source of the tests");
    let hash = hex::encode(Sha256::digest(text));
    installed(&format!("{source}-{}", &hash[..16]), |place| compile(&from, place))
}

/// The server in Go.
#[track_caller]
#[must_use]
pub fn go_server() -> PathBuf {
    let place = compiled("go_server.go", |from, place| {
        let mut go = Command::new("go");
        // Nothing is fetched, and nothing is left in the home directory.
        go.env("GOPROXY", "off").env("GO111MODULE", "off").env("CGO_ENABLED", "0").env("GOCACHE", place.join("cache"));
        run(go.args(["build", "-o"]).arg(place.join("server")).arg(from), None);
        std::fs::remove_dir_all(place.join("cache")).expect("removed");
    });
    place.join("server")
}

/// The class path of the server in Java.
#[track_caller]
#[must_use]
pub fn java_server() -> PathBuf {
    compiled("JavaServer.java", |from, place| {
        run(Command::new("javac").arg("-d").arg(place).arg(from), None);
    })
}
