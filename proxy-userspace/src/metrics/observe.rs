//! Metrics whose values are read when a scraper asks: each part that counts for itself has a table of them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};

use super::description::{Description, Kind};
use super::document::Section;

/// One value, with one value for each label that its metric has.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    labels: Vec<String>,
    value: f64,
}

impl Sample {
    /// A value with the labels' values in their order.
    pub fn new<const N: usize>(labels: [&str; N], value: f64) -> Self {
        Self { labels: labels.map(str::to_owned).into(), value }
    }
}

/// A metric that is read from a `T`.
#[derive(Debug)]
pub struct Observed<T> {
    description: Description,
    read: Read<T>,
}

#[derive(Debug)]
enum Read<T> {
    /// The one value of a metric without labels, where there is one.
    Value(fn(&T) -> Option<f64>),
    /// Any number of them.
    Samples(fn(&T) -> Vec<Sample>),
}

impl Description {
    /// Is read by `read`, as one value.
    pub const fn read<T>(self, read: fn(&T) -> Option<f64>) -> Observed<T> {
        Observed { description: self, read: Read::Value(read) }
    }

    /// Is read by `read`, as one value for each combination of its labels.
    pub const fn read_samples<T>(self, read: fn(&T) -> Vec<Sample>) -> Observed<T> {
        Observed { description: self, read: Read::Samples(read) }
    }
}

/// Metrics that are read from one state, together.
#[derive(Debug)]
pub struct Group<T: 'static> {
    /// A heading of the documentation.
    pub title: &'static str,
    /// Where they are found, and what is to be known about all of them.
    pub about: &'static str,
    /// The metrics, in the order in which they are shown.
    pub metrics: &'static [Observed<T>],
}

impl<T> Group<T> {
    /// What the documentation says.
    pub fn section(&self) -> Section {
        let metrics = self.metrics.iter().map(|metric| metric.description).collect();
        Section { title: self.title, about: self.about, prefix: super::PREFIX, metrics }
    }
}

/// Shows a group: at each scrape, of the state that `state` gives then. Nothing is shown when it gives none.
pub(super) struct GroupCollector<T: 'static, F> {
    pub(super) prefix: &'static str,
    pub(super) group: &'static Group<T>,
    pub(super) state: F,
}

impl<T, F> fmt::Debug for GroupCollector<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupCollector").field("title", &self.group.title).finish_non_exhaustive()
    }
}

impl<T: 'static, F: Fn() -> Option<T> + Send + Sync + 'static> Collector for GroupCollector<T, F> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let Some(state) = (self.state)() else { return Ok(()) };
        self.group.metrics.iter().try_for_each(|metric| metric.encode(&mut encoder, self.prefix, &state))
    }
}

impl<T> Observed<T> {
    fn encode(&self, encoder: &mut DescriptorEncoder, prefix: &str, state: &T) -> Result<(), fmt::Error> {
        let samples = match self.read {
            Read::Value(read) => read(state).map(|value| Sample::new([], value)).into_iter().collect(),
            Read::Samples(read) => read(state),
        };
        // A descriptor without samples would be a family that a scraper cannot use.
        if samples.is_empty() {
            return Ok(());
        }
        let Description { name, help, kind, unit, .. } = self.description;
        let unit = unit.map(|unit| unit.prometheus());
        let name = format!("{prefix}{name}");
        let mut metric = encoder.encode_descriptor(&name, help, unit.as_ref(), kind.metric_type())?;
        samples.iter().try_for_each(|sample| self.encode_sample(&mut metric, sample))
    }

    fn encode_sample(&self, metric: &mut MetricEncoder, Sample { labels, value }: &Sample) -> Result<(), fmt::Error> {
        debug_assert!(
            self.description.fits(labels.iter().map(String::as_str)),
            "{} has undocumented labels: {labels:?}",
            self.description.name
        );
        if labels.is_empty() {
            return encode_value(metric, self.description.kind, *value);
        }
        let names = self.description.labels.iter().map(|label| label.name);
        let labels: Vec<(&str, &str)> = names.zip(labels.iter().map(String::as_str)).collect();
        encode_value(&mut metric.encode_family(&labels.as_slice())?, self.description.kind, *value)
    }
}

fn encode_value(encoder: &mut MetricEncoder, kind: Kind, value: f64) -> Result<(), fmt::Error> {
    match kind {
        Kind::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
        Kind::Gauge | Kind::Histogram | Kind::Info => encoder.encode_gauge(&value),
    }
}
