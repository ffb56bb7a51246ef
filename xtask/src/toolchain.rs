//! Finds what builds the eBPF object: a compiler that can build `core` from source for `bpfel-unknown-none`, and
//! bpf-linker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portsplice_tooling::{command, workspace};

/// bpf-linker's version: pinned, because it decides, together with LLVM, what the object looks like.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// The LLVM that bpf-linker is built against. It reads the bitcode of compilers that use this one or an older one.
pub(crate) const LLVM: u32 = 22;

/// The first compiler for the edition and the library versions of proxy-ebpf.
const OLDEST_RUSTC: (u32, u32) = (1, 87);

/// A compiler for the eBPF object, with its cargo.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// What to call it.
    pub(crate) name: String,
    cargo: PathBuf,
    rustc: PathBuf,
}

impl Toolchain {
    /// Its cargo, set up to use its compiler and its unstable options (`-Zbuild-std` is one).
    pub(crate) fn cargo(&self) -> Command {
        let mut command = command::command(&self.cargo);
        // What is meant for the host's build, or leads rustup's cargo to another toolchain, is not for this one.
        for name in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET"]
        {
            command.env_remove(name);
        }
        // A nightly ignores the variable; a stable compiler of the system opens its unstable features by it.
        command.env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1");
        command
    }
}

/// The first toolchain that will do: a nightly of rustup with the library's source, else the system's compiler with it.
///
/// # Errors
///
/// One line for each that was looked at, with the reason why it will not do.
pub(crate) fn find() -> Result<Toolchain, Vec<String>> {
    let mut reasons = Vec::new();
    for toolchain in candidates() {
        match check(&toolchain) {
            Ok(()) => return Ok(toolchain),
            Err(reason) => reasons.push(format!("{}: {reason}", toolchain.name)),
        }
    }
    Err(reasons)
}

fn candidates() -> Vec<Toolchain> {
    let home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let rustup = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".rustup")));
    let mut candidates = rustup.map(|rustup| nightlies(&rustup)).unwrap_or_default();
    let (cargo, rustc) = ("/usr/bin/cargo".into(), "/usr/bin/rustc".into());
    candidates.push(Toolchain { name: "the system's /usr/bin/rustc".to_owned(), cargo, rustc });
    candidates
}

/// rustup's nightlies: first the one that moves along, then those of a day, the newest first.
fn nightlies(rustup: &Path) -> Vec<Toolchain> {
    let entries = fs::read_dir(rustup.join("toolchains")).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| name.starts_with("nightly-"));
    let dated = |name: &String| name.as_bytes().get("nightly-".len()).is_some_and(u8::is_ascii_digit);
    names.sort_by(|a, b| dated(a).cmp(&dated(b)).then_with(|| b.cmp(a)));
    let toolchain = |name: String| {
        let bin = rustup.join("toolchains").join(&name).join("bin");
        Toolchain { name: format!("rustup's {name}"), cargo: bin.join("cargo"), rustc: bin.join("rustc") }
    };
    names.into_iter().map(toolchain).collect()
}

/// Whether a toolchain will do.
fn check(toolchain: &Toolchain) -> Result<(), String> {
    for file in [&toolchain.rustc, &toolchain.cargo] {
        if !file.exists() {
            return Err(format!("{} is not there", file.display()));
        }
    }
    // PREFIX/bin/rustc keeps the library's source below PREFIX/lib.
    let prefix = toolchain.rustc.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    if !prefix.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists() {
        return Err("has no source of the standard library (rust-src)".to_owned());
    }
    let version = command::output(command::command(&toolchain.rustc).arg("-vV").env_remove("RUSTUP_TOOLCHAIN"));
    check_version(&version.ok_or("`rustc -vV` fails")?)
}

/// Whether a compiler that says this of itself (`rustc -vV`) will do.
fn check_version(version: &str) -> Result<(), String> {
    let field = |name: &str| version.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let numbers = |text: &str| -> Option<(u32, u32)> {
        let mut parts = text.split(['.', '-']).map(|part| part.parse().ok());
        Some((parts.next()??, parts.next().flatten().unwrap_or(0)))
    };
    let release = field("release:").and_then(numbers).ok_or("`rustc -vV` tells no release")?;
    if release < OLDEST_RUSTC {
        return Err(format!("is {}.{}, and {}.{} is needed", release.0, release.1, OLDEST_RUSTC.0, OLDEST_RUSTC.1));
    }
    match field("LLVM version:").and_then(numbers) {
        Some((llvm, _)) if llvm > LLVM => {
            Err(format!("uses LLVM {llvm}, which bpf-linker with LLVM {LLVM} cannot read"))
        }
        _ => Ok(()),
    }
}

/// The folder where setup puts tools: cargo's `--root`.
pub(crate) fn tools() -> PathBuf {
    workspace::target_dir().join("tools")
}

/// bpf-linker in the version wanted: in the tools folder, or installed by somebody else.
pub(crate) fn linker() -> Option<PathBuf> {
    let ours = tools().join("bin/bpf-linker");
    [Some(ours), command::find("bpf-linker")].into_iter().flatten().find(|file| {
        // Running it also shows that its LLVM library is there.
        let version = command::output(command::command(file).arg("--version"));
        version.is_some_and(|version| version.split_whitespace().nth(1) == Some(LINKER_VERSION))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(release: &str, llvm: &str) -> String {
        format!("rustc {release} (abc 2026-01-01)\nbinary: rustc\nrelease: {release}\nLLVM version: {llvm}\n")
    }

    #[test]
    fn versions() {
        assert_eq!(check_version(&version("1.96.0", "22.1.8")), Ok(()));
        assert_eq!(check_version(&version("1.97.0-nightly", "21.1.0")), Ok(()));
        assert_eq!(check_version(&version("2.0.0", "22")), Ok(()));
        assert!(check_version(&version("1.86.0", "19.1.7")).is_err());
        assert!(check_version(&version("1.99.0-nightly", "23.1.0")).is_err());
        assert!(check_version("").is_err());
    }

    #[test]
    fn nightlies_in_order_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        for name in ["stable-x", "nightly-2026-01-02-x", "nightly-x", "nightly-2026-02-01-x", "1.90.0-x"] {
            fs::create_dir_all(home.path().join("toolchains").join(name)).unwrap();
        }
        let names: Vec<_> = nightlies(home.path()).into_iter().map(|toolchain| toolchain.name).collect();
        let expected = ["nightly-x", "nightly-2026-02-01-x", "nightly-2026-01-02-x"].map(|n| format!("rustup's {n}"));
        assert_eq!(names, expected);
        assert!(nightlies(&home.path().join("nothing")).is_empty());
    }

    #[test]
    fn a_toolchain_without_source_will_not_do() {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("toolchains/nightly-x/bin");
        fs::create_dir_all(&bin).unwrap();
        let reason = |home: &Path| check(&nightlies(home)[0]).unwrap_err();
        assert!(reason(home.path()).contains("is not there"));
        for program in ["rustc", "cargo"] {
            fs::write(bin.join(program), "").unwrap();
        }
        assert!(reason(home.path()).contains("rust-src"));
    }
}
