//! Debian packages.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::bail;
use portsplice_tooling::command;

use super::services::Forbidden;

/// Packages that go by another name in some release: each name, and what else will do.
const OTHER_NAMES: [(&str, &str); 2] = [("nginx-light", "nginx"), ("docker.io", "docker-ce")];

/// Installs packages, or says what to type where that cannot be done from here.
pub(super) fn install(packages: &[&str]) -> anyhow::Result<()> {
    if command::find("apt-get").is_none() {
        bail!(
            "this is no Debian, so install these by your own means (Debian's names): {}; for the eBPF compiler, \
             `rustup toolchain install nightly --component rust-src` will do instead of rustc-web, cargo-web and \
             rust-web-src",
            packages.join(" ")
        );
    }
    if !is_root() {
        bail!("not root, so please type:\n  sudo apt-get update\n  sudo {}", command::shown(&apt_install(packages)));
    }
    // Installing a server shall not start it.
    let _forbidden = Forbidden::new()?;
    if !has_lists() {
        command::run(command::command("apt-get").args(["update", "--quiet"]))?;
    }
    let packages: Vec<&str> = packages.iter().map(|package| known_name(package)).collect();
    let mut install = apt_install(&packages);
    if let Err(error) = command::run(&mut install) {
        // Lists that are old name files that the mirrors have no more.
        println!("setup: {error}; once more with new lists");
        command::run(command::command("apt-get").args(["update", "--quiet"]))?;
        command::run(&mut install)?;
    }
    println!("setup: installed {}; none of their services was started", packages.join(" "));
    Ok(())
}

fn apt_install(packages: &[&str]) -> Command {
    let mut apt = command::command("apt-get");
    apt.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages);
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of /proc/self is the effective user.
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn has_lists() -> bool {
    let entries = fs::read_dir(Path::new("/var/lib/apt/lists")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().contains("_Packages"))
}

/// The name by which apt knows a package.
fn known_name(package: &str) -> &str {
    let known = |name: &str| command::output(command::command("apt-cache").args(["show", name])).is_some();
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == package).map(|&(_, other)| other);
    match other {
        Some(other) if !known(package) && known(other) => other,
        _ => package,
    }
}
