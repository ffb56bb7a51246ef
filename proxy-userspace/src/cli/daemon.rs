//! What the commands of all daemons do alike: show a configuration that was checked, start the log, end with a word.

use std::fmt::Display;
use std::process::ExitCode;

use anyhow::Result;

use super::output;
use crate::config::LogConfig;
use crate::logging::{self, LogControl, LogFormat};

/// Prints a configuration that is in order, for `--check-config`.
pub(super) fn show<'a>(config: &impl Display, warnings: impl IntoIterator<Item = &'a String>) -> Result<ExitCode> {
    warnings.into_iter().for_each(|warning| output::error(&format!("warning: {warning}")));
    output::print(config.to_string().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a daemon with its log.
pub(super) fn run(log: &LogConfig, daemon: impl FnOnce(LogControl) -> Result<()>) -> Result<ExitCode> {
    let control = logging::start(&log.level, log.format)?;
    match daemon(control) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Whoever reads JSON from standard error reads nothing else.
        Err(error) if log.format == LogFormat::Json => {
            tracing::error!("{error:#}");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error),
    }
}
