//! The licences of the libraries that are compiled in: each lets the binary be given away, with its notice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use portsplice_tooling::command;

/// The manifests whose lock files say what is in the binary: the program's, and that of the programs in the kernel.
const MANIFESTS: [(&str, &str); 2] = [("Cargo.toml", "portsplice"), ("proxy-ebpf/Cargo.toml", "portsplice-ebpf")];

/// Beginnings of the names, in lower case, of files that hold a licence or a notice.
const NAMES: [&str; 5] = ["license", "licence", "copying", "notice", "copyright"];

/// Everything that has to be said, each text once, with the libraries that it belongs to.
pub(super) fn text() -> anyhow::Result<String> {
    let mut crates = BTreeSet::new();
    let mut texts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (manifest, package) in MANIFESTS {
        let folders = folders(manifest)?;
        for (name, license) in compiled_in(manifest, package)? {
            let folder = folders.get(&name).with_context(|| format!("cargo metadata knows no folder of {name}"))?;
            for text in texts_in(folder) {
                texts.entry(text).or_default().insert(name.clone());
            }
            crates.insert(format!("{name}: {license}"));
        }
    }
    let mut out = String::from("Libraries that are compiled into portsplice, and their licences.\n\n");
    for line in &crates {
        out += &format!("{line}\n");
    }
    for (text, of) in &texts {
        let of: Vec<&str> = of.iter().map(String::as_str).collect();
        out += &format!("\n{}\n{}\n\n{}\n", "-".repeat(78), of.join(", "), text);
    }
    Ok(out)
}

/// `NAME VERSION` and licence of each crate of others that ends up in the binary.
fn compiled_in(manifest: &str, package: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut tree = command::cargo();
    tree.args(["tree", "--locked", "--manifest-path", manifest, "--package", package]);
    tree.args(["--edges", "normal", "--prefix", "none", "--no-dedupe", "--format", "{p}|{l}"]);
    let lines = command::output(&mut tree).with_context(|| format!("`{}` fails", command::shown(&tree)))?;
    Ok(lines.lines().filter_map(of_tree).collect())
}

/// One line of `cargo tree`, such as `aya v0.14.0|MIT OR Apache-2.0`; none for our own crates, which name their folder.
fn of_tree(line: &str) -> Option<(String, String)> {
    let (package, license) = line.split_once('|')?;
    let mut words = package.split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let ours = words.any(|word| word.starts_with("(/"));
    (!ours).then(|| (format!("{name} {version}"), license.to_owned()))
}

/// Where each crate's source is.
fn folders(manifest: &str) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut metadata = command::cargo();
    metadata.args(["metadata", "--locked", "--format-version", "1", "--manifest-path", manifest]);
    let json = command::output(&mut metadata).with_context(|| format!("`{}` fails", command::shown(&metadata)))?;
    let json: serde_json::Value = serde_json::from_str(&json).context("read cargo's metadata")?;
    let packages = json["packages"].as_array().context("cargo's metadata has no packages")?;
    let folder = |package: &serde_json::Value| {
        let name = format!("{} {}", package["name"].as_str()?, package["version"].as_str()?);
        Some((name, Path::new(package["manifest_path"].as_str()?).parent()?.to_owned()))
    };
    Ok(packages.iter().filter_map(folder).collect())
}

/// Licences and notices at the top of a crate.
fn texts_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter(|entry| {
        let name = entry.file_name().to_string_lossy().to_lowercase();
        NAMES.iter().any(|start| name.starts_with(start))
    });
    let text = |path: PathBuf| Some(fs::read_to_string(path).ok()?.replace("\r\n", "\n").trim_end().to_owned());
    named.filter_map(|entry| text(entry.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_tree() {
        let pair = |name: &str, license: &str| Some((name.to_owned(), license.to_owned()));
        assert_eq!(of_tree("aya v0.14.0|MIT OR Apache-2.0"), pair("aya 0.14.0", "MIT OR Apache-2.0"));
        assert_eq!(of_tree("serde_derive v1.0.2 (proc-macro)|MIT"), pair("serde_derive 1.0.2", "MIT"));
        assert_eq!(of_tree("proxy-common v0.1.0 (/somewhere/proxy-common)|MIT OR Apache-2.0"), None);
        assert_eq!(of_tree(""), None);
    }

    #[test]
    fn files_that_hold_a_licence() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("LICENSE-MIT", "one\r\n"), ("NOTICE.txt", "two\n\n"), ("README.md", "three")] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let mut texts = texts_in(folder.path());
        texts.sort();
        assert_eq!(texts, ["one", "two"]);
    }
}
