//! From readings to what is shown: medians of values, medians of ratios within a round, spread.

pub(crate) mod chart;
pub(crate) mod markdown;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use portsplice_tooling::child::program;
use serde::Serialize;

use crate::machine;
use crate::measure::Measure;
use crate::stats::{median, range};
use crate::system::System;

/// All readings of a run.
pub(crate) struct Results {
    /// The systems that took part, the yardstick first.
    pub(crate) systems: Vec<System>,
    readings: Vec<(Measure, System, usize, f64)>,
}

/// What the rounds say about one system in one measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    /// The median of the values.
    pub(crate) value: f64,
    /// The median of the ratios to the direct way's reading in the same round.
    pub(crate) ratio: Option<f64>,
    /// The smallest and the largest of those ratios, or of the values where there is no ratio.
    pub(crate) spread: (f64, f64),
}

impl Results {
    /// No readings yet.
    pub(crate) fn new(systems: &[System]) -> Self {
        Self { systems: systems.to_vec(), readings: Vec::new() }
    }

    /// Takes down one reading.
    pub(crate) fn add(&mut self, measure: Measure, system: System, round: usize, value: f64) {
        self.readings.push((measure, system, round, value));
    }

    /// The measures of which there are readings, in the order in which they came.
    pub(crate) fn measures(&self) -> Vec<Measure> {
        let mut seen = Vec::new();
        for (measure, ..) in &self.readings {
            if !seen.contains(measure) {
                seen.push(*measure);
            }
        }
        seen
    }

    /// The summary for `system` in `measure`, if it was tried.
    pub(crate) fn summary(&self, measure: Measure, system: System) -> Option<Summary> {
        let mut values = Vec::new();
        let mut ratios = Vec::new();
        for &(m, s, round, reading) in &self.readings {
            if (m, s) != (measure, system) {
                continue;
            }
            let direct = self.reading(measure, System::Direct, round)?;
            values.push(if measure.is_added() { reading - direct } else { reading });
            if measure.has_ratio() && direct > 0.0 {
                ratios.push(reading / direct);
            }
        }
        let spread = range(&ratios).or_else(|| range(&values))?;
        Some(Summary { value: median(&values)?, ratio: median(&ratios), spread })
    }

    fn reading(&self, measure: Measure, system: System, round: usize) -> Option<f64> {
        self.readings.iter().find(|r| (r.0, r.1, r.2) == (measure, system, round)).map(|r| r.3)
    }
}

/// What a reader has to know about the run.
pub(crate) struct Facts {
    /// Name and version of each program.
    pub(crate) versions: Vec<String>,
    /// Kernel, processors, congestion control.
    pub(crate) machine: String,
    /// When, in UTC.
    pub(crate) date: String,
    /// How many rounds.
    pub(crate) rounds: u16,
    /// Whether only little was done.
    pub(crate) quick: bool,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Facts {
    /// Asks the machine and the programs.
    pub(crate) fn gather(
        systems: &[System],
        binary: &Path,
        rounds: u16,
        quick: bool,
        took: Duration,
    ) -> anyhow::Result<Self> {
        let mut versions = Vec::new();
        if systems.iter().any(|s| s.is_ours()) {
            versions.push(machine::version(binary, "--version")?);
        }
        if systems.contains(&System::HaproxyHttp) || systems.contains(&System::HaproxyTcp) {
            versions.push(machine::version(&program("haproxy"), "-v")?);
        }
        if systems.contains(&System::Nginx) {
            versions.push(machine::version(&program("nginx"), "-v")?);
        }
        if systems.contains(&System::Go) {
            versions.push(machine::version(&program("go"), "version")?);
        }
        let machine = format!(
            "Linux {}, {} CPUs ({}), TCP {}",
            machine::kernel(),
            machine::cpus(),
            machine::cpu_model(),
            machine::congestion_control()
        );
        let date = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output().context("run date")?;
        let date = String::from_utf8_lossy(&date.stdout).trim().to_owned();
        Ok(Self { versions, machine, date, rounds, quick, took })
    }
}

#[derive(Serialize)]
struct Row {
    measure: &'static str,
    system: &'static str,
    value: f64,
    unit: &'static str,
    /// Null where there is nothing to compare with.
    ratio_to_direct: Option<f64>,
}

/// Writes one row for each measure and system, as a JSON array.
pub(crate) fn write_json(results: &Results, file: &Path) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for measure in results.measures() {
        for &system in &results.systems {
            let Some(summary) = results.summary(measure, system) else { continue };
            rows.push(Row {
                measure: measure.name(),
                system: system.name(),
                value: summary.value,
                unit: measure.unit(),
                ratio_to_direct: summary.ratio,
            });
        }
    }
    let text = serde_json::to_string_pretty(&rows)? + "\n";
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

/// Writes the table and the chart that it shows into `folder`.
pub(crate) fn write_folder(results: &Results, facts: &Facts, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let table = markdown::render(results, facts);
    let page = format!("# Measurements\n\n![Ratios to the direct connection](chart.svg)\n\n{table}");
    for (name, text) in [("README.md", page), ("chart.svg", chart::render(results, facts))] {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    write_json(results, &folder.join("results.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_paired_by_round() {
        let mut results = Results::new(&[System::Direct, System::Splice]);
        for (round, (direct, splice)) in [(1.0, 0.5), (2.0, 2.0), (4.0, 3.0)].into_iter().enumerate() {
            results.add(Measure::BulkUp, System::Direct, round, direct);
            results.add(Measure::BulkUp, System::Splice, round, splice);
        }
        let summary = results.summary(Measure::BulkUp, System::Splice).unwrap();
        assert_eq!(summary, Summary { value: 2.0, ratio: Some(0.75), spread: (0.5, 1.0) });
        assert_eq!(results.summary(Measure::BulkUp, System::Nginx), None);
        assert_eq!(results.measures(), [Measure::BulkUp]);
    }

    #[test]
    fn added_latency_is_a_difference_and_memory_has_no_ratio() {
        let mut results = Results::new(&[System::Direct, System::Copy]);
        for (measure, direct, copy) in [(Measure::SseAddedP99, 100.0, 150.0), (Measure::RssIdleConn, 0.0, 9.0)] {
            results.add(measure, System::Direct, 0, direct);
            results.add(measure, System::Copy, 0, copy);
        }
        let added = results.summary(Measure::SseAddedP99, System::Copy).unwrap();
        assert_eq!((added.value, added.ratio), (50.0, Some(1.5)));
        let memory = results.summary(Measure::RssIdleConn, System::Copy).unwrap();
        assert_eq!((memory.value, memory.ratio), (9.0, None));
    }
}
