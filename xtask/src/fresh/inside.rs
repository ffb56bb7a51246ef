//! The first process of the tree's pid namespace: mounts what a machine has, makes the tree its root, and runs a
//! command there as its child, with an almost empty environment.

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use portsplice_tooling::interrupt;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};
use rustix::process::{Pid, WaitOptions, WaitStatus, chdir, pivot_root, wait};

use super::tree::{SOURCE, TOOLCHAIN};

/// How long the command may take to clean up once it has been told to end.
const GRACE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// Arguments of the hidden command.
#[derive(clap::Args)]
pub(super) struct Args {
    /// The tree
    #[arg(long)]
    tree: PathBuf,
    /// The folder of the compiler, which the tree gets to see
    #[arg(long)]
    toolchain: PathBuf,
    /// What its shell shall run
    script: String,
}

/// Runs the command; its failure is an error. All that it left running ends with this process.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    ensure!(process::id() == 1, "this is for a pid namespace of its own");
    interrupt::watch()?;
    move_in(&args.tree, &args.toolchain)?;
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &args.script]).current_dir(SOURCE);
    shell.env_clear().envs(environment());
    let child = shell.spawn().context("start the tree's shell")?;
    wait_for(Pid::from_child(&child))
}

/// What the command finds in its environment: the tree's programs alone on the search path.
fn environment() -> Vec<(&'static str, String)> {
    let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut all = vec![("PATH", format!("{TOOLCHAIN}/bin:{system}")), ("HOME", "/root".to_owned())];
    for name in ["TERM", "LANG", "CI"] {
        all.extend(std::env::var(name).ok().map(|value| (name, value)));
    }
    all
}

/// Mounts what the tree needs below it and makes it the root; the host's root is out of sight afterwards.
fn move_in(tree: &Path, toolchain: &Path) -> anyhow::Result<()> {
    let place = |path: &str| tree.join(path.trim_start_matches('/'));
    let done = |what: rustix::io::Result<()>, name: &str| what.with_context(|| format!("mount {name} in the tree"));
    done(mount_bind(tree, tree), "the tree itself")?; // pivot_root(2) wants a mount
    done(mount_bind(toolchain, place(TOOLCHAIN)), "the toolchain")?;
    done(mount_remount(place(TOOLCHAIN), MountFlags::BIND | MountFlags::RDONLY, c""), "the toolchain, read-only")?;
    for folder in ["/sys", "/dev"] {
        done(mount_bind_recursive(folder, place(folder)), folder)?;
    }
    let new = [
        ("/proc", c"proc", c""),
        ("/run", c"tmpfs", c"mode=755"),
        ("/dev/shm", c"tmpfs", c"mode=1777"),
        // Not the host's: what is pinned here goes with it.
        ("/sys/fs/bpf", c"bpf", c"mode=700"),
    ];
    for (folder, kind, options) in new {
        let (flags, options): (_, &CStr) = (MountFlags::NOSUID, options);
        done(mount(kind, place(folder), kind, flags, options), folder)?;
    }
    chdir(tree).context("enter the tree")?;
    pivot_root(".", ".").context("make the tree the root")?;
    // The old root is mounted over the new one now; what is below goes with it.
    unmount(".", UnmountFlags::DETACH).context("let go of the host's root")?;
    chdir("/").context("enter the new root")?;
    // Among themselves, as systemd leaves them on a real machine; Docker would else make mounts to have it so.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC).context("share the tree's mounts")
}

/// Waits for the command, and for whatever becomes this process's child by losing its parent meanwhile.
fn wait_for(command: Pid) -> anyhow::Result<()> {
    let mut deadline = None;
    loop {
        match wait(WaitOptions::NOHANG).context("wait for the command")? {
            Some((pid, status)) if pid == command => return judge(status),
            Some(_) => continue,
            None => {}
        }
        if interrupt::pending() && Instant::now() > *deadline.get_or_insert_with(|| Instant::now() + GRACE) {
            bail!("the command did not end within {} s of being told", GRACE.as_secs());
        }
        thread::sleep(POLL);
    }
}

fn judge(status: WaitStatus) -> anyhow::Result<()> {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(0), _) => Ok(()),
        (Some(code), _) => bail!("the command failed with exit status {code}"),
        (None, signal) => bail!("the command was ended by signal {}", signal.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_tree_is_on_the_search_path() {
        let all = environment();
        let path = &all.iter().find(|(name, _)| *name == "PATH").unwrap().1;
        let ours =
            |dir: &str| dir.starts_with("/usr/") || dir.starts_with(TOOLCHAIN) || dir == "/sbin" || dir == "/bin";
        assert!(path.split(':').all(ours), "{path}");
        assert!(all.iter().all(|(name, _)| ["PATH", "HOME", "TERM", "LANG", "CI"].contains(name)));
    }
}
