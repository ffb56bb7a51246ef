//! The results as an SVG: a panel for each measure, a bar for each system, a line where the direct connection is.

use std::fmt::Write;

use super::markdown::number;
use super::{Facts, Results};
use crate::measure::Measure;
use crate::system::System;

const COLUMNS: usize = 3;
const PANEL_WIDTH: f64 = 356.0;
const MARGIN: f64 = 24.0;
const HEADER: f64 = 66.0;
const FOOTER: f64 = 34.0;
const TITLE: f64 = 46.0;
const BAR: f64 = 15.0;
const STEP: f64 = 21.0;
/// Room for a system's name left of its bar.
const LABEL: f64 = 88.0;
/// Room for the numbers right of the longest bar.
const VALUE: f64 = 122.0;
/// A bar that would be longer than this many times the direct one is cut, and says so by its number.
const LONGEST: f64 = 6.0;

const STYLE: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2937}\
.paper{fill:#ffffff}.title{font-size:17px;font-weight:600}.panel{font-size:13px;font-weight:600}\
.quiet{fill:#6b7280;font-size:11px}.value{font-size:11px}.one{stroke:#111827;stroke-dasharray:3 2}\
.copy{fill:#60a5fa}.splice{fill:#2563eb}.fast{fill:#1e3a8a}.tls{fill:#7c3aed}.haproxy-http{fill:#b45309}.haproxy-tcp{fill:#f59e0b}.nginx{fill:#10915f}.go{fill:#0e7490}\
@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.paper{fill:#111827}.quiet{fill:#9ca3af}.one{stroke:#f9fafb}\
.copy{fill:#93c5fd}.splice{fill:#3b82f6}.fast{fill:#c7d2fe}.tls{fill:#a78bfa}.haproxy-http{fill:#d97706}.haproxy-tcp{fill:#fbbf24}.nginx{fill:#34d399}.go{fill:#22d3ee}}";

/// Draws the results.
pub(crate) fn render(results: &Results, facts: &Facts) -> String {
    let measures = results.measures();
    let systems: Vec<_> = results.systems.iter().copied().filter(|s| *s != System::Direct).collect();
    let panel_height = TITLE + STEP * systems.len() as f64 + 18.0;
    let lines = measures.len().div_ceil(COLUMNS);
    let width = MARGIN.mul_add(2.0, PANEL_WIDTH * COLUMNS as f64);
    let height = HEADER + panel_height * lines as f64 + FOOTER;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n<title>Portsplice and other proxies, as ratios to the \
         direct connection</title>\n<style>{STYLE}</style>\n<rect class=\"paper\" width=\"100%\" height=\"100%\" rx=\"8\"/>\n"
    );
    text(&mut svg, MARGIN, 30.0, "title", "Ratio to the direct connection (dashed line), medians");
    text(&mut svg, MARGIN, 48.0, "quiet", &format!("{} · {} rounds · {}", facts.date, facts.rounds, facts.machine));
    for (at, &measure) in measures.iter().enumerate() {
        let x = PANEL_WIDTH.mul_add((at % COLUMNS) as f64, MARGIN);
        let y = panel_height.mul_add((at / COLUMNS) as f64, HEADER);
        panel(&mut svg, x, y, measure, &systems, results);
    }
    text(&mut svg, MARGIN, height - 14.0, "quiet", &facts.versions.join(" · "));
    svg += "</svg>\n";
    svg
}

fn panel(svg: &mut String, x: f64, y: f64, measure: Measure, systems: &[System], results: &Results) {
    let better = if measure.higher_is_better() { "longer is better" } else { "shorter is better" };
    let shown = if measure.has_ratio() { "" } else { ", absolute" };
    text(svg, x, y + 18.0, "panel", measure.title());
    text(svg, x, y + 34.0, "quiet", &format!("{better}{shown}"));
    let bars: Vec<_> = systems
        .iter()
        .filter_map(|&system| {
            let summary = results.summary(measure, system)?;
            Some((system, summary.ratio.unwrap_or(summary.value), summary.value))
        })
        .collect();
    let longest = bars.iter().map(|b| b.1).fold(0.0, f64::max);
    let full = if measure.has_ratio() { longest.clamp(1.0, LONGEST) } else { longest.max(f64::MIN_POSITIVE) };
    let scale = (PANEL_WIDTH - LABEL - VALUE) / full;
    for (at, (system, length, value)) in bars.iter().enumerate() {
        let top = STEP.mul_add(at as f64, y + TITLE);
        let bar = length.clamp(0.0, full) * scale;
        text(svg, x, top + 12.0, "value", system.name());
        let (left, class) = (x + LABEL, system.name());
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{bar:.1}\" height=\"{BAR}\" rx=\"2\"/>"
        );
        let unit = format!("{} {}", number(*value), measure.unit().replace("us", "µs"));
        let label = if measure.has_ratio() { format!("{} · {unit}", number(*length)) } else { unit };
        text(svg, x + PANEL_WIDTH - VALUE + 8.0, top + 12.0, "value", &label);
    }
    if measure.has_ratio() {
        let (at, top, end) = (x + LABEL + scale, y + TITLE - 3.0, STEP.mul_add(bars.len() as f64, y + TITLE));
        let _ = writeln!(svg, "<line class=\"one\" x1=\"{at:.1}\" y1=\"{top:.1}\" x2=\"{at:.1}\" y2=\"{end:.1}\"/>");
    }
}

fn text(svg: &mut String, x: f64, y: f64, class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>");
}
