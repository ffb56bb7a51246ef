//! The table on the screen.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row as TableRow, Table};

use super::model::{Model, Order, Row, Show};
use crate::cli::operator::{ago, bytes, percent};

/// Columns: the title, what it is sorted by, its width.
const COLUMNS: [(&str, Order, u16); 5] = [
    ("CONNS", Order::Connections, 6),
    ("REQ/S", Order::Requests, 8),
    ("UP/S", Order::Up, 10),
    ("DOWN/S", Order::Down, 10),
    ("FAST", Order::Fast, 5),
];

pub(super) fn draw(frame: &mut Frame<'_>, model: &mut Model) {
    let [head, table, keys] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(2), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(Paragraph::new(summary(model)), head);
    self::table(frame, model, table);
    let keys_text = " q quit  Tab containers/connections  n c r u d f sort  arrows scroll";
    frame.render_widget(Line::from(keys_text).style(Style::new().add_modifier(Modifier::DIM)), keys);
}

/// Two lines about the whole node.
fn summary(model: &Model) -> Vec<Line<'static>> {
    let (stats, total) = (model.stats(), model.total());
    let fast = match &stats.fast.unavailable {
        None => format!("fast path: {} of {} flows", stats.fast.flows, stats.fast.capacity),
        Some(_) => "no fast path".to_owned(),
    };
    let ready = if stats.ready { "" } else { "  NOT READY" };
    vec![
        Line::from(format!(
            "portsplice {}  up {}  {} containers  {} connections  {fast}{ready}",
            stats.version,
            ago(stats.since),
            stats.containers,
            stats.connections
        )),
        Line::from(format!(
            "{} req/s  up {}/s  down {}/s  fast {}",
            number(total.requests),
            bytes(total.up as u64),
            bytes(total.down as u64),
            percent(total.fast as u64, total.down as u64)
        )),
    ]
}

fn table(frame: &mut Frame<'_>, model: &mut Model, area: Rect) {
    let rows = model.rows();
    // One line is the header's.
    let shown = usize::from(area.height.saturating_sub(1));
    model.scroll = model.scroll.min(rows.len().saturating_sub(shown));
    let (what, detail) = match model.show {
        Show::Containers => ("CONTAINER", "SOURCE, CONNECTIONS SO FAR"),
        Show::Connections => ("CONTAINER:PORT", "CONNECTION"),
    };
    let title = |text: &str, order: Order| {
        let style = Style::new().add_modifier(Modifier::BOLD);
        let style = if model.order == order { style.add_modifier(Modifier::REVERSED) } else { style };
        Cell::from(text.to_owned()).style(style)
    };
    let mut header = vec![title(what, Order::Name)];
    for (text, order, width) in COLUMNS {
        header.push(title(&format!("{text:>width$}", width = usize::from(width)), order));
    }
    header.push(Cell::from(detail));
    let mut widths = vec![Constraint::Min(12)];
    widths.extend(COLUMNS.map(|(_, _, width)| Constraint::Length(width)));
    widths.push(Constraint::Max(40));
    let body = rows.iter().skip(model.scroll).take(shown).map(row);
    frame.render_widget(Table::new(body, widths).header(TableRow::new(header)).column_spacing(1), area);
}

fn row(row: &Row) -> TableRow<'static> {
    let values = [
        row.connections.to_string(),
        number(row.requests),
        bytes(row.up as u64),
        bytes(row.down as u64),
        percent(row.fast as u64, row.down as u64),
    ];
    let mut cells = vec![row.name.clone()];
    for (value, (_, _, width)) in values.into_iter().zip(COLUMNS) {
        cells.push(format!("{value:>width$}", width = usize::from(width)));
    }
    cells.push(row.detail.clone());
    TableRow::new(cells)
}

