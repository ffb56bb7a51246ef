//! Portsplice: reach the ports that containers listen on, authenticated per request, at the speed of the network.
//!
//! ARCHITECTURE.md at the top of the repository tells how the modules fit together.

pub mod admin;
pub mod config;
pub mod drain;
pub mod listen;
pub mod logging;
pub mod metrics;
pub mod privileges;
pub mod readiness;
pub mod relay;
pub mod tls;
