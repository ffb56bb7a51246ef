//! How many tests passed and failed, from what the runners print.

/// A count of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    /// One thing that did not work.
    pub(crate) const FAILURE: Self = Self { passed: 0, failed: 1 };
    /// One thing that worked.
    pub(crate) const SUCCESS: Self = Self { passed: 1, failed: 0 };

    pub(crate) const fn plus(self, other: Self) -> Self {
        Self { passed: self.passed + other.passed, failed: self.failed + other.failed }
    }

    /// What a line adds, if it is one that sums up: `test result: ok. 9 passed; 1 failed; ...` of cargo test, or
    /// `Summary [ 0.2s] 10 tests run: 9 passed (1 slow), 1 timed out, 0 skipped` of nextest.
    pub(crate) fn of_line(line: &str) -> Self {
        let line = line.trim();
        let counts = match line.strip_prefix("test result:") {
            Some(counts) => counts.split_once(". ").map(|(_, counts)| counts),
            None if line.starts_with("Summary [") => line.split_once(" run: ").map(|(_, counts)| counts),
            None => None,
        };
        counts.unwrap_or_default().split([',', ';']).fold(Self::default(), |tally, count| tally.plus(Self::of(count)))
    }

    /// One count, such as `9 passed (1 slow)`.
    fn of(count: &str) -> Self {
        let Some((number, what)) = count.trim().split_once(' ') else { return Self::default() };
        let Ok(number) = number.parse() else { return Self::default() };
        match what.split(" (").next().unwrap_or(what) {
            "passed" => Self { passed: number, failed: 0 },
            "failed" | "timed out" | "exec failed" => Self { passed: 0, failed: number },
            _ => Self::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64) -> Tally {
        Tally { passed, failed }
    }

    #[test]
    fn lines_of_cargo_test() {
        let line = "test result: ok. 9 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s";
        assert_eq!(Tally::of_line(line), tally(9, 0));
        let line = "test result: FAILED. 14 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.87s";
        assert_eq!(Tally::of_line(line), tally(14, 2));
    }

    #[test]
    fn lines_of_nextest() {
        assert_eq!(Tally::of_line("     Summary [   0.021s] 9 tests run: 9 passed, 0 skipped"), tally(9, 0));
        let line = "Summary [  60.1s] 12/20 tests run: 8 passed (1 slow, 2 flaky), 1 failed (1 due to being killed), \
                    2 timed out, 1 exec failed, 3 skipped";
        assert_eq!(Tally::of_line(line), tally(8, 4));
        assert_eq!(Tally::of_line("     Summary [   0.021s] 1 test run: 1 passed, 0 skipped"), tally(1, 0));
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in ["", "test a ... ok", "9 passed, 1 failed", "test result:", "Summary [", "running 9 tests"] {
            assert_eq!(Tally::of_line(line), Tally::default(), "{line}");
        }
    }
}
