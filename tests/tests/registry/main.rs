//! What nodes report: to a file of their own, and to an edge. One module for each promise.
//!
//! The store is read as the file that it is, without the daemon's code. What the stores promise each other is tried with the
//! library's own, in [`stores`].

mod api;
mod cluster;
mod edge;
mod embedded;
mod proof;
mod stores;
