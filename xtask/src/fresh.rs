//! `cargo xtask fresh`: the README's commands on a machine that has nothing but what the README asks for.
//!
//! The machine is a bare Debian tree of the host's release with a fresh clone of a commit in it, run in mount and pid
//! namespaces of its own: what only the host has installed, and what nobody has committed, is not there. It shares the
//! host's kernel, network, devices and control groups, as Docker needs them.

mod inside;
mod namespaces;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Subcommand, ValueEnum};
use portsplice_tooling::{command, interrupt, workspace};

use self::tree::Tree;
use crate::setup;

/// Arguments of `cargo xtask fresh`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which of the README's commands to run
    #[arg(value_enum, default_value_t = Which::Demo)]
    which: Which,
    /// The commit to try; what is not committed never takes part
    #[arg(long, value_name = "COMMIT", default_value = "HEAD")]
    commit: String,
    #[command(subcommand)]
    role: Option<Role>,
}

/// A command of the README.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Which {
    /// `cargo xtask demo`, which takes about 5 GB of disk
    Demo,
    /// `cargo xtask test`, which takes about 12 GB of disk
    Test,
}

/// What xtask starts itself as.
#[derive(Subcommand)]
enum Role {
    /// The first process in the tree
    #[command(hide = true)]
    Inside(inside::Args),
}

impl Which {
    /// How the command begins in the README.
    fn command(self) -> &'static str {
        match self {
            Self::Demo => "cargo xtask demo",
            Self::Test => "cargo xtask test",
        }
    }

    /// Bytes of disk that must be free, tree included: a third more than it takes.
    fn disk(self) -> u64 {
        match self {
            Self::Demo => 6_500_000_000,
            Self::Test => 16_000_000_000,
        }
    }
}

impl Args {
    /// Whether this is the first process in the tree.
    pub(crate) fn is_server(&self) -> bool {
        self.role.is_some()
    }
}

/// Runs `cargo xtask fresh`.
pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    if let Some(Role::Inside(args)) = args.role {
        return inside::run(&args);
    }
    ensure!(
        rustix::process::geteuid().is_root(),
        "a machine inside this one is made of namespaces and mounts, which take root:\n    \
         sudo -E env \"PATH=$PATH\" cargo xtask fresh"
    );
    setup::run(setup::Args::of(setup::Purpose::Fresh))?;
    let script = written_command(&args.commit, args.which)?;
    let toolchain = toolchain()?;
    interrupt::watch()?;
    let started = Instant::now();
    let tree = Tree::new(&workspace::target_dir().join("fresh"), args.which.disk())?;
    let tried = try_in(&tree, &args.commit, &toolchain, &script);
    // The tree goes in any case; why the command failed is the more important of two errors.
    let removed = tree.remove();
    tried.and(removed)?;
    println!("fresh: `{script}` works on a bare machine ({} s in all)", started.elapsed().as_secs());
    Ok(())
}

fn try_in(tree: &Tree, commit: &str, toolchain: &Path, script: &str) -> anyhow::Result<()> {
    tree.make()?;
    tree.clone_of(commit)?;
    println!("fresh: in the bare tree: {script}");
    let mut inside = command::command(workspace::program()?);
    inside.args(["fresh", "inside", "--tree"]).arg(tree.path()).arg("--toolchain").arg(toolchain).arg(script);
    let worked = namespaces::run(&inside);
    interrupt::check()?;
    worked.with_context(|| format!("`{script}` does not work on a bare machine"))
}

/// The command as the README of a commit has it.
fn written_command(commit: &str, which: Which) -> anyhow::Result<String> {
    let mut git = command::command("git");
    git.args(["show", &format!("{commit}:README.md")]);
    let readme = command::output(&mut git).with_context(|| format!("`{}` shows nothing", command::shown(&git)))?;
    let found = find_command(&readme, which.command());
    found.with_context(|| format!("the README of {commit} has no line that begins with `{}`", which.command()))
}

fn find_command(readme: &str, command: &str) -> Option<String> {
    let line = readme.lines().find(|line| line.starts_with(command))?;
    Some(line.split('#').next().unwrap_or(line).trim().to_owned())
}

/// The folder of the compiler in use, with its cargo in `bin`.
fn toolchain() -> anyhow::Result<PathBuf> {
    let sysroot = command::output(command::command("rustc").args(["--print", "sysroot"]));
    let sysroot = PathBuf::from(sysroot.context("`rustc --print sysroot` fails")?.trim());
    let folder = fs::canonicalize(&sysroot).with_context(|| format!("find {}", sysroot.display()))?;
    ensure!(
        folder.join("bin/cargo").exists() && folder.join("bin/rustc").exists() && folder != Path::new("/usr"),
        "the tree takes a toolchain that has a folder of its own, such as rustup's; that of {} has none",
        sysroot.display()
    );
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_has_both_commands_and_says_what_the_tree_has() {
        let readme = fs::read_to_string(workspace::root().join("README.md")).unwrap();
        for which in [Which::Demo, Which::Test] {
            assert_eq!(find_command(&readme, which.command()).as_deref(), Some(which.command()));
        }
        let asked = readme.split("apt-get install ").nth(1).and_then(|rest| rest.split('`').next()).unwrap();
        for package in asked.split_whitespace() {
            assert!(tree::PACKAGES.contains(&package), "the tree has no {package}");
        }
    }

    #[test]
    fn a_command_ends_at_its_comment() {
        let found = find_command("text\n\ncargo xtask demo --x   # what it does\n", "cargo xtask demo");
        assert_eq!(found.as_deref(), Some("cargo xtask demo --x"));
        assert_eq!(find_command("`cargo xtask demo`\n", "cargo xtask demo"), None);
    }
}
