//! Columns with tabs between them, for builds without the feature `tui`.

/// The lines so far.
pub(super) struct Layout(String);

impl Layout {
    pub(super) fn new(titles: &[&str]) -> Self {
        let titles: Vec<&str> = titles.iter().map(|title| title.trim_start_matches('>')).collect();
        Self(titles.join("\t") + "\n")
    }

    pub(super) fn add(&mut self, cells: Vec<String>) {
        self.0 += &(cells.join("\t") + "\n");
    }

    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_per_row() {
        let mut layout = Layout::new(&["NAME", ">N"]);
        layout.add(vec!["a".into(), "1".into()]);
        assert_eq!(layout.text(), "NAME\tN\na\t1\n");
    }
}
