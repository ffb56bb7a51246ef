//! docs/metrics.md, made of the metrics' descriptions.

use std::fmt::Write;

#[cfg(test)]
use super::description::Kind;
use super::description::{Description, Values};

/// A part of the document: a heading, some words, a table.
#[derive(Debug)]
pub struct Section {
    pub(super) title: &'static str,
    pub(super) about: &'static str,
    pub(super) prefix: &'static str,
    pub(super) metrics: Vec<Description>,
}

impl Section {
    /// The names under which a scraper finds the section's metrics.
    fn names(&self) -> impl Iterator<Item = String> {
        self.metrics.iter().map(|metric| format!("{}{}", self.prefix, metric.series()))
    }
}

const HEAD: &str = "\
<!-- Made by `cargo xtask docs` from the descriptions in proxy-userspace/src/metrics.rs and app/observe/groups.rs; changes here are lost. -->

# Metrics

`/metrics` on the admin address (`admin` in the configuration) answers in OpenMetrics text. Counters begin at zero with the
process. A histogram is the series `NAME_bucket` (label `le`), `NAME_sum` and `NAME_count`. What is not there cannot be read
on this machine, or has not occurred yet where the table says so.
";

/// The whole document.
pub fn document(sections: &[Section]) -> String {
    let mut out = HEAD.to_owned();
    for section in sections {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n## {}\n\n{}\n\n", section.title, section.about);
        out.push_str("| metric | type | labels | meaning | when to worry |\n| --- | --- | --- | --- | --- |\n");
        for (metric, name) in section.metrics.iter().zip(section.names()) {
            let Description { kind, help, worry, .. } = metric;
            let labels = labels(metric);
            let _ = writeln!(out, "| `{name}` | {} | {labels} | {help}. | {worry} |", kind.name());
        }
    }
    out
}

fn labels(metric: &Description) -> String {
    let labels = metric.labels.iter().map(|label| match label.values {
        Values::OneOf(values) => {
            let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("`{}`: {}", label.name, values.join(", "))
        }
        Values::Described(text) => format!("`{}`: {text}", label.name),
    });
    labels.collect::<Vec<_>>().join("; ")
}

/// What is wrong with the descriptions: names that occur twice, texts that are missing or do not fit into a table.
#[cfg(test)]
pub(crate) fn mistakes(sections: &[Section]) -> Vec<String> {
    let mut mistakes = Vec::new();
    let mut names = std::collections::HashSet::new();
    for section in sections {
        for (metric, name) in section.metrics.iter().zip(section.names()) {
            if !names.insert(name.clone()) {
                mistakes.push(format!("{name} is there twice"));
            }
            let texts = [metric.help, metric.worry];
            let is_text = |text: &&str| !text.is_empty() && !text.contains(['|', '\n']);
            if !texts.iter().all(is_text) || metric.help.ends_with('.') || !metric.worry.ends_with('.') {
                mistakes.push(format!("{name}: a meaning, and when to worry in whole sentences, for a table"));
            }
        }
    }
    mistakes
}

/// The names of all series that `text`, an answer to a scraper, has and no section.
#[cfg(test)]
pub(crate) fn unknown<'a>(sections: &[Section], text: &'a str) -> Vec<&'a str> {
    let known: Vec<(String, Kind)> = sections
        .iter()
        .flat_map(|section| section.names().zip(section.metrics.iter().map(|metric| metric.kind)))
        .collect();
    let is_known = |name: &str| {
        known.iter().any(|(known, kind)| match name.strip_prefix(known.as_str()) {
            Some("") => *kind != Kind::Histogram,
            Some("_bucket" | "_sum" | "_count") => *kind == Kind::Histogram,
            _ => false,
        })
    };
    let names = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next());
    names.filter(|name| !is_known(name)).collect()
}
