//! What the commands for operators share: the daemon that they talk to, and how they show what it says.

mod table;

#[cfg(feature = "tui")]
use std::io::IsTerminal;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use clap::{Args, ValueHint};
use serde_json::Value;

use super::output;
use portsplice_control::client::{Client, Failure};
use portsplice_model::Timestamp;

pub(super) use table::Table;

/// Where the daemon's socket is unless its configuration says otherwise.
const SOCKET: &str = "/run/portsplice/node.sock";

/// How a daemon is reached.
#[derive(Debug, Args)]
pub(super) struct Daemon {
    /// The daemon's control socket
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, default_value = SOCKET,
        env = "PORTSPLICE_CONTROL_SOCKET")]
    socket: PathBuf,
}

impl Daemon {
    pub(super) fn connect(&self) -> Result<Client, Failure> {
        Client::to(&self.socket)
    }

    pub(super) fn path(&self) -> &Path {
        &self.socket
    }
}

/// How the exit code tells why the daemon was not asked; none for all else.
pub(super) fn exit_code(error: &anyhow::Error) -> Option<u8> {
    match error.downcast_ref::<Failure>()? {
        Failure::NoDaemon { .. } => Some(3),
        Failure::NotAllowed { .. } => Some(4),
        Failure::Refused(_) | Failure::Io { .. } | Failure::Strange(_) => None,
    }
}

/// Writes JSON on one line.
pub(super) fn print_json(value: &Value) -> Result<()> {
    output::print(format!("{value}\n").as_bytes())
}

/// Writes a line at once; false when nobody reads any more.
pub(super) fn print_line(line: &str) -> Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The width of the terminal; none if people do not read this.
#[cfg(feature = "tui")]
fn width() -> Option<u16> {
    let out = io::stdout();
    let columns = || rustix::termios::tcgetwinsize(&out).map_or(80, |size| size.ws_col.max(20));
    out.is_terminal().then(columns)
}

/// A number of bytes as people write it, to three digits or so.
pub(super) fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // Rounded, 1023.95 would show as 1024.0.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// How long ago a moment was, in its largest unit.
pub(super) fn ago(moment: Timestamp) -> String {
    let since = SystemTime::now().duration_since(moment.into()).unwrap_or_default();
    span(since)
}

/// A time in its largest unit.
pub(super) fn span(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// A share, in whole percent, rounded down: 100 means all of it.
pub(super) fn percent(part: u64, all: u64) -> String {
    let percent = (u128::from(part) * 100).checked_div(u128::from(all));
    percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        for (n, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(n), expected);
        }
        for (seconds, expected) in [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
        assert_eq!((percent(0, 0), percent(999, 1000), percent(5, 5)), ("-".into(), "99%".into(), "100%".into()));
    }
}
