//! What is needed, why, and how to see whether it is there.

use std::fs;
use std::path::{Path, PathBuf};

use self::Purpose::{Bench, Demo, Fresh, Package, Test, Vm};
use crate::toolchain;
use portsplice_tooling::{command, workspace};

/// Where Debian's packages put LLVM.
pub(super) const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// One thing that is needed.
pub(super) struct Item {
    pub(super) name: &'static str,
    pub(super) why: &'static str,
    /// Where it is; none if it is missing.
    pub(super) found: Option<String>,
    pub(super) fix: Fix,
    /// Who needs it.
    pub(super) purposes: &'static [Purpose],
}

/// How to get it.
pub(super) enum Fix {
    /// These Debian packages.
    Packages(&'static [&'static str]),
    /// bpf-linker, built from its crate.
    Linker,
}

/// What a person wants to do, which decides what has to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Purpose {
    /// `cargo xtask demo`: building the daemon, Docker, curl
    Demo,
    /// `cargo xtask test`, which runs demo and bench as well
    Test,
    /// `cargo xtask bench`
    Bench,
    /// `cargo xtask package`
    Package,
    /// `cargo xtask fresh`, which builds nothing on this machine
    Fresh,
    /// `cargo xtask vm`, beyond what the daemon's build needs
    Vm,
}

impl Purpose {
    /// What a developer does every day: all but booting other kernels, whose emulator is large.
    pub(super) const USUAL: [Self; 5] = [Demo, Test, Bench, Package, Fresh];
    /// Those for which the daemon is built.
    const BUILD: [Self; 4] = [Demo, Test, Bench, Package];
}

/// Programs that are used as they are: name, Debian packages, what for, and for which purposes.
const PROGRAMS: [(&str, &[&str], &str, &[Purpose]); 36] = [
    ("git", &["git"], "tells the commit that a binary is built from", &[Test, Bench, Package, Fresh]),
    ("c++", &["g++"], "compiles libFuzzer for the fuzz targets", &[Test]),
    ("cc", &["gcc"], "compiles SQLite, the store of a single host", &Purpose::BUILD),
    (
        "protoc",
        &["protobuf-compiler", "libprotobuf-dev"],
        "turns etcd's protocol into Rust when its client is built",
        &Purpose::BUILD,
    ),
    ("ip", &["iproute2"], "makes the network namespaces of tests and bench", &[Test, Bench]),
    ("nft", &["nftables"], "disorders a container's segments in tests", &[Test]),
    ("ps", &["procps"], "shows what a test left running", &[Test]),
    ("curl", &["curl"], "sends the requests of the demo and of tests", &[Demo, Test]),
    ("dockerd", &["docker.io"], "runs containers in the demo and in end-to-end tests", &[Demo, Test]),
    ("docker", &["docker.io"], "talks to dockerd in the demo and in end-to-end tests", &[Demo, Test]),
    ("podman", &["podman"], "another engine in tests", &[Test]),
    ("nginx", &["nginx-light"], "a server in end-to-end tests, a peer in the bench", &[Test, Bench]),
    ("haproxy", &["haproxy"], "a peer in the bench", &[Test, Bench]),
    ("redis-server", &["redis-server"], "a server behind a tunnel in end-to-end tests", &[Test]),
    ("redis-cli", &["redis-server"], "its client", &[Test]),
    ("pg_ctlcluster", &["postgresql"], "PostgreSQL, a server behind a tunnel in end-to-end tests", &[Test]),
    ("psql", &["postgresql"], "its client", &[Test]),
    ("etcd", &["etcd-server"], "a registry in end-to-end tests and in the bench", &[Test, Bench]),
    ("etcdctl", &["etcd-client"], "its client in end-to-end tests", &[Test]),
    ("node", &["nodejs"], "a server in end-to-end tests", &[Test]),
    ("npm", &["npm"], "fetches the WebSocket library of that server", &[Test]),
    ("go", &["golang-go"], "compiles a server in end-to-end tests and a peer in the bench", &[Test, Bench]),
    ("javac", &["default-jdk-headless"], "compiles a server in end-to-end tests", &[Test]),
    ("java", &["default-jdk-headless"], "runs it", &[Test]),
    ("python3", &["python3", "python3-venv"], "servers and protocol suites in end-to-end tests", &[Test]),
    ("openssl", &["openssl"], "makes certificates in end-to-end tests", &[Test, Bench]),
    ("bpftool", &["bpftool"], "shows the programs in the kernel to a developer", &[Test]),
    (
        "systemd-analyze",
        &["systemd"],
        "checks the units; beside it are the programs that make users and folders",
        &[Test],
    ),
    ("checkmodule", &["checkpolicy"], "compiles the SELinux policy module", &[Test]),
    ("semodule_package", &["semodule-utils"], "makes a package of it", &[Test]),
    ("shellcheck", &["shellcheck"], "checks the scripts of the Debian package", &[Test]),
    ("man", &["man-db"], "finds the manual pages that the units name", &[Test]),
    ("mandoc", &["mandoc"], "checks the manual pages", &[Test]),
    ("mmdebstrap", &["mmdebstrap"], "makes a bare Debian tree", &[Fresh]),
    ("unshare", &["util-linux"], "makes the namespaces of the bare machine", &[Fresh]),
    ("qemu-system-x86_64", &["qemu-system-x86"], "boots other kernels in virtual machines", &[Vm]),
];

