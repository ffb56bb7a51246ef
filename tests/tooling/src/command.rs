//! Runs commands, and says which.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// A program to be run without what `cargo run` put into the environment for this one alone.
///
/// Those variables name this program's own compiler and libraries; a compiler of another kind would trip over them, and cargo
/// would build everything anew each time that they differ.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        let of_this = ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name_text.starts_with(prefix));
        if of_this || matches!(&*name_text, "LD_LIBRARY_PATH" | "CARGO_BIN_NAME" | "CARGO_CRATE_NAME") {
            command.env_remove(&name);
        }
    }
    command
}

/// The cargo that runs this, else the one on the search path.
#[must_use]
pub fn cargo() -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// `cargo xtask`, for the arguments that follow.
#[must_use]
pub fn xtask() -> Command {
    let mut cargo = cargo();
    cargo.arg("xtask");
    cargo
}

/// The command as one would type it.
#[must_use]
pub fn shown(command: &Command) -> String {
    let mut text = String::new();
    if let Some(dir) = command.get_current_dir() {
        let _ = write!(text, "cd {} && ", quoted(dir.as_os_str()));
    }
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(text, "{}={} ", name.to_string_lossy(), quoted(value));
        }
    }
    text.push_str(&quoted(command.get_program()));
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&quoted(arg));
    }
    text
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%\u{1f}".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.replace('\u{1f}', "\\x1f")
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Prints the command.
pub fn say(command: &Command) {
    println!("+ {}", shown(command));
}

/// Prints and runs the command; anything but success is an error.
///
/// # Errors
/// When it cannot be started, or fails; what it said stands above, on this program's own streams.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    say(command);
    let status = command.status().with_context(|| format!("run {}", command.get_program().display()))?;
    ensure!(status.success(), "`{}` failed: {status}", shown(command));
    Ok(())
}

/// Runs the command quietly and gives what it printed; none unless it succeeded.
#[must_use]
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Where a program is: on the search path, or where system programs are, which an ordinary user's path leaves out.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_typed() {
        let mut command = Command::new("cargo");
        command.args(["test", "--", "it's", ""]).env("A", "b c").current_dir("/x y");
        assert_eq!(shown(&command), r"cd '/x y' && A='b c' cargo test -- 'it'\''s' ''");
    }

    #[test]
    fn programs_are_found() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-anywhere"), None);
    }

    #[test]
    fn only_success_has_output() {
        assert_eq!(output(Command::new("echo").arg("x")).as_deref(), Some("x\n"));
        assert_eq!(output(&mut Command::new("false")), None);
    }
}
