//! Requests by status and path: a flat table of counters, one per legal status code.
//!
//! A container chooses its status codes, so the table is what bounds the number of series: at most 500 for each path,
//! and only those that occurred are shown.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::Path;
use super::description::{LabelDescription, Values};
use crate::label::Label;

/// RFC 9110 section 15: status codes are 100 to 599.
const FIRST: u16 = 100;
const CODES: usize = 500;
/// `none` is the daemon's own answer.
const PATHS: [&str; 5] = ["none", Path::Copy.label(), Path::Splice.label(), Path::Fast.label(), Path::Tls.label()];

/// What the table's labels are.
pub(super) const LABELS: &[LabelDescription] = &[
    LabelDescription { name: "code", values: Values::Described("the status, `100` to `599`") },
    LabelDescription { name: Path::NAME, values: Values::OneOf(&PATHS) },
];

/// Clones share the same cells.
#[derive(Debug, Clone)]
pub(super) struct Responses(Arc<[[AtomicU64; PATHS.len()]]>);

impl Default for Responses {
    fn default() -> Self {
        Self((0..CODES).map(|_| Default::default()).collect())
    }
}

impl Responses {
    /// A code outside 100 to 599 is counted as 599, which nobody uses.
    pub(super) fn count(&self, status: u16, path: Option<Path>) {
        let code = usize::from(status.wrapping_sub(FIRST)).min(CODES - 1);
        let path = path.map_or(0, |path| path as usize + 1);
        self.0[code][path].fetch_add(1, Ordering::Relaxed);
    }

    /// All of them together.
    pub(super) fn sum(&self) -> u64 {
        self.0.iter().flatten().map(|cell| cell.load(Ordering::Relaxed)).sum()
    }
}

impl TypedMetric for Responses {
    const TYPE: MetricType = MetricType::Counter;
}

impl EncodeMetric for Responses {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        for (index, row) in self.0.iter().enumerate() {
            for (path, cell) in PATHS.iter().zip(row) {
                let n = cell.load(Ordering::Relaxed);
                if n > 0 {
                    let code = usize::from(FIRST) + index;
                    let labels = [("code", code.to_string()), ("path", (*path).to_owned())];
                    encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&n, None)?;
                }
            }
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_place() {
        let responses = Responses::default();
        for status in [0, 99, 100, 599, 600, u16::MAX] {
            responses.count(status, None);
        }
        let at = |code: usize| responses.0[code - 100][0].load(Ordering::Relaxed);
        assert_eq!((at(100), at(599)), (1, 5));
    }
}