/// What one of `purposes` needs, with where it was found.
pub(super) fn of(purposes: &[Purpose]) -> Vec<Item> {
    let mut items = all();
    items.retain(|item| item.purposes.iter().any(|purpose| purposes.contains(purpose)));
    items
}

fn all() -> Vec<Item> {
    let compiler = toolchain::find().ok().map(|toolchain| toolchain.name);
    let mut items = vec![
        Item {
            name: "compiler for eBPF",
            why: "builds proxy-ebpf and its core library from source (none of rustup's nightlies here has rust-src)",
            found: compiler,
            fix: Fix::Packages(&["rustc-web", "cargo-web", "rust-web-src"]),
            purposes: &Purpose::BUILD,
        },
        Item {
            name: "bpf-linker",
            why: "makes one eBPF object of what the compiler emits",
            found: toolchain::linker().map(shown),
            fix: Fix::Linker,
            purposes: &Purpose::BUILD,
        },
    ];
    items.extend(PROGRAMS.map(|(name, packages, why, purposes)| {
        let found = command::find(name).map(shown);
        Item { name, why, found, fix: Fix::Packages(packages), purposes }
    }));
    items.push(Item {
        name: "protobuf's own types",
        why: "are what etcd's protocol imports; protoc comes without them",
        found: protobuf_types().map(shown),
        fix: Fix::Packages(&["libprotobuf-dev"]),
        purposes: &Purpose::BUILD,
    });
    let policy = Path::new("/usr/share/selinux/devel/Makefile");
    items.push(Item {
        name: "SELinux's reference policy",
        why: "is what the policy module is compiled against",
        found: policy.exists().then(|| shown(policy.to_owned())),
        fix: Fix::Packages(&["selinux-policy-dev"]),
        purposes: &[Test],
    });
    items.push(Item {
        name: "static busybox",
        why: "is the whole content of the container images of demo and tests, since none is pulled",
        found: command::find("busybox").filter(|file| is_static(file)).map(shown),
        fix: Fix::Packages(&["busybox-static"]),
        purposes: &[Demo, Test],
    });
    items
}

/// `google/protobuf/descriptor.proto` where protoc looks for it: in `PROTOC_INCLUDE` (prost-build's variable), or in the
/// folder `include` beside the one that protoc is in.
fn protobuf_types() -> Option<PathBuf> {
    let given = std::env::var_os("PROTOC_INCLUDE").map(PathBuf::from);
    let protoc = std::env::var_os("PROTOC").map(PathBuf::from).or_else(|| command::find("protoc"));
    let beside = protoc.and_then(|protoc| Some(protoc.canonicalize().ok()?.parent()?.parent()?.join("include")));
    let mut files = [given, beside].into_iter().flatten().map(|dir| dir.join("google/protobuf/descriptor.proto"));
    files.find(|file| file.exists())
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
            assert!(!item.why.is_empty() && !item.name.is_empty() && !item.purposes.is_empty());
        }
    }

    #[test]
    fn the_demo_is_small_and_the_tests_run_everything() {
        let names = |purpose| of(&[purpose]).iter().map(|item| item.name).collect::<Vec<_>>();
        let demo = names(Demo);
        for large in ["go", "javac", "node", "haproxy", "nginx", "redis-server", "psql", "SELinux's reference policy"] {
            assert!(!demo.contains(&large), "the demo does not need {large}");
        }
        for needed in ["cc", "protoc", "protobuf's own types", "bpf-linker", "dockerd", "curl", "static busybox"] {
            assert!(demo.contains(&needed), "the demo needs {needed}");
        }
        let test = names(Test);
        assert!([demo, names(Bench)].concat().iter().all(|name| test.contains(name)), "tests run demo and bench");
    }
}
