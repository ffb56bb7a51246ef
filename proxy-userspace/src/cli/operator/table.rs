//! Tables: fitted to a terminal, and one line per row for everybody else.

#[cfg(feature = "tui")]
mod fitted;
#[cfg(not(feature = "tui"))]
mod separated;

use anyhow::Result;

#[cfg(feature = "tui")]
use self::fitted::Layout;
#[cfg(not(feature = "tui"))]
use self::separated::Layout;
use crate::cli::output;

/// A table with a header, without lines.
pub(in crate::cli) struct Table(Layout);

impl Table {
    /// A table with these columns; those whose title begins with `>` are set to the right.
    pub(in crate::cli) fn new(titles: &[&str]) -> Self {
        Self(Layout::new(titles))
    }

    /// Adds a row.
    pub(in crate::cli) fn row(&mut self, cells: Vec<String>) {
        // What a container is called is its owner's choice, and must not steer a terminal.
        let plain = |cell: String| cell.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
        self.0.add(cells.into_iter().map(plain).collect());
    }

    /// Writes it.
    pub(in crate::cli) fn print(&self) -> Result<()> {
        output::print(self.0.text().as_bytes())
    }
}
