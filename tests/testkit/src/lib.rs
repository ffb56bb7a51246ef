//! Helpers that the tests, the bench and the demo share. Nothing here uses the daemon's own code for HTTP or for signing:
//! what is checked is the wire, against an independent reading of the protocol.
//!
//! - [`client`], [`http`]: HTTP with control over each byte, for tests: whatever could be read in two ways is a failure.
//! - [`conn`], [`wire`]: HTTP for a load generator and its server: they read only what they must, and allocate little.
//! - [`sign`]: the credentials.
//! - [`websocket`]: the handshake, and frames.
//! - [`origin`]: servers that a test scripts.
//! - [`certificate`]: certificates that sign themselves.
//! - [`net`]: network namespaces, removed when dropped.
//! - [`process`]: children that die with the test.
//! - [`pattern`]: bytes that differ at each position, so that loss, repetition and reordering all show.
//! - [`wait`]: bounded waits.
//!
//! What a test needs panics with a reason when it fails; [`conn`] and [`wire`], which programs use, return errors.

use std::time::Duration;

pub mod certificate;
pub mod client;
pub mod conn;
pub mod http;
pub mod net;
pub mod origin;
pub mod pattern;
pub mod process;
pub mod sign;
pub mod wait;
pub mod websocket;
pub mod wire;

/// How long anything may take before it counts as a hang. Generous: the machine may be busy with other tests.
pub const HANG: Duration = Duration::from_secs(60);

/// Whether this process may make network namespaces.
///
/// Panics when it may not, unless `PORTSPLICE_SKIP_PRIVILEGED=1` says that skipping is meant: a test that silently did
/// not run would look like one that passed.
#[must_use]
pub fn privileged() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    let skip = std::env::var_os("PORTSPLICE_SKIP_PRIVILEGED").is_some_and(|v| v == "1");
    assert!(skip, "this test makes network namespaces: run it as root, or set PORTSPLICE_SKIP_PRIVILEGED=1 to skip it");
    false
}
