//! `cargo xtask vm`: the daemon on Debian's kernels, each booted in a virtual machine.
//!
//! The processor is emulated (no KVM), so it runs anywhere and slowly; what is learned is whether things work, not how
//! fast they are. A machine has no disk and no network: a kernel as Debian packs it, and an initramfs made here with the
//! daemon, the guest program of the tests, and the libraries and modules that they need. What the guest finds out it
//! writes to the second serial port; the table of all kernels is docs/kernels.md, made of docs/kernels.json, in which a
//! run replaces the entries of its kernels.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks on its standard streams")]

mod initramfs;
mod kernels;
mod machine;
mod package;
#[path = "../../src/bin/guest/record.rs"]
mod record;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use portsplice_tooling::program::Profile;
use portsplice_tooling::{command, interrupt, program, workspace};

use self::initramfs::Initramfs;
use self::kernels::Kernel;
use self::report::Entry;

/// The emulator; `cargo xtask setup --for vm` installs it.
const QEMU: &str = "qemu-system-x86_64";

/// Try the daemon on Debian's kernels, in virtual machines
#[derive(Parser)]
#[command(name = "cargo xtask vm", bin_name = "cargo xtask vm")]
struct Args {
    /// Boot this kernel (may be given several times; `--list` names them)
    #[arg(long, value_name = "NAME", required_unless_present_any = ["all", "list"])]
    kernel: Vec<String>,
    /// Boot all of them, one after the other
    #[arg(long, conflicts_with = "kernel")]
    all: bool,
    /// Name the kernels and boot none
    #[arg(long)]
    list: bool,
    /// Use this `portsplice` instead of building one
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Leave docs/kernels.md as it is
    #[arg(long)]
    no_docs: bool,
}

fn main() -> ExitCode {
    program::exit(run(Args::parse()))
}

fn run(args: Args) -> anyhow::Result<()> {
    workspace::enter()?;
    if args.list {
        for kernel in &kernels::ALL {
            println!("{:<10} {} {}", kernel.name, kernel.package, kernel.version);
        }
        return Ok(());
    }
    let kernels = wanted(&args)?;
    command::run(command::xtask().args(["setup", "--for", "vm"]))?;
    let binary = program::portsplice(args.binary.as_deref(), Profile::Release)?;
    command::run(command::cargo().args(["build", "--package", "portsplice-tests", "--bin", "guest"]))?;
    let guest = workspace::target_dir().join("debug/guest");
    interrupt::watch()?;
    let mut failed = Vec::new();
    for kernel in kernels {
        let entry = examine(kernel, &binary, &guest).with_context(|| format!("kernel {}", kernel.name))?;
        println!("\n{}", report::summary(&entry));
        if !entry.troubles().is_empty() {
            failed.push(kernel.name);
        }
        if !args.no_docs {
            report::keep(entry)?;
        }
    }
    ensure!(failed.is_empty(), "not all is well on {}", failed.join(", "));
    Ok(())
}

fn wanted(args: &Args) -> anyhow::Result<Vec<&'static Kernel>> {
    if args.all {
        return Ok(kernels::ALL.iter().collect());
    }
    let find = |name: &String| match kernels::ALL.iter().find(|kernel| kernel.name == name) {
        Some(kernel) => Ok(kernel),
        None => bail!("there is no kernel `{name}` here, but: {}", kernels::ALL.map(|kernel| kernel.name).join(", ")),
    };
    args.kernel.iter().map(find).collect()
}

/// Boots a kernel and takes down what the guest tells.
fn examine(kernel: &Kernel, binary: &Path, guest: &Path) -> anyhow::Result<Entry> {
    let folder = workspace::target_dir().join("vm").join(kernel.name);
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let files = package::fetch(kernel, &folder)?;
    let mut initramfs = Initramfs::default();
    initramfs.program("bin/guest", guest)?;
    // One folder above the guest, where the tests' helpers look for it.
    initramfs.program("portsplice", binary)?;
    initramfs.program("bin/ip", &command::find("ip").context("`ip` is missing: cargo xtask setup installs it")?)?;
    for (at, module) in files.modules.iter().enumerate() {
        initramfs.module(at, module)?;
    }
    let image = folder.join("initramfs");
    fs::write(&image, initramfs.finish()).with_context(|| format!("write {}", image.display()))?;
    let began = Instant::now();
    let told = machine::run(&files.vmlinuz, &image, &folder)?;
    Ok(Entry::new(kernel, told, began.elapsed()))
}
