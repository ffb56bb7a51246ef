//! Embeds the eBPF object and tells the binary what it was built from.
//!
//! It never fails for want of something: without an object the daemon does without the kernel's help and says so, and
//! without git the commit is `unknown`. It runs again when a file that goes into the binary changes, when the object does,
//! when HEAD moves, and not otherwise.

#[path = "../proxy-ebpf/inputs.rs"]
mod inputs;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

/// What, below the workspace's top, goes into the binary: a change here makes the version `+dirty`.
const SOURCES: [&str; 5] = ["Cargo.toml", "Cargo.lock", "proxy-common", "proxy-ebpf", "proxy-userspace"];

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let workspace = manifest.parent().expect("the crate lies in its workspace").to_owned();
    for path in ["build.rs", "Cargo.toml", "src", "../proxy-common/src", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    embed(&workspace, &out.join("portsplice.bpf.o"));
    println!("cargo::rustc-env=PORTSPLICE_COMMIT={}", commit(&workspace).unwrap_or_else(|| "unknown".to_owned()));
    println!("cargo::rustc-env=PORTSPLICE_BUILD_DATE={}", build_date());
}

/// Copies the object to where the crate includes it from; an empty file stands for none.
fn embed(workspace: &Path, embedded: &Path) {
    let object = object(workspace);
    for path in inputs::PATHS {
        println!("cargo::rerun-if-changed=../{path}");
    }
    let contents = fs::read(&object).unwrap_or_default();
    if contents.is_empty() {
        println!(
            "cargo::warning=the eBPF object is not built, so the kernel cannot help: run `cargo xtask build-ebpf`"
        );
    } else if is_stale(workspace, &object) {
        println!("cargo::warning=the eBPF object is older than its source: run `cargo xtask build-ebpf`");
    }
    let sha256 = if contents.is_empty() { "none".to_owned() } else { hex::encode(Sha256::digest(&contents)) };
    println!("cargo::rustc-env=PORTSPLICE_EBPF_SHA256={sha256}");
    fs::write(embedded, contents).expect("write the embedded object to OUT_DIR");
}

/// Where the object is: `PORTSPLICE_EBPF_OBJECT` for whoever builds it elsewhere, else where `cargo xtask build-ebpf` puts
/// it.
fn object(workspace: &Path) -> PathBuf {
    println!("cargo::rerun-if-env-changed=PORTSPLICE_EBPF_OBJECT");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    if let Some(object) = env::var_os("PORTSPLICE_EBPF_OBJECT") {
        println!("cargo::rerun-if-changed={}", Path::new(&object).display());
        return PathBuf::from(object);
    }
    let target = workspace.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let dir = target.join("bpf");
    // Cargo takes a path that does not exist for changed each time; so the folder is watched, and made first, in the past
    // for not to look changed since.
    if !dir.exists() && fs::create_dir_all(&dir).is_ok() {
        let past = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let _ = fs::File::open(&dir).and_then(|dir| dir.set_modified(past)); // costs one more build if it fails
    }
    println!("cargo::rerun-if-changed={}", dir.display());
    dir.join("portsplice.bpf.o")
}

/// Whether the object is made from another source than the one here, by what `cargo xtask build-ebpf` noted beside it.
fn is_stale(workspace: &Path, object: &Path) -> bool {
    match fs::read_to_string(object.with_extension("inputs")) {
        Ok(noted) => inputs::digest(workspace).is_ok_and(|now| now != noted.trim()),
        // Built in some other way, and named by whoever did: it is theirs to know.
        Err(_) => env::var_os("PORTSPLICE_EBPF_OBJECT").is_none(),
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
