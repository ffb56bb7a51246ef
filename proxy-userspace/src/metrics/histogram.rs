//! A histogram of durations that is recorded without a lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// Upper bounds in seconds: from a dial over loopback to an answer that someone thought about.
const BOUNDS: [f64; 18] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    60.0, 600.0,
];

#[derive(Debug, Default)]
struct Cells {
    /// One per bound, and the last for everything above; not cumulative.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// Clones share the same cells.
#[derive(Debug, Clone, Default)]
pub(super) struct AtomicHistogram(Arc<Cells>);

impl AtomicHistogram {
    pub(super) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        // Wraps after 584 years of summed time.
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

impl TypedMetric for AtomicHistogram {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for AtomicHistogram {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        // The count is the sum of the buckets as read here, so that one scrape is consistent in itself.
        let bounds = BOUNDS.iter().copied().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> =
            bounds.zip(self.0.buckets.iter().map(|cell| cell.load(Ordering::Relaxed))).collect();
        let count = buckets.iter().map(|(_, n)| n).sum();
        // One division, so that it is printed with nine decimals at most.
        let sum = self.0.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn buckets_are_cumulative_and_bounds_inclusive() {
        let histogram = AtomicHistogram::default();
        for duration in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(2), Duration::from_secs(7200)]
        {
            histogram.observe(duration);
        }
        let mut registry = Registry::default();
        registry.register("t", "T", histogram);
        let mut out = String::new();
        text::encode(&mut out, &registry).unwrap();
        for line in [
            "t_sum 7200.003",
            "t_count 4",
            "t_bucket{le=\"0.00005\"} 1",
            "t_bucket{le=\"0.001\"} 2",
            "t_bucket{le=\"0.0025\"} 3",
            "t_bucket{le=\"600.0\"} 3",
            "t_bucket{le=\"+Inf\"} 4",
        ] {
            assert!(out.lines().any(|l| l == line), "{line} is missing:\n{out}");
        }
    }
}
