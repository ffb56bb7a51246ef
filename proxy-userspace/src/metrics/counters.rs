//! Counters by labels whose values are those of enums: made beforehand, found by index.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

use super::description::{LabelDescription, Values};
use crate::label::Label;

/// One label, or two as a pair.
pub(super) trait LabelSet: Copy + 'static {
    /// What they are.
    const LABELS: &'static [LabelDescription];

    /// The place of this combination among all of them.
    fn cell(self) -> usize;
}

impl<L: Label> LabelSet for L {
    const LABELS: &'static [LabelDescription] = &[LabelDescription { name: L::NAME, values: Values::OneOf(L::VALUES) }];

    fn cell(self) -> usize {
        self.index()
    }
}

impl<A: Label, B: Label> LabelSet for (A, B) {
    const LABELS: &'static [LabelDescription] = &[
        LabelDescription { name: A::NAME, values: Values::OneOf(A::VALUES) },
        LabelDescription { name: B::NAME, values: Values::OneOf(B::VALUES) },
    ];

    fn cell(self) -> usize {
        self.0.index() * B::VALUES.len() + self.1.index()
    }
}

/// When a counter is shown that has not counted anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtZero {
    Shown,
    /// Where there are many values of which most never occur.
    Left,
}

/// One counter for each value of a label; clones share the same cells.
pub(super) struct CounterBy<L> {
    cells: Arc<[AtomicU64]>,
    at_zero: AtZero,
    labels: PhantomData<fn(L)>,
}

impl<L> Clone for CounterBy<L> {
    fn clone(&self) -> Self {
        Self { cells: Arc::clone(&self.cells), at_zero: self.at_zero, labels: PhantomData }
    }
}

impl<L> fmt::Debug for CounterBy<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&*self.cells).finish()
    }
}

impl<L: LabelSet> CounterBy<L> {
    pub(super) fn new(at_zero: AtZero) -> Self {
        let combinations = L::LABELS.iter().map(|label| label.values.fixed().len()).product();
        Self { cells: (0..combinations).map(|_| AtomicU64::new(0)).collect(), at_zero, labels: PhantomData }
    }

    pub(super) fn inc(&self, labels: L) {
        self.add(labels, 1);
    }

    pub(super) fn add(&self, labels: L, n: u64) {
        self.cells[labels.cell()].fetch_add(n, Ordering::Relaxed);
    }

    pub(super) fn get(&self, labels: L) -> u64 {
        self.cells[labels.cell()].load(Ordering::Relaxed)
    }
}

impl<L: LabelSet> TypedMetric for CounterBy<L> {
    const TYPE: MetricType = MetricType::Counter;
}

impl<L: LabelSet> EncodeMetric for CounterBy<L> {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), fmt::Error> {
        for (index, cell) in self.cells.iter().enumerate() {
            let n = cell.load(Ordering::Relaxed);
            if n == 0 && self.at_zero == AtZero::Left {
                continue;
            }
            let labels = values_at::<L>(index);
            encoder.encode_family(&labels.as_slice())?.encode_counter::<NoLabelSet, _, u64>(&n, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// Name and value of each label in the combination at `index`; the last label's values follow each other.
fn values_at<L: LabelSet>(mut index: usize) -> Vec<(&'static str, &'static str)> {
    let mut labels: Vec<_> = L::LABELS
        .iter()
        .rev()
        .map(|label| {
            let values = label.values.fixed();
            let value = values[index % values.len()];
            index /= values.len();
            (label.name, value)
        })
        .collect();
    labels.reverse();
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::label_enum;

    label_enum! {
        /// For the test.
        enum Colour("colour") {
            /// A colour.
            Red => "red",
            /// Another.
            Green => "green",
        }
    }

    label_enum! {
        /// For the test.
        enum Size("size") {
            /// Below one.
            Small => "small",
            /// About one.
            Middle => "middle",
            /// Above one.
            Large => "large",
        }
    }

    #[test]
    fn each_combination_has_its_own_counter() {
        let counters = CounterBy::<(Colour, Size)>::new(AtZero::Shown);
        for (&colour, n) in Colour::ALL.iter().zip([0, 10]) {
            for (&size, m) in Size::ALL.iter().zip(1..) {
                counters.add((colour, size), n + m);
                let labels = values_at::<(Colour, Size)>((colour, size).cell());
                assert_eq!(labels, [("colour", colour.label()), ("size", size.label())]);
            }
        }
        assert_eq!(counters.get((Colour::Red, Size::Large)), 3);
        assert_eq!(counters.get((Colour::Green, Size::Small)), 11);
    }
}
