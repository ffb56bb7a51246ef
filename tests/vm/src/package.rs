//! Gets a kernel's package, and out of it what a machine needs.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, bail, ensure};
use portsplice_tooling::command;
use sha2::{Digest, Sha256};

use crate::kernels::Kernel;

/// apt's own client: it knows the user's mirrors and proxies, and checks hashes.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// Modules to load where the kernel has them as modules, and why.
const MODULES: [&str; 5] = [
    "tcp_diag",    // to find who listens on a port (sock_diag(7)); it brings inet_diag
    "veth",        // joins network namespaces
    "tls",         // kernel TLS
    "gcm",         // its cipher
    "aesni-intel", // and that one's quick implementation
];

/// What to unpack: the kernel, and the folders in which those modules and all they depend on lie.
const WANTED: [&str; 8] = [
    "*/boot/vmlinuz-*",
    "*/modules.builtin",
    "*/kernel/net/ipv4/*",
    "*/kernel/net/tls/*",
    "*/kernel/drivers/net/veth.ko*",
    "*/kernel/crypto/*",
    "*/kernel/arch/x86/crypto/*",
    "*/kernel/lib/*",
];

/// What came out of the package.
pub(crate) struct Files {
    /// The kernel.
    pub(crate) vmlinuz: PathBuf,
    /// Modules, each after those that it needs.
    pub(crate) modules: Vec<PathBuf>,
}

/// Downloads the package unless it is there, and unpacks what is wanted of it into `folder`.
pub(crate) fn fetch(kernel: &Kernel, folder: &Path) -> anyhow::Result<Files> {
    let package = folder.join(kernel.file());
    if !fs::exists(&package)? {
        download(kernel, &package)?;
    }
    let found = sha256(&package)?;
    ensure!(
        found == kernel.sha256,
        "{} is not what is pinned (its SHA-256 is {found}): remove it, and run this again",
        package.display()
    );
    let tree = folder.join("package");
    let _ = fs::remove_dir_all(&tree);
    fs::create_dir_all(&tree)?;
    unpack(&package, &tree)?;
    let files = list(&tree)?;
    let vmlinuz = files.iter().find(|file| name(file).starts_with("vmlinuz-"));
    let vmlinuz = vmlinuz.with_context(|| format!("no kernel in {}", package.display()))?.clone();
    Ok(Files { vmlinuz, modules: modules(&files)? })
}

fn download(kernel: &Kernel, package: &Path) -> anyhow::Result<()> {
    let by_hand =
        format!("put {} (SHA-256 {}) at {} by your own means", kernel.file(), kernel.sha256, package.display());
    let Some(archive) = archive(kernel.archive) else {
        bail!("apt knows no archive with the label `{}` here: run `apt-get update`, or {by_hand}", kernel.archive);
    };
    let partial = package.with_extension("partial");
    let mut helper = command::command(APT_HELPER);
    helper.arg("download-file").arg(format!("{archive}/{}/{}", kernel.folder, kernel.file()));
    helper.arg(&partial).arg(format!("SHA256:{}", kernel.sha256));
    if let Err(error) = command::run(&mut helper) {
        bail!(
            "{error}\nIf the mirror does not have this version any more, pin the one that it has in \
             tests/vm/src/kernels.rs (package, version, folder and hash stand in the archive's Packages file), or {by_hand}"
        );
    }
    fs::rename(&partial, package).with_context(|| format!("rename {}", partial.display()))
}

/// Where the mirror has the archive with this label, by apt's own configuration.
fn archive(label: &str) -> Option<String> {
    let mut apt = command::command("apt-get");
    let targets = command::output(apt.args(["indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(SITE)"]))?;
    site(&targets, label).map(str::to_owned)
}

fn site<'t>(targets: &'t str, label: &str) -> Option<&'t str> {
    targets.lines().find_map(|line| line.strip_prefix("Debian|")?.strip_prefix(label)?.strip_prefix('|'))
}

