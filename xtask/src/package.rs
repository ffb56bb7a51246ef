//! `cargo xtask package`: the Debian package, with the program, its units, manual pages and completions.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use portsplice_tooling::{command, workspace};

use crate::{build_ebpf, setup, toolchain};

mod licenses;

/// cargo-deb's version: pinned, because it decides how the package looks.
const CARGO_DEB_VERSION: &str = "3.8.0";

/// The package's name, and its program's.
const NAME: &str = "portsplice";

/// Arguments of `cargo xtask package`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Who answers for the package: `Name <address>`; DEBFULLNAME and DEBEMAIL by default, as for Debian's own tools
    #[arg(long, value_name = "WHO")]
    maintainer: Option<String>,
    /// Take the release build that is there, as it is
    #[arg(long)]
    no_build: bool,
    /// Compress quickly, for a try
    #[arg(long)]
    fast: bool,
}

/// Builds everything that the package has in it, and the package; prints where it is.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    setup::need("dpkg-shlibdeps", "dpkg-dev", "finds out which libraries the package depends on")?;
    let cargo_deb = cargo_deb()?;
    if !args.no_build {
        setup::run(setup::Args::of(setup::Purpose::Package))?;
        build_ebpf::run(build_ebpf::Args::default())?;
        command::run(command::cargo().args(["build", "--release", "--locked", "--package", NAME]))?;
    }
    let program = workspace::target_dir().join("release").join(NAME);
    let maintainer = args.maintainer.or_else(maintainer_of_environment);
    generate(&program, maintainer.as_deref())?;

    let output = workspace::target_dir().join("debian");
    // What only a debugger or a profiler reads is a package of its own, portsplice-dbgsym, named .ddeb.
    let mut deb = command::command(cargo_deb);
    deb.args(["--package", NAME, "--locked", "--no-build", "--dbgsym", "--output"]).arg(&output);
    if let Some(maintainer) = &maintainer {
        deb.args(["--maintainer", maintainer]);
    }
    if args.fast {
        deb.arg("--fast");
    }
    command::run(&mut deb)?;
    let package = newest(&output)?;
    println!("package: {}", package.display());
    lint(&package)
}

/// cargo-deb: the one in the tools folder, built from its crate if it is not there.
fn cargo_deb() -> anyhow::Result<PathBuf> {
    let ours = toolchain::tools().join("bin/cargo-deb");
    let version = command::output(command::command(&ours).arg("--version"));
    if version.is_some_and(|version| version.split_whitespace().last() == Some(CARGO_DEB_VERSION)) {
        return Ok(ours);
    }
    println!("package: building cargo-deb takes a minute or two");
    let mut cargo = command::cargo();
    cargo.args(["install", "cargo-deb", "--locked", "--version", CARGO_DEB_VERSION, "--root"]).arg(toolchain::tools());
    cargo.arg("--target-dir").arg(workspace::target_dir().join("tools-build"));
    command::run(&mut cargo)?;
    Ok(ours)
}

/// What the package has beside files of the repository; its assets name `target/release/package`.
fn generate(program: &Path, maintainer: Option<&str>) -> anyhow::Result<()> {
    let folder = workspace::target_dir().join("release/package");
    let _ = fs::remove_dir_all(&folder); // pages of commands that are no more
    fs::create_dir_all(folder.join("completions")).with_context(|| format!("make {}", folder.display()))?;
    command::run(command::command(program).arg("man").arg("--dir").arg(folder.join("man")))?;
    for (shell, file) in [("bash", "portsplice"), ("zsh", "_portsplice"), ("fish", "portsplice.fish")] {
        let script = command::output(command::command(program).args(["completions", shell]));
        let script = script.with_context(|| format!("`portsplice completions {shell}` fails"))?;
        fs::write(folder.join("completions").join(file), script)?;
    }
    fs::write(folder.join("third-party-licenses.txt"), licenses::text()?)?;
    fs::write(folder.join("changelog.Debian"), changelog(maintainer)?)?;
    fs::copy(workspace::root().join("CHANGELOG.md"), folder.join("changelog"))?;
    // As Debian wants it: as small as can be, and without the time of packing.
    let mut gzip = command::command("gzip");
    gzip.arg("-9n").args(["changelog", "changelog.Debian"].map(|name| folder.join(name)));
    let pages = fs::read_dir(folder.join("man"))?.flatten().map(|entry| entry.path());
    command::run(gzip.args(pages))
}

/// Debian's changelog: what has changed stands in CHANGELOG.md, which Debian's tools cannot read.
fn changelog(maintainer: Option<&str>) -> anyhow::Result<String> {
    let maintainer = maintainer.unwrap_or("The Portsplice contributors <portsplice@packages.invalid>");
    let of_commit = command::output(command::command("git").args(["log", "-1", "--format=%cd", "--date=rfc2822"]));
    let date = of_commit.map(|date| date.trim().to_owned()).filter(|date| !date.is_empty());
    // A source without git's history is as old as its manifest, for all that is known.
    let of_file =
        || command::output(command::command("date").args(["--utc", "--rfc-email", "--reference", "Cargo.toml"]));
    let date =
        date.or_else(|| of_file().map(|date| date.trim().to_owned())).context("neither git nor date tell a date")?;
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!(
        "{NAME} ({version}-1) unstable; urgency=medium\n\n  * See README.md and the project's CHANGELOG.md.\n\n -- {maintainer}  {date}\n"
    ))
}

fn maintainer_of_environment() -> Option<String> {
    Some(format!("{} <{}>", std::env::var("DEBFULLNAME").ok()?, std::env::var("DEBEMAIL").ok()?))
}

fn newest(folder: &Path) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?.flatten();
    let packages = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "deb"));
    let newest = packages.max_by_key(|entry| entry.metadata().and_then(|metadata| metadata.modified()).ok());
    newest.map(|entry| entry.path()).with_context(|| format!("no package in {}", folder.display()))
}

/// What Debian's own checker thinks of it, where it is installed.
fn lint(package: &Path) -> anyhow::Result<()> {
    if command::find("lintian").is_none() {
        println!("package: not checked, since lintian is not installed");
        return Ok(());
    }
    let mut lintian = command::command("lintian");
    lintian.args(["--fail-on", "error", "--tag-display-limit", "0"]).arg(package);
    command::say(&lintian);
    ensure!(lintian.status()?.success(), "lintian finds errors in {}", package.display());
    Ok(())
}
