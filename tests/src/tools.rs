//! Test tools from package registries, installed once into the build's own folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::run;

/// Autobahn's WebSocket cases with a runner of today (PyPI).
const KOSOKU: &str = "kosoku==0.1.0";
/// A WebSocket server that passes them (npm).
const WS: &str = "ws@8.23.0";

/// `target/test-tools` of the workspace.
fn folder() -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let target = test.ancestors().nth(3).expect("target/PROFILE/deps/TEST");
    target.join("test-tools")
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
    let place = installed("kosoku-0.1.0", |place| {
        run(Command::new("python3").args(["-m", "venv"]).arg(place), None);
        run(
            Command::new(place.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check", KOSOKU]),
            None,
        );
    });
    place.join("bin/kosoku")
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
