//! The stores of the cluster's record: one list of promises that all keep, and what each adds.

mod arvados;
mod conformance;
mod embedded;
