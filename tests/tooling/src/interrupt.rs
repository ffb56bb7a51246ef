//! Ctrl-C as a question asked between steps, so that what was set up is taken down in order.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on the first Ctrl-C (or SIGTERM, SIGHUP) only sets a flag that [`check`] reports; a second one ends the
/// process at once.
///
/// # Errors
/// When the signals' handlers cannot be set.
pub fn watch() -> anyhow::Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // The order matters: the conditional shutdown has to see the flag as the signal before left it.
        flag::register_conditional_shutdown(signal, 130, Arc::clone(flag)).context("handle signals")?;
        flag::register(signal, Arc::clone(flag)).context("handle signals")?;
    }
    Ok(())
}

/// Whether a signal has asked this process to end.
#[must_use]
pub fn pending() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Fails once a signal has asked this process to end; call it between steps.
///
/// # Errors
/// Says that it was interrupted.
pub fn check() -> anyhow::Result<()> {
    anyhow::ensure!(!pending(), "interrupted");
    Ok(())
}
