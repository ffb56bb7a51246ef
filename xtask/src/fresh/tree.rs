//! The bare Debian tree: the host's release, sources, keys and certificates, and none of its packages.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use portsplice_tooling::{command, interrupt, workspace};

use super::namespaces;

/// What the README asks for, and the certificates without which no toolchain can be installed.
pub(super) const PACKAGES: [&str; 3] = ["gcc", "libc6-dev", "ca-certificates"];
/// Where the clone is in the tree.
pub(super) const SOURCE: &str = "/root/portsplice";
/// Where the compiler is in the tree.
pub(super) const TOOLCHAIN: &str = "/opt/rust";

/// The host's certificates beyond Debian's, for `update-ca-certificates`.
const OWN_CERTIFICATES: &str = "/usr/local/share/ca-certificates";
/// How the host reaches Debian's mirrors and trusts them, and names hosts.
const TAKEN: [&str; 9] = [
    "/etc/apt/auth.conf",
    "/etc/apt/auth.conf.d",
    "/etc/apt/keyrings",
    "/etc/apt/preferences.d",
    "/etc/apt/trusted.gpg",
    "/etc/apt/trusted.gpg.d",
    "/usr/share/keyrings",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/hosts",
];
/// How long processes that were killed may go on writing into the tree.
const DYING: Duration = Duration::from_secs(5);

/// A folder for the tree; nobody else uses it as long as this lives.
pub(super) struct Tree {
    path: PathBuf,
    _lock: File,
}

impl Tree {
    /// A place for a tree in `folder`, once whatever an earlier run left there is gone; `disk` bytes must be free.
    pub(super) fn new(folder: &Path, disk: u64) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let lock = File::create(folder.join("lock")).context("make a lock")?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another `cargo xtask fresh` runs in {}", folder.display()),
            Err(TryLockError::Error(error)) => return Err(error).context("lock the tree"),
        }
        let tree = Self { path: folder.join("tree"), _lock: lock };
        tree.remove()?;
        let space = rustix::fs::statvfs(folder).context("ask for free space")?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let gb = |bytes: u64| bytes as f64 / 1e9;
        ensure!(free >= disk, "{:.1} GB are free for {}, and it takes {:.1}", gb(free), folder.display(), gb(disk));
        Ok(tree)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the bare system.
    pub(super) fn make(&self) -> anyhow::Result<()> {
        namespaces::run(&self.mmdebstrap()?)?;
        for path in TAKEN.into_iter().filter(|path| Path::new(path).exists()) {
            self.take(path)?;
        }
        // The tree is for one run, and disks are full sooner than mirrors are slow.
        fs::write(self.at("/etc/apt/apt.conf.d/50no-archives"), "APT::Keep-Downloaded-Packages \"false\";\n")?;
        let config = self.at("/root/.cargo");
        for folder in [self.at(TOOLCHAIN), config.clone()] {
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        }
        if let Some(file) = cargo_config() {
            fs::copy(&file, config.join("config.toml")).with_context(|| format!("copy {}", file.display()))?;
        }
        Ok(())
    }

    /// Copies a file or folder of the host to the same place in the tree; of links, what they lead to.
    fn take(&self, path: &str) -> anyhow::Result<()> {
        let to = self.at(path);
        let parent = to.parent().unwrap_or(&self.path);
        fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        command::run(command::command("cp").args(["-rpL", "--no-target-directory", path]).arg(to))
    }

    fn mmdebstrap(&self) -> anyhow::Result<Command> {
        let mut mmdebstrap = command::command("mmdebstrap");
        mmdebstrap.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
        mmdebstrap.arg(format!("--include={}", PACKAGES.join(",")));
        // No package waits for the disk, here or later: the tree has not to survive a power failure.
        mmdebstrap.arg("--dpkgopt=force-unsafe-io");
        let settings = self.path.with_extension("apt.conf");
        fs::write(&settings, apt_settings()?).with_context(|| format!("write {}", settings.display()))?;
        mmdebstrap.arg(format!("--aptopt={}", settings.display()));
        if Path::new(OWN_CERTIFICATES).is_dir() {
            // Before ca-certificates is installed, which takes them up.
            mmdebstrap.arg(format!(
                "--setup-hook=mkdir -p \"$1{OWN_CERTIFICATES}\" && cp -r {OWN_CERTIFICATES}/. \"$1{OWN_CERTIFICATES}\""
            ));
        }
        mmdebstrap.arg(release()?).arg(&self.path);
        mmdebstrap.args(sources(Path::new("/etc/apt"))?);
        Ok(mmdebstrap)
    }

    /// Clones the workspace's repository into it, and nothing of the work tree.
    pub(super) fn clone_of(&self, commit: &str) -> anyhow::Result<()> {
        let clone = self.at(SOURCE);
        let mut git = command::command("git");
        git.args(["clone", "--quiet", "--no-local", "--no-checkout"]).arg(workspace::root()).arg(&clone);
        command::run(&mut git)?;
        // What it is called here may not be its name there.
        let id =
            command::output(command::command("git").args(["rev-parse", "--verify", &format!("{commit}^{{commit}}")]));
        let id = id.with_context(|| format!("there is no commit {commit}"))?;
        let mut git = command::command("git");
        command::run(git.arg("-C").arg(&clone).args(["checkout", "--quiet", "--detach", id.trim()]))?;
        interrupt::check()
    }

    /// Removes it. There are no mounts in it here: those of its namespaces are gone with them.
    pub(super) fn remove(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + DYING;
        while self.path.exists() {
            match fs::remove_dir_all(&self.path) {
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| format!("remove {}", self.path.display()));
                }
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
        Ok(())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }
}

