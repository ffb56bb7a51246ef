//! Portsplice: reach the ports that containers listen on, authenticated per request, at the speed of the network.
//!
//! ARCHITECTURE.md at the top of the repository tells how the modules fit together.

pub mod admin;
pub mod app;
#[cfg(test)]
mod arrows;
pub mod build_info;
pub mod cli;
pub mod config;
pub mod control;
pub mod descriptors;
pub mod edge;
pub mod gateway_error;
pub mod label;
pub mod logging;
mod memory;
pub mod metrics;
pub mod node;
pub mod privileges;
pub mod readiness;
