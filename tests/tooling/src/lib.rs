//! What xtask, bench, demo, vm and the tests' helpers have in common.
//!
//! - [`command`]: commands that are printed before they run, and programs found on the search path.
//! - [`workspace`]: where the workspace and its target folder are.
//! - [`interrupt`]: Ctrl-C as a question asked between steps.
//! - [`child`]: processes that end with the one that started them, inside a network namespace if need be.
//! - [`libraries`]: the shared libraries that a program needs where there is no system around it.
//! - [`program`]: what the programs begin and end with.
#![allow(clippy::print_stdout, reason = "a command line tool says on standard output what it runs")]

pub mod child;
pub mod command;
pub mod interrupt;
pub mod libraries;
pub mod program;
pub mod workspace;
