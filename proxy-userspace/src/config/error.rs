//! What is wrong with a configuration, and where each value came from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where a value was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: it is the built-in default.
    Default,
    /// In the file, at a line counted from 1.
    File(Arc<PathBuf>, usize),
    /// By an environment variable.
    Variable(String),
    /// By a flag such as `--admin`.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{} line {line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Everything that is wrong with a configuration, so that it can be put right in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// One sentence or two for each mistake: the key, the value, where it is, what is allowed.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => f.write_str(one),
            many => {
                write!(f, "{} mistakes in the configuration:", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// Collects problems while the rest of a configuration is still being looked at.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// Adds a problem: a sentence or two that name the key and say what to do.
    pub fn add(&mut self, problem: impl Into<String>) {
        self.0.push(problem.into());
    }

    /// `key`'s value from `source` is not one of `allowed`.
    pub(super) fn bad_value(&mut self, key: &str, value: &str, source: &Source, allowed: &str) {
        // Debug formatting escapes control characters, which would otherwise reach a terminal.
        self.add(format!("{source}: `{key}` is {value:?}; write {allowed}"));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn finish(self) -> Result<(), ConfigError> {
        if self.0.is_empty() { Ok(()) } else { Err(ConfigError { problems: self.0 }) }
    }
}
