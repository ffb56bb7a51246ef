//! Embeds the eBPF object.
//!
//! It never fails for want of one: without it the daemon does without the kernel's help and says so. It runs again when the
//! object changes or a file that it is made of does, and not otherwise.

#[path = "../../proxy-ebpf/inputs.rs"]
mod inputs;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest, Sha256};

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let workspace = manifest.ancestors().nth(2).expect("the crate lies in its workspace").to_owned();
    println!("cargo::rerun-if-changed=build.rs");
    embed(&workspace, &out.join("portsplice.bpf.o"));
}

/// Copies the object to where the crate includes it from; an empty file stands for none.
fn embed(workspace: &Path, embedded: &Path) {
    let object = object(workspace);
    for path in inputs::PATHS {
        println!("cargo::rerun-if-changed=../../{path}");
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
    // The program tells its users; see its own build script.
    println!("cargo::metadata=sha256={sha256}");
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
