//! Metrics whose values are read when a scraper asks.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// What a metric's values mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, and starts again at zero with the process; its name gets `_total`.
    Counter,
}

/// One value with its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    labels: Vec<(&'static str, String)>,
    value: f64,
}

impl Sample {
    /// A value without labels.
    pub fn plain(value: f64) -> Self {
        Self { labels: Vec::new(), value }
    }

    /// A value with labels; every sample of one metric has the same names.
    pub fn labelled<const N: usize>(labels: [(&'static str, String); N], value: f64) -> Self {
        Self { labels: labels.into(), value }
    }
}

struct Observed<F> {
    name: String,
    help: &'static str,
    kind: Kind,
    read: F,
}

/// A collector that shows what `read` returns, as `portsplice_NAME`.
pub(super) fn collector(
    name: &str,
    help: &'static str,
    kind: Kind,
    read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
) -> Box<dyn Collector> {
    Box::new(Observed { name: format!("portsplice_{name}"), help, kind, read })
}

impl<F> fmt::Debug for Observed<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<F: Fn() -> Vec<Sample> + Send + Sync + 'static> Collector for Observed<F> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        encode(&mut encoder, &self.name, self.help, self.kind, &(self.read)())
    }
}

/// Writes one metric; `name` is complete but for a counter's `_total`.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    kind: Kind,
    samples: &[Sample],
) -> Result<(), fmt::Error> {
    // A descriptor without samples would be a family that a scraper cannot use.
    if samples.is_empty() {
        return Ok(());
    }
    let metric_type = match kind {
        Kind::Gauge => MetricType::Gauge,
        Kind::Counter => MetricType::Counter,
    };
    let mut metric = encoder.encode_descriptor(name, help, None, metric_type)?;
    for sample in samples {
        if sample.labels.is_empty() {
            value(&mut metric, kind, sample.value)?;
        } else {
            value(&mut metric.encode_family(&sample.labels.as_slice())?, kind, sample.value)?;
        }
    }
    Ok(())
}

fn value(encoder: &mut MetricEncoder, kind: Kind, value: f64) -> Result<(), fmt::Error> {
    match kind {
        Kind::Gauge => encoder.encode_gauge(&value),
        Kind::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
    }
}