/// The code name of the host's release (os-release(5)).
fn release() -> anyhow::Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name
        .context("/etc/os-release has no VERSION_CODENAME: is this a release of Debian?")?
        .trim_matches('"')
        .to_owned())
}

/// The files that say where `apt` gets packages.
fn sources(apt: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let parts = fs::read_dir(apt.join("sources.list.d")).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_source = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "list" || ext == "sources");
    let mut files: Vec<_> = parts.filter(is_source).collect();
    files.sort();
    files.insert(0, apt.join("sources.list"));
    files.retain(|file| fs::read_to_string(file).is_ok_and(|text| text.lines().any(names_a_source)));
    ensure!(!files.is_empty(), "{} names no sources of packages", apt.display());
    Ok(files)
}

/// Whether a line of either format (sources.list(5)) says where packages are.
fn names_a_source(line: &str) -> bool {
    ["deb ", "deb\t", "URIs:"].iter().any(|start| line.starts_with(start))
}

/// How the host's apt fetches: proxies, certificates, checks of dates. What its packages want to be fetched beside
/// packages is theirs.
fn apt_settings() -> anyhow::Result<String> {
    let dump = command::output(command::command("apt-config").args(["dump", "--no-empty"]));
    Ok(fetching(&dump.context("`apt-config dump` fails")?))
}

fn fetching(dump: &str) -> String {
    let kept = |line: &&str| line.starts_with("Acquire::") && !line.starts_with("Acquire::IndexTargets");
    dump.split_inclusive('\n').filter(kept).collect()
}

/// The user's configuration of cargo, which says where crates come from; none where it is cargo's own default.
fn cargo_config() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    ["config.toml", "config"].map(|name| home.join(name)).into_iter().find(|file| file.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_apts_settings_only_how_it_fetches() {
        let dump = "APT::Get \"\";\nAcquire::http::Proxy \"http://p:1\";\n\
                    Acquire::IndexTargets::deb::DEP-11::MetaKey \"x\";\nDPkg::Post-Invoke:: \"rm\";\n";
        assert_eq!(fetching(dump), "Acquire::http::Proxy \"http://p:1\";\n");
    }

    #[test]
    fn sources_of_both_formats_and_no_empty_files() {
        let apt = tempfile::tempdir().unwrap();
        let parts = apt.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        assert!(sources(apt.path()).is_err());
        fs::write(apt.path().join("sources.list"), "# see sources.list.d\n").unwrap();
        fs::write(parts.join("b.list"), "deb http://h/ s main\n").unwrap();
        fs::write(parts.join("a.sources"), "Types: deb\nURIs: http://h/\n").unwrap();
        fs::write(parts.join("c.list.disabled"), "deb http://h/ s main\n").unwrap();
        assert_eq!(sources(apt.path()).unwrap(), [parts.join("a.sources"), parts.join("b.list")]);
    }

    #[test]
    fn one_at_a_time_and_what_was_left_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join("tree/etc");
        fs::create_dir_all(&left).unwrap();
        let tree = Tree::new(folder.path(), 0).unwrap();
        assert!(!tree.path().exists() && Tree::new(folder.path(), 0).is_err());
        drop(tree);
        let error = Tree::new(folder.path(), u64::MAX).err().unwrap();
        assert!(error.to_string().contains("GB are free"), "{error}");
    }
}
