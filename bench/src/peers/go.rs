//! The peer in Go: compiled here, from the standard library alone.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use portsplice_tooling::child::program;
use portsplice_tooling::{command, workspace};
use sha2::{Digest, Sha256};

use super::beside;
use crate::origin::{self, HTTP_PORT};

const SOURCE: &str = include_str!("go_proxy.go");

/// Threads that run Go code at once, as many as HAProxy and nginx have.
const THREADS: &str = "2";

/// Compiles the proxy unless that has been done; where it is.
pub(crate) fn compile() -> anyhow::Result<PathBuf> {
    let hash = hex::encode(Sha256::digest(SOURCE));
    let folder = workspace::target_dir().join("tools/bench-go");
    let binary = folder.join(format!("proxy-{}", &hash[..16]));
    if binary.exists() {
        return Ok(binary);
    }
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let work = tempfile::tempdir_in(&folder).context("make a folder")?;
    let (source, built) = (work.path().join("go_proxy.go"), work.path().join("proxy"));
    fs::write(&source, SOURCE)?;
    let mut go = command::command(program("go"));
    // Nothing is fetched, and nothing is left in the home directory.
    go.env("GOPROXY", "off")
        .env("GO111MODULE", "off")
        .env("CGO_ENABLED", "0")
        .env("GOCACHE", work.path().join("cache"));
    command::run(go.args(["build", "-o"]).arg(&built).arg(&source))?;
    fs::rename(&built, &binary).with_context(|| format!("make {}", binary.display()))?;
    Ok(binary)
}

/// The proxy as a command; `folder` has the certificate.
pub(crate) fn proxy(binary: &Path, listens: SocketAddr, folder: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args([listens.to_string(), beside(listens).to_string()]);
    command.arg(folder.join("tls.crt")).arg(folder.join("tls.key")).arg(origin::address(HTTP_PORT).to_string());
    command.env("GOMAXPROCS", THREADS);
    command
}
