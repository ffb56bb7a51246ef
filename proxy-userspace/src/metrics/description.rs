//! What a metric is: its name, its type, what it says. Registration and docs/metrics.md are both made of it.

use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit as PrometheusUnit;

/// How a metric's values behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, and starts again at zero with the process; its name gets `_total`.
    Counter,
    /// How often a value fell into each of some ranges; its name gets `_bucket`, `_sum` and `_count`.
    Histogram,
    /// Labels with the value 1; its name gets `_info`.
    Info,
}

impl Kind {
    /// The type's name as Prometheus has it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }

    pub(super) const fn metric_type(self) -> MetricType {
        match self {
            Self::Gauge => MetricType::Gauge,
            Self::Counter => MetricType::Counter,
            Self::Histogram => MetricType::Histogram,
            Self::Info => MetricType::Info,
        }
    }
}

/// What a metric's values are measured in; it becomes a part of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes: `_bytes`.
    Bytes,
    /// Seconds: `_seconds`.
    Seconds,
}

impl Unit {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
        }
    }

    pub(super) const fn prometheus(self) -> PrometheusUnit {
        match self {
            Self::Bytes => PrometheusUnit::Bytes,
            Self::Seconds => PrometheusUnit::Seconds,
        }
    }
}

/// Which values a label can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// One of these, and no other.
    OneOf(&'static [&'static str]),
    /// Any that this text describes.
    Described(&'static str),
}

impl Values {
    /// The values, where they are fixed.
    pub(super) const fn fixed(&self) -> &'static [&'static str] {
        match self {
            Self::OneOf(values) => values,
            Self::Described(_) => &[],
        }
    }

    fn include(&self, value: &str) -> bool {
        match self {
            Self::OneOf(values) => values.contains(&value),
            Self::Described(_) => true,
        }
    }
}

/// One label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelDescription {
    /// The label's name.
    pub name: &'static str,
    /// Which values it can have.
    pub values: Values,
}

/// What one metric is, for its registration and for docs/metrics.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// Without the prefix, the unit, and what the type adds.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) unit: Option<Unit>,
    pub(super) labels: &'static [LabelDescription],
    pub(super) help: &'static str,
    pub(super) worry: &'static str,
}

/// A gauge of this name, without prefix and unit. `help` completes "this is …", without a full stop.
pub const fn gauge(name: &'static str, help: &'static str) -> Description {
    Description::new(name, Kind::Gauge, help)
}

/// A counter of this name, without prefix, unit and `_total`; `help` as for [`gauge`].
pub const fn counter(name: &'static str, help: &'static str) -> Description {
    Description::new(name, Kind::Counter, help)
}

/// A histogram of durations of this name, without prefix and unit; `help` as for [`gauge`].
pub(super) const fn histogram(name: &'static str, help: &'static str) -> Description {
    Description::new(name, Kind::Histogram, help).unit(Unit::Seconds)
}

impl Description {
    pub(super) const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self { name, kind, unit: None, labels: &[], help, worry: "" }
    }

    /// Gives it a unit.
    #[must_use]
    pub const fn unit(mut self, unit: Unit) -> Self {
        self.unit = Some(unit);
        self
    }

    /// Gives it labels.
    #[must_use]
    pub const fn labels(mut self, labels: &'static [LabelDescription]) -> Self {
        self.labels = labels;
        self
    }

    /// Says when somebody should look into it; a sentence for the documentation.
    #[must_use]
    pub const fn worry(mut self, when: &'static str) -> Self {
        self.worry = when;
        self
    }

    /// The name that a scraper sees, but for the prefix.
    pub(super) fn series(&self) -> String {
        let unit = self.unit.map_or_else(String::new, |unit| format!("_{}", unit.name()));
        let end = match self.kind {
            Kind::Gauge | Kind::Histogram => "",
            Kind::Counter => "_total",
            Kind::Info => "_info",
        };
        format!("{}{unit}{end}", self.name)
    }

    /// Whether a sample with these values is one of this metric.
    pub(super) fn fits<'a>(&self, values: impl ExactSizeIterator<Item = &'a str>) -> bool {
        values.len() == self.labels.len() && self.labels.iter().zip(values).all(|(l, value)| l.values.include(value))
    }
}
