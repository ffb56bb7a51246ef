//! The results as Markdown tables that can also be read as they are.

use std::fmt::Write;

use super::{Facts, Results, Summary};
use crate::measure::Measure;
use crate::peers;
use crate::system::System;

/// Ratios, values, and what has to be known about them.
pub(crate) fn render(results: &Results, facts: &Facts) -> String {
    let mut out = String::new();
    let proxies: Vec<_> = results.systems.iter().copied().filter(|s| *s != System::Direct).collect();
    let compared: Vec<_> = results.measures().into_iter().filter(|m| m.has_ratio()).collect();
    if !compared.is_empty() {
        out += "Ratio to the direct connection in the same round: median (smallest to largest)\n\n";
        out += &table(results, &compared, &proxies, |_, s| {
            s.ratio.map(|r| format!("{} ({} to {})", number(r), number(s.spread.0), number(s.spread.1)))
        });
        out += "\n";
    }
    out += "Values: median\n\n";
    out += &table(results, &results.measures(), &results.systems, |_, s| Some(number(s.value)));
    out += "\n";
    out += &notes(facts);
    out
}

fn table(
    results: &Results,
    measures: &[Measure],
    systems: &[System],
    cell: impl Fn(Measure, &Summary) -> Option<String>,
) -> String {
    let mut rows = vec![vec!["measure".to_owned(), "unit".to_owned(), "better".to_owned()]];
    rows[0].extend(systems.iter().map(|s| s.name().to_owned()));
    for &measure in measures {
        let better = if measure.higher_is_better() { "higher" } else { "lower" };
        let mut row = vec![measure.name().to_owned(), measure.unit().to_owned(), better.to_owned()];
        row.extend(systems.iter().map(|&system| {
            results.summary(measure, system).and_then(|s| cell(measure, &s)).unwrap_or_else(|| "-".to_owned())
        }));
        rows.push(row);
    }
    align(&rows)
}

/// A table whose columns line up in plain text too.
fn align(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns).map(|c| rows.iter().map(|r| r[c].len()).max().unwrap_or(0).max(3)).collect();
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(out, "| {cell:width$} ");
        }
        out += "|\n";
        if at == 0 {
            for width in &widths {
                let _ = write!(out, "| {} ", "-".repeat(*width));
            }
            out += "|\n";
        }
    }
    out
}

fn notes(facts: &Facts) -> String {
    let scale = if facts.quick { ", a quick run: too short for good figures" } else { "" };
    format!(
        "- {}, {} rounds, {} s in all{scale}\n\
         - {}\n\
         - {}\n\
         - Controller, node and container are network namespaces of one host, joined by veth pairs; the proxies run on \
         the node. Direct: routed through the node. Portsplice enters the container's namespace; the others connect \
         to the container's address.\n\
         - bulk_down, bulk_up: one connection; bulk_down_100: a hundred at once. cpu_per_gb: everything that the machine did during bulk_down, client \
         and server included. rtt: 64 bytes through a tunnel (`Upgrade: tcp` in Portsplice, an HTTP upgrade in \
         haproxy-http, nginx and go, plain TCP in haproxy-tcp). rps_1k: 1 KiB answers over 32 kept-alive connections; \
         each request to Portsplice is signed, beforehand, and checked. conns_per_s: a connection and a request \
         each, 16 at once. sse_added_p99: 8 streams with an event every 5 ms; what the p99 from the server's write to the \
         client's read is above the direct one's (the ratio is that of the two). sse_1000: a thousand streams with 20 events \
         of 200 bytes a second each, evenly spread; the time from the server's write to the client's read, and the CPU time of \
         the whole machine, client and server included, for each event. rss_idle_conn: proportional \
         resident memory of the proxy's processes. tls_*: the same \
         with TLS 1.3 (AES-128-GCM, one ECDSA P-256 certificate for all) from the client to the proxy, beside the direct \
         connection without TLS; the client seals requests beforehand and counts the records of answers without opening \
         them.\n\
         - {}\n",
        facts.date,
        facts.rounds,
        facts.took.as_secs(),
        facts.machine,
        facts.versions.join("; "),
        peers::NOTES,
    )
}

/// Three digits that count.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.456_7, 9.994, 9.996, 99.94, 99.96, 41_234.5].map(number);
        assert_eq!(shown, ["0.46", "9.99", "10.0", "99.9", "100", "41234"]);
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "long"], ["bcde", "x"]].map(|r| r.map(str::to_owned).to_vec());
        assert_eq!(align(&rows), "| a    | long |\n| ---- | ---- |\n| bcde | x    |\n");
    }
}
