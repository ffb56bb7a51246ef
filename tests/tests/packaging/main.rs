//! What is installed: units, users, scripts, configuration, manifest, policy, front. Each is given to the program that
//! will read it.

mod activation;
mod debian;
mod front;
mod image;
mod kubernetes;
mod selinux;
mod units;

use std::path::{Path, PathBuf};
use std::process::Command;

use portsplice_tests::node::binary;
use portsplice_tests::process::run;

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Its text.
#[track_caller]
fn text(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[track_caller]
fn temporary() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("portsplice-packaging-").tempdir().expect("a temporary directory")
}

/// The capabilities that the daemon says it keeps, sorted, with `CAP_`. `portsplice check` drops privileges as the daemon
/// does.
#[track_caller]
fn kept_capabilities() -> Vec<String> {
    let mut check = Command::new(binary());
    check.args(["check", "--config"]).arg("/nowhere.toml");
    let (_, report, _) = portsplice_tests::process::try_run(&mut check, None);
    let line = report.lines().find(|line| line.contains("capabilities: ")).unwrap_or_else(|| panic!("{report}"));
    let (_, list) = line.split_once("capabilities: ").expect("just found");
    let mut all: Vec<_> = list.split(", ").map(str::to_owned).collect();
    all.sort();
    all
}

/// The manual pages, where `man` and `systemd-analyze` look for them: `DIR/man1`.
#[track_caller]
fn manual(dir: &Path) {
    run(Command::new(binary()).args(["man", "--dir"]).arg(dir.join("man1")), None);
}

/// Every command has a page that is well-formed.
#[test]
fn manual_pages_are_well_formed() {
    let dir = temporary();
    manual(dir.path());
    let pages: Vec<_> =
        std::fs::read_dir(dir.path().join("man1")).expect("pages").flatten().map(|e| e.path()).collect();
    assert!(pages.iter().any(|page| page.ends_with("portsplice-node.1")), "{pages:?}");
    run(Command::new("mandoc").args(["-T", "lint", "-W", "error"]).args(&pages), None);
}
