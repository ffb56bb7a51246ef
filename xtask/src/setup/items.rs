//! What is needed, why, and how to see whether it is there.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{command, toolchain, workspace};

/// Where Debian's packages put LLVM.
pub(super) const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// One thing that is needed.
pub(super) struct Item {
    pub(super) name: &'static str,
    pub(super) why: &'static str,
    /// Where it is; none if it is missing.
    pub(super) found: Option<String>,
    pub(super) fix: Fix,
}

/// How to get it.
pub(super) enum Fix {
    /// These Debian packages.
    Packages(&'static [&'static str]),
    /// bpf-linker, built from its crate.
    Linker,
}

/// Programs that are used as they are: name, Debian package, purpose.
const PROGRAMS: [(&str, &[&str], &str); 31] = [
    ("git", &["git"], "tells the commit that a binary is built from"),
    ("c++", &["g++"], "compiles libFuzzer for the fuzz targets"),
    ("cc", &["gcc"], "compiles SQLite, the store of a single host"),
    ("protoc", &["protobuf-compiler"], "turns etcd's protocol into Rust when its client is built"),
    ("ip", &["iproute2"], "makes the network namespaces of tests and bench"),
    ("ps", &["procps"], "shows what a test left running"),
    ("curl", &["curl"], "sends the requests of the demo and of tests"),
    ("dockerd", &["docker.io"], "runs containers in the demo and in end-to-end tests"),
    ("docker", &["docker.io"], "talks to dockerd in the demo and in end-to-end tests"),
    ("nginx", &["nginx-light"], "a server in end-to-end tests, a peer in the bench"),
    ("haproxy", &["haproxy"], "a peer in the bench"),
    ("redis-server", &["redis-server"], "a server behind a tunnel in end-to-end tests"),
    ("redis-cli", &["redis-server"], "its client"),
    ("pg_ctlcluster", &["postgresql"], "PostgreSQL, a server behind a tunnel in end-to-end tests"),
    ("psql", &["postgresql"], "its client"),
    ("etcd", &["etcd-server"], "a registry in end-to-end tests and in the bench"),
    ("etcdctl", &["etcd-client"], "its client in end-to-end tests"),
    ("node", &["nodejs"], "a server in end-to-end tests"),
    ("npm", &["npm"], "fetches the WebSocket library of that server"),
    ("go", &["golang-go"], "compiles a server in end-to-end tests"),
    ("javac", &["default-jdk-headless"], "compiles a server in end-to-end tests"),
    ("java", &["default-jdk-headless"], "runs it"),
    ("python3", &["python3", "python3-venv"], "servers and protocol suites in end-to-end tests"),
    ("openssl", &["openssl"], "makes certificates in end-to-end tests"),
    ("bpftool", &["bpftool"], "shows the programs in the kernel to a developer"),
    ("systemd-analyze", &["systemd"], "checks the units; beside it are the programs that make users and folders"),
    ("checkmodule", &["checkpolicy"], "compiles the SELinux policy module"),
    ("semodule_package", &["semodule-utils"], "makes a package of it"),
    ("shellcheck", &["shellcheck"], "checks the scripts of the Debian package"),
    ("man", &["man-db"], "finds the manual pages that the units name"),
    ("mandoc", &["mandoc"], "checks the manual pages"),
];

/// All that is needed, with where it was found.
pub(super) fn all() -> Vec<Item> {
    let compiler = toolchain::find().ok().map(|toolchain| toolchain.name);
    let mut items = vec![
        Item {
            name: "compiler for eBPF",
            why: "builds proxy-ebpf and its core library from source (none of rustup's nightlies here has rust-src)",
            found: compiler,
            fix: Fix::Packages(&["rustc-web", "cargo-web", "rust-web-src"]),
        },
        Item {
            name: "bpf-linker",
            why: "makes one eBPF object of what the compiler emits",
            found: toolchain::linker().map(shown),
            fix: Fix::Linker,
        },
    ];
    items.extend(PROGRAMS.map(|(name, packages, why)| {
        let found = command::find(name).map(shown);
        Item { name, why, found, fix: Fix::Packages(packages) }
    }));
    let policy = Path::new("/usr/share/selinux/devel/Makefile");
    items.push(Item {
        name: "SELinux's reference policy",
        why: "is what the policy module is compiled against",
        found: policy.exists().then(|| shown(policy.to_owned())),
        fix: Fix::Packages(&["selinux-policy-dev"]),
    });
    items.push(Item {
        name: "static busybox",
        why: "is the whole content of the container images of demo and tests, since none is pulled",
        found: command::find("busybox").filter(|file| is_static(file)).map(shown),
        fix: Fix::Packages(&["busybox-static"]),
    });
    items
}

fn shown(path: PathBuf) -> String {
    path.strip_prefix(workspace::root()).map(Path::to_path_buf).unwrap_or(path).display().to_string()
}

/// Whether LLVM's headers and libraries are there, to build bpf-linker.
pub(super) fn llvm_dev() -> bool {
    Path::new(LLVM_PREFIX).join("bin/llvm-config").exists()
}

/// Whether a program runs without any library: an ELF file whose program headers name no interpreter (elf(5)).
fn is_static(file: &Path) -> bool {
    fs::read(file).is_ok_and(|image| has_no_interpreter(&image) == Some(true))
}

fn has_no_interpreter(image: &[u8]) -> Option<bool> {
    const PT_INTERP: u32 = 3;
    let sixteen = |at: usize| Some(u16::from_le_bytes(image.get(at..at + 2)?.try_into().ok()?));
    // 64 bit, little-endian: what all our hosts are.
    if image.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let headers = u64::from_le_bytes(image.get(32..40)?.try_into().ok()?);
    let (size, count) = (usize::from(sixteen(54)?), usize::from(sixteen(56)?));
    let first = usize::try_from(headers).ok()?;
    for n in 0..count {
        let at = first.checked_add(n * size)?;
        let kind = u32::from_le_bytes(image.get(at..at.checked_add(4)?)?.try_into().ok()?);
        if kind == PT_INTERP {
            return Some(false);
        }
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_programs_and_scripts_are_not_static() {
        assert!(!is_static(&std::env::current_exe().unwrap()));
        assert_eq!(has_no_interpreter(b"#!/bin/sh\n"), None);
        assert_eq!(has_no_interpreter(b"\x7fELF\x02\x01"), None);
        let mut image = vec![0; 120];
        image[..6].copy_from_slice(b"\x7fELF\x02\x01");
        image[32] = 64; // program headers follow the header
        image[54] = 56;
        image[56] = 1;
        image[64] = 1; // PT_LOAD
        assert_eq!(has_no_interpreter(&image), Some(true));
        image[64] = 3;
        assert_eq!(has_no_interpreter(&image), Some(false));
        image[56] = 2;
        assert_eq!(has_no_interpreter(&image[..100]), Some(false));
        image[64] = 1;
        assert_eq!(has_no_interpreter(&image), None, "headers beyond the end of the file");
    }

    #[test]
    fn each_item_says_what_it_is_for() {
        for item in all() {
            assert!(!item.why.is_empty() && !item.name.is_empty());
        }
    }
}
