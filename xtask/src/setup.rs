//! `cargo xtask setup`: finds what build, tests, bench and demo need beyond a Rust toolchain, and installs what is missing.
//!
//! Nothing is installed that is there in any other way: what counts is the program, not the package. Packages come from
//! apt on Debian and its relatives, when run as root; elsewhere it prints what to type. `demo`, `test`, `bench`, `package`,
//! `fresh` and `vm` ask for what they themselves need; `--for` does that by hand, and without it everything but the emulator
//! of `vm` is installed.

mod apt;
mod items;
mod services;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use portsplice_tooling::{command, workspace};

use crate::toolchain;
pub(crate) use items::Purpose;
use items::{Fix, Item};

/// Arguments of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only report what is there and what is missing; fails if something is
    #[arg(long)]
    check: bool,
    /// Only what this needs (may be given several times) [default: all but vm]
    #[arg(long = "for", value_name = "PURPOSE")]
    purposes: Vec<Purpose>,
}

impl Args {
    /// Installs what one purpose needs.
    pub(crate) fn of(purpose: Purpose) -> Self {
        Self { check: false, purposes: vec![purpose] }
    }
}

/// Finds what is needed and installs what is missing.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    let purposes = if args.purposes.is_empty() { Purpose::USUAL.to_vec() } else { args.purposes };
    let items = items::of(&purposes);
    let missing: Vec<&Item> = items.iter().filter(|item| item.found.is_none()).collect();
    if args.check {
        report(&items);
        let things = missing.iter().map(|item| item.name).collect::<Vec<_>>().join(", ");
        return if missing.is_empty() { Ok(()) } else { Err(anyhow::anyhow!("missing: {things}")) };
    }
    if missing.is_empty() {
        remove_build()?;
        println!("setup: all {} things needed are there (`cargo xtask setup --check` lists them)", items.len());
        return Ok(());
    }
    for item in &missing {
        println!("setup: missing: {} ({})", item.name, item.why);
    }
    install(&missing)?;
    let still: Vec<_> =
        items::of(&purposes).into_iter().filter(|item| item.found.is_none()).map(|item| item.name).collect();
    if !still.is_empty() {
        bail!("installed everything, and yet there is no {}", still.join(", "));
    }
    remove_build()?;
    println!("setup: done");
    Ok(())
}

/// Makes sure of a program that only one command needs: installs its package, or says what to type.
pub(crate) fn need(program: &str, package: &str, why: &str) -> anyhow::Result<()> {
    if command::find(program).is_none() {
        println!("setup: missing: {program} ({why})");
        apt::install(&[package])?;
    }
    ensure!(command::find(program).is_some(), "installed {package}, and yet there is no {program}");
    Ok(())
}

fn report(items: &[Item]) {
    for item in items {
        match &item.found {
            Some(place) => println!("there    {:<22} {place}", item.name),
            None => println!("missing  {:<22} {}", item.name, item.why),
        }
    }
}

/// Packages first: the linker is built with them.
fn install(missing: &[&Item]) -> anyhow::Result<()> {
    let mut packages: Vec<&str> = Vec::new();
    for item in missing {
        match &item.fix {
            Fix::Packages(names) => packages.extend(*names),
            // To build it takes LLVM's headers, which the finished one does not need.
            Fix::Linker if !items::llvm_dev() => packages.extend(["llvm-22-dev"]),
            Fix::Linker => {}
        }
    }
    if !packages.is_empty() {
        packages.dedup();
        apt::install(&packages)?;
    }
    for item in missing {
        match item.fix {
            Fix::Packages(_) => {}
            Fix::Linker => install_linker()?,
        }
    }
    Ok(())
}

/// bpf-linker from its crate, into the target folder: nothing of the user's own tools changes.
fn install_linker() -> anyhow::Result<()> {
    println!("setup: building bpf-linker takes a minute or two");
    let mut cargo = command::cargo();
    cargo.env("LLVM_PREFIX", items::LLVM_PREFIX);
    cargo.args(["install", "bpf-linker", "--locked", "--version", toolchain::LINKER_VERSION]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{}", toolchain::LLVM), "--root"]);
    cargo.arg(toolchain::tools());
    // Beside the tool, not in the user's temporary folder, so that an interrupted build goes on where it stopped.
    cargo.arg("--target-dir").arg(linker_build());
    command::run(&mut cargo)
}

fn linker_build() -> PathBuf {
    workspace::target_dir().join("tools-build")
}

/// Removes what was compiled on the way to bpf-linker, 270 MB, once there is one.
fn remove_build() -> anyhow::Result<()> {
    let build = linker_build();
    if build.exists() && toolchain::linker().is_some() {
        fs::remove_dir_all(&build).with_context(|| format!("remove {}", build.display()))?;
    }
    Ok(())
}
