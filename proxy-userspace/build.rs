//! Tells the binary what it was built from.
//!
//! It never fails for want of something: without an object the daemon does without the kernel's help and says so, and
//! without git the commit is `unknown`. It runs again when a file that goes into the binary changes, when the object does,
//! when HEAD moves, and not otherwise.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

/// What, below the workspace's top, goes into the binary: a change here makes the version `+dirty`.
const SOURCES: [&str; 5] = ["Cargo.toml", "Cargo.lock", "proxy-common", "proxy-ebpf", "proxy-userspace"];

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let workspace = manifest.parent().expect("the crate lies in its workspace").to_owned();
    for path in ["../proxy-common/src", "../proxy-ebpf/src", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    watch(&manifest);
    println!("cargo::rustc-env=PORTSPLICE_EBPF_SHA256={}", ebpf_digest());
    println!("cargo::rustc-env=PORTSPLICE_COMMIT={}", commit(&workspace).unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rustc-env=PORTSPLICE_BUILD_DATE={}", build_date());
}

/// The digest of the eBPF object that the crate portsplice-bpf embeds, as that crate's build script has told it.
fn ebpf_digest() -> String {
    env::var("DEP_PORTSPLICE_BPF_SHA256").unwrap_or_else(|_| "none".to_owned())
}

/// Runs again when a file of the program or of one of its crates changes, which all lie below this folder.
fn watch(manifest: &Path) {
    let mut crates = vec![manifest.to_owned()];
    crates.extend(fs::read_dir(manifest).into_iter().flatten().flatten().map(|entry| entry.path()));
    for folder in crates.iter().filter(|folder| folder.join("Cargo.toml").exists()) {
        for name in ["build.rs", "Cargo.toml", "src"] {
            let path = folder.join(name);
            // Cargo takes a path that does not exist for changed each time.
            if path.exists() {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
    }
}

/// The commit, with `+dirty` when a source differs from it; none without git, or when this is no checkout of its own.
fn commit(workspace: &Path) -> Option<String> {
    let top = git(workspace, &["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != workspace.canonicalize().ok()? {
        return None; // a copy of the source inside someone else's repository
    }
    // HEAD tells when another branch is checked out, its log when a commit is made, wherever git keeps the branch.
    for name in ["HEAD", "logs/HEAD"] {
        let path = workspace.join(git(workspace, &["rev-parse", "--git-path", name])?);
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    let commit = git(workspace, &["rev-parse", "--short=12", "HEAD"])?;
    let mut status = vec!["--no-optional-locks", "status", "--porcelain", "--"];
    status.extend(SOURCES);
    let dirty = !git(workspace, &status)?.is_empty();
    Some(if dirty { format!("{commit}+dirty") } else { commit })
}

fn git(workspace: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new("git")
        .args(args)
        .current_dir(workspace)
        // A git hook that calls cargo has these set for a repository that need not be this one.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Today in UTC, or the day of `SOURCE_DATE_EPOCH` (reproducible-builds.org) when it is set.
fn build_date() -> String {
    println!("cargo::rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let epoch = env::var("SOURCE_DATE_EPOCH").ok().and_then(|seconds| seconds.trim().parse().ok());
    let time = match epoch {
        Some(seconds) => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
        None => Some(SystemTime::now()),
    };
    let text = time.map(|time| humantime::format_rfc3339_seconds(time).to_string()).unwrap_or_default();
    text.split('T').next().unwrap_or_default().to_owned()
}