/// A rate with as many digits as it is worth.
fn number(rate: f64) -> String {
    if rate > 0.0 && rate < 10.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    use super::*;
    use crate::cli::top::model::Snapshot;

    /// A node with two containers; `n` times what has moved so far.
    fn sample(at: Instant, n: u64) -> Snapshot {
        let stats = json!({
            "version": "1.2.3", "pid": 7, "since": "2026-01-01T00:00:00Z", "ready": true, "containers": 2, "connections": 2,
            "requests": 50 * n, "bytes": [], "sources": [],
            "fast": { "flows": 1, "capacity": 16, "attached": 1, "bytes": 1 },
        });
        let container = |name: &str, down: u64| {
            json!({ "id": name, "name": name, "uuid": name, "source": "docker", "netns": "net:[1]", "fast": true,
                "service": false, "connections": { "active": 1, "total": 9 }, "traffic": { "requests": 5 * n,
                "bytes_up": 1024 * n, "bytes_down": down * n, "bytes_fast": down * n / 2 } })
        };
        let connection = |id: u64, name: &str, down: u64| {
            json!({ "id": id, "peer": "192.0.2.1:7", "listener": "tls", "since": "2026-01-01T00:00:00Z", "state": "tunnel",
                "target": { "container": name, "uuid": name, "port": 80 }, "requests": 5 * n, "bytes_up": 1024 * n,
                "bytes_down": down * n, "bytes_fast": down * n / 2, "quiet_ms": 0 })
        };
        let connections = [connection(1, "alpha", 2048), connection(2, "beta", 1 << 20)];
        Snapshot {
            at,
            stats: serde_json::from_value(stats).unwrap(),
            containers: serde_json::from_value(
                json!({ "containers": [container("alpha", 2048), container("beta", 1 << 20)] }),
            )
            .unwrap(),
            connections: serde_json::from_value(json!({ "connections": connections })).unwrap(),
        }
    }

    fn drawn(model: &mut Model, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model)).unwrap();
        let buffer = terminal.backend().buffer();
        let cell = |x, y| buffer.cell((x, y)).map_or(" ", |cell| cell.symbol());
        (0..height).map(|y| (0..width).map(|x| cell(x, y)).collect::<String>().trim_end().to_owned()).collect()
    }

    fn model() -> Model {
        let start = Instant::now();
        let mut model = Model::new(Order::Down, sample(start, 1));
        model.update(sample(start + Duration::from_secs(2), 2));
        model
    }

    #[test]
    fn rates_are_those_between_two_looks() {
        let lines = drawn(&mut model(), 100, 8);
        assert!(lines[0].starts_with("portsplice 1.2.3  up ") && lines[0].contains("1 of 16 flows"), "{lines:#?}");
        assert_eq!(lines[1], "25 req/s  up 1.0 KiB/s  down 513.0 KiB/s  fast 50%");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(words(&lines[3]), "beta 1 2.5 512 B 512.0 KiB 50% docker 9", "the busier first");
        assert_eq!(words(&lines[4]), "alpha 1 2.5 512 B 1.0 KiB 50% docker 9");
    }

    #[test]
    fn connections_are_shown_too_and_sorted_and_scrolled() {
        let mut model = model();
        (model.show, model.order) = (Show::Connections, Order::Name);
        let lines = drawn(&mut model, 100, 8);
        assert!(lines[3].starts_with("alpha:80") && lines[3].ends_with("#1 192.0.2.1:7 tunnel"), "{lines:#?}");
        model.scroll = 99;
        let lines = drawn(&mut model, 100, 5);
        assert!(lines[3].starts_with("beta:80"), "{lines:#?}");
    }

    #[test]
    fn a_tiny_terminal_is_no_panic() {
        for (width, height) in [(1, 1), (10, 3), (40, 4), (300, 2)] {
            drawn(&mut model(), width, height);
        }
        let mut fresh = Model::new(Order::Fast, sample(Instant::now(), 5));
        assert!(drawn(&mut fresh, 100, 8)[1].starts_with("0 req/s  up 0 B/s"), "no rate after one look");
    }
}