fn sha256(file: &Path) -> anyhow::Result<String> {
    let mut input = fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        match input.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn unpack(package: &Path, tree: &Path) -> anyhow::Result<()> {
    let mut deb = command::command("dpkg-deb");
    let mut deb = deb.arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).spawn().context("start dpkg-deb")?;
    let mut tar = command::command("tar");
    tar.args(["--extract", "--wildcards", "--directory"]).arg(tree).args(WANTED);
    tar.stdin(deb.stdout.take().context("dpkg-deb has no output")?);
    // tar also fails when a pattern fits nothing; what is missing is found missing by name.
    let _ = tar.stderr(Stdio::null()).status().context("run tar")?;
    ensure!(deb.wait()?.success(), "dpkg-deb cannot read {}", package.display());
    Ok(())
}

/// All files below a folder.
fn list(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.append(&mut list(&entry.path())?);
        } else {
            files.push(entry.path());
        }
    }
    Ok(files)
}

fn name(file: &Path) -> &str {
    file.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// The wanted modules among `files`, each after those that it depends on. What is not there is built in, or not needed by
/// that kernel: what fails without it says so.
fn modules(files: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut order = Vec::new();
    for module in MODULES {
        add(module, files, &mut order)?;
    }
    Ok(order)
}

fn add(module: &str, files: &[PathBuf], order: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let Some(file) = files.iter().find(|file| stem(name(file)) == stem(module)) else { return Ok(()) };
    let plain = file.with_file_name(format!("{}.ko", stem(module)));
    if order.contains(&plain) {
        return Ok(());
    }
    let image = match file.extension().is_some_and(|extension| extension == "xz") {
        true => unxz(file)?,
        false => fs::read(file)?,
    };
    for needed in depends(&image) {
        add(&needed, files, order)?;
    }
    fs::write(&plain, image)?;
    order.push(plain);
    Ok(())
}

/// A module's name without its ending; the kernel takes `-` and `_` for the same.
fn stem(name: &str) -> String {
    name.trim_end_matches(".xz").trim_end_matches(".ko").replace('-', "_")
}

fn unxz(file: &Path) -> anyhow::Result<Vec<u8>> {
    let output = command::command("xz").args(["--decompress", "--stdout"]).arg(file).output();
    let output = output.context("run xz (Debian package xz-utils)")?;
    ensure!(output.status.success(), "xz cannot read {}", file.display());
    Ok(output.stdout)
}

/// What a module says that it depends on, in its section `.modinfo`.
fn depends(image: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = image.windows(FIELD.len()).position(|window| window == FIELD) else { return Vec::new() };
    let value = image[at + FIELD.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read() {
        let image = b"\x7fELF..\0license=GPL\0depends=cryptd,crypto-simd\0retpoline=Y\0";
        assert_eq!(depends(image), ["cryptd", "crypto-simd"]);
        assert!(depends(b"\0depends=\0name=x\0").is_empty());
        assert!(depends(b"nothing").is_empty());
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, depends: &str| {
            let path = folder.path().join(name);
            fs::write(&path, format!("x\0depends={depends}\0")).unwrap();
            path
        };
        let files = [file("aesni-intel.ko", "crypto_simd"), file("crypto_simd.ko", ""), file("unused.ko", "")];
        let order = modules(&files).unwrap();
        let names: Vec<_> = order.iter().map(|file| name(file)).collect();
        assert_eq!(names, ["crypto_simd.ko", "aesni_intel.ko"]);
    }

    #[test]
    fn the_archive_is_found_by_its_label() {
        let targets = "Other|Debian|a\nDebian|Debian|b\nDebian|Debian|b\nDebian|Debian-Security|c\n";
        assert_eq!(site(targets, "Debian"), Some("b"));
        assert_eq!(site(targets, "Debian-Security"), Some("c"));
        assert_eq!(site("", "Debian"), None);
    }
}
