//! `cargo xtask build-ebpf`: the programs in the kernel, as the object that the daemon carries.

#[path = "../../proxy-ebpf/inputs.rs"]
mod inputs;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use portsplice_tooling::{command, workspace};

use crate::toolchain;

/// Arguments of `cargo xtask build-ebpf`.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Build even if the object is newer than its source
    #[arg(long)]
    force: bool,
}

/// The object; the build script of portsplice-bpf looks for it there.
pub(crate) fn object() -> PathBuf {
    workspace::target_dir().join("bpf/portsplice.bpf.o")
}

/// Builds the object, unless the one there is made from the source as it stands.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let (object, root) = (object(), workspace::root());
    let of = object.with_extension("inputs");
    let digest = inputs::digest(&root).context("read the source of the eBPF programs")?;
    let fresh = object.exists() && fs::read_to_string(&of).is_ok_and(|built| built.trim() == digest);
    if fresh && !args.force {
        println!("build-ebpf: {} is made from the source as it stands", shown(&object, &root));
        return Ok(());
    }
    let built = build(&root)?;
    fs::create_dir_all(object.parent().context("the object lies in a folder")?)?;
    // Under another name first: nobody shall embed half an object, nor take an old one for this.
    let partial = object.with_extension("partial");
    fs::copy(&built, &partial).with_context(|| format!("copy {}", built.display()))?;
    fs::rename(&partial, &object)?;
    fs::write(&of, format!("{digest}\n"))?;
    println!("build-ebpf: {} ({} KiB)", shown(&object, &root), fs::metadata(&object)?.len() / 1024);
    Ok(())
}

fn shown(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

fn build(root: &Path) -> anyhow::Result<PathBuf> {
    const TARGET: &str = "bpfel-unknown-none";
    let toolchain = toolchain::find().map_err(|reasons| {
        anyhow!("no compiler for the eBPF programs; run `cargo xtask setup`. Looked at:\n  {}", reasons.join("\n  "))
    })?;
    let linker = toolchain::linker()
        .with_context(|| format!("bpf-linker {} is not there; run `cargo xtask setup`", toolchain::LINKER_VERSION))?;
    println!("build-ebpf: with {}", toolchain.name);
    let target_dir = workspace::target_dir().join("bpf-build");
    let mut cargo = toolchain.cargo();
    cargo.args(["build", "--locked", "--release", "--target", TARGET, "-Zbuild-std=core", "--target-dir"]);
    cargo.arg(&target_dir).current_dir(root.join("proxy-ebpf"));
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(root, &linker)?);
    command::run(&mut cargo)?;
    Ok(target_dir.join(TARGET).join("release/portsplice-ebpf"))
}

/// The compiler's flags, separated as `CARGO_ENCODED_RUSTFLAGS` wants them, since paths may contain spaces.
fn flags(root: &Path, linker: &Path) -> anyhow::Result<OsString> {
    let mut flags = OsString::from("-Clinker=");
    flags.push(linker);
    let mut add = |flag: &str| {
        flags.push("\u{1f}");
        flags.push(flag);
    };
    add("-Clink-arg=--btf");
    // The names of folders on the machine that builds it have no place in the object.
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    for (path, name) in [(Some(root.to_owned()), "portsplice"), (home, "cargo")] {
        let Some(path) = path else { continue };
        let path = path.to_str().context("the path of the workspace or of cargo's home is not UTF-8")?;
        add(&format!("--remap-path-prefix={path}={name}"));
    }
    Ok(flags)
}
