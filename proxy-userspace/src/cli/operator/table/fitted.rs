//! Columns of equal width, wrapped where a terminal is too narrow.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

use crate::cli::operator::width;

/// A table that is as wide as the terminal at most.
pub(super) struct Layout(Table);

impl Layout {
    pub(super) fn new(titles: &[&str]) -> Self {
        Self::with_width(titles, width())
    }

    fn with_width(titles: &[&str], width: Option<u16>) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(titles.iter().map(|title| title.trim_start_matches('>')));
        match width {
            Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        for (index, title) in titles.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 2));
                if title.starts_with('>') {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        Self(table)
    }

    pub(super) fn add(&mut self, cells: Vec<String>) {
        self.0.add_row(cells);
    }

    pub(super) fn text(&self) -> String {
        self.0.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::operator::table::Table;

    fn table(width: Option<u16>) -> String {
        let mut table = Table(Layout::with_width(&["NAME", ">N", "WHAT"], width));
        table.row(vec!["a-rather-long-name".into(), "1".into(), "one\x1b[31m".into()]);
        table.row(vec!["b".into(), "22".into(), "two words".into()]);
        table.0.text()
    }

    #[test]
    fn programs_get_one_line_a_row() {
        let text = table(None);
        let expected =
            "NAME                 N  WHAT\na-rather-long-name   1  one?[31m\nb                   22  two words\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_narrow_terminal_is_kept_to() {
        let text = table(Some(24));
        assert!(text.lines().all(|line| line.chars().count() <= 24), "{text}");
        assert!(text.lines().count() > 3, "{text}");
    }
}
