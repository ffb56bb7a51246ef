//! The parts of the tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use portsplice_tooling::{command, workspace};

use super::tally::Tally;
use super::{fuzz, watch};

/// How long a part may take before it is taken for stuck: a few times what it takes on two cores.
const LIMIT: Duration = Duration::from_secs(600);

/// The end-to-end part that runs before all others: what it tries is what the others stand on.
const FIRST: &str = "ebpf";

/// A part that can be run by itself.
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) what: String,
    kind: Kind,
}

enum Kind {
    /// Unit tests of all crates.
    Unit,
    /// A file of the tests crate.
    EndToEnd,
    /// Fuzz targets.
    Fuzz,
    /// Another command of xtask, with these arguments.
    Xtask(&'static [&'static str]),
}

impl Part {
    fn new(name: &str, what: &str, kind: Kind) -> Self {
        Self { name: name.to_owned(), what: what.to_owned(), kind }
    }

    /// Runs it, and says how many tests passed and failed.
    pub(crate) fn run(&self) -> anyhow::Result<Tally> {
        let tally = match self.kind {
            Kind::Unit => unit()?,
            Kind::EndToEnd => {
                let mut test = cargo_test();
                test.args(["--package", "portsplice-tests", "--test", &self.name]);
                test.args(["--", &format!("--test-threads={}", threads(&self.name))]);
                watch::run(&mut test, LIMIT)?
            }
            Kind::Fuzz => fuzz::run()?,
            Kind::Xtask(args) => {
                let xtask = workspace::program()?;
                watch::run_one(command::command(xtask).args(args), LIMIT)?
            }
        };
        if tally == Tally::default() {
            println!("{}: ran no test", self.name);
            return Ok(Tally::FAILURE);
        }
        Ok(tally)
    }
}

/// How many tests of an end-to-end part run at a time. They wait more than they compute, those of `node` above all; still, a
/// machine of two cores should not run twenty servers at once. Those of `ebpf` load programs, which is work.
fn threads(part: &str) -> usize {
    match part {
        "node" => 6,
        FIRST => 2,
        _ => 4,
    }
}

/// All parts, in the order in which they run: what is quick and basic first.
pub(crate) fn all() -> anyhow::Result<Vec<Part>> {
    let mut parts = vec![Part::new("unit", "unit and property tests of all crates", Kind::Unit)];
    let mut tests: Vec<_> = test_files(&workspace::root().join("tests/tests"))?.into_iter().collect();
    tests.sort_by_key(|(name, _)| name != FIRST);
    for (name, file) in tests {
        let what = first_line(&file)?;
        parts.push(Part::new(&name, &what, Kind::EndToEnd));
    }
    if fuzz::exists() {
        parts.push(Part::new("fuzz", "each fuzz target for a few seconds, from its seeds", Kind::Fuzz));
    }
    let demo = Kind::Xtask(&["demo"]);
    parts.push(Part::new("demo", "`cargo xtask demo`, as a newcomer runs it", demo));
    let bench = Kind::Xtask(&["bench", "--quick", "--binary", "target/debug/portsplice"]);
    parts.push(Part::new("bench-smoke", "`cargo xtask bench --quick`: that it works, not how fast", bench));
    Ok(parts)
}

/// Cargo's integration tests in a folder, by name: `NAME.rs` or `NAME/main.rs`; none if there is no such folder.
fn test_files(folder: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut tests = BTreeMap::new();
    if folder.is_dir() {
        for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
            let path = entry?.path();
            let file = if path.is_dir() { path.join("main.rs") } else { path.clone() };
            if file.extension().is_some_and(|extension| extension == "rs")
                && file.exists()
                && let Some(name) = path.file_stem()
            {
                tests.insert(name.to_string_lossy().into_owned(), file);
            }
        }
    }
    Ok(tests)
}

/// The first line of a file's documentation.
fn first_line(file: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix("//! ")).unwrap_or("end to end");
    Ok(line.trim_end_matches('.').to_owned())
}

fn cargo_test() -> Command {
    let mut cargo = command::cargo();
    cargo.arg("test");
    cargo
}

/// Unit tests: by nextest where it is installed, since it isolates them from each other; and the examples in the
/// documentation, which only cargo test can run.
fn unit() -> anyhow::Result<Tally> {
    let mut test = command::cargo();
    if command::find("cargo-nextest").is_some() {
        test.args(["nextest", "run", "--no-fail-fast", "--no-tests=pass"]);
    } else {
        test.args(["test", "--no-fail-fast"]);
    }
    test.args(["--workspace", "--lib", "--bins"]);
    let tally = watch::run(&mut test, LIMIT)?;
    Ok(tally.plus(watch::run(cargo_test().args(["--workspace", "--doc"]), LIMIT)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_files_or_folders_with_a_main() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("dir")).unwrap();
        fs::create_dir_all(at("helpers")).unwrap();
        for file in ["one.rs", "dir/main.rs", "helpers/mod.rs", "data.json"] {
            fs::write(at(file), "//! What it is.\n").unwrap();
        }
        let tests = test_files(folder.path()).unwrap();
        let expected = [("dir".to_owned(), at("dir/main.rs")), ("one".to_owned(), at("one.rs"))];
        assert_eq!(tests.into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(first_line(&at("one.rs")).unwrap(), "What it is");
        assert!(test_files(&at("nothing")).unwrap().is_empty());
    }
}
