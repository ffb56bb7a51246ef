//! Everything the demo sets up, and how it goes away again.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::time::Duration;

use anyhow::Context;
use portsplice_testkit::sign;
use portsplice_tooling::child::Guarded;
use portsplice_tooling::program::Profile;
use portsplice_tooling::{command, interrupt, program};
use tempfile::TempDir;

use super::{image, step};
use crate::client::{Client, write_secret};
use crate::engine::Engine;
use crate::origin::PORT;

const START: Duration = Duration::from_secs(20);

/// A container of the demo.
pub(crate) struct Actor {
    /// How its page calls it.
    pub(crate) name: &'static str,
    /// The name that requests use; the container has it as a label.
    pub(crate) uuid: &'static str,
}

/// The container that is asked for things.
pub(crate) const ALPHA: Actor = Actor { name: "alpha", uuid: "zzzzz-dz642-demodemodemo001" };
/// Another one, with a key of its own.
pub(crate) const BETA: Actor = Actor { name: "beta", uuid: "zzzzz-dz642-demodemodemo002" };

/// Brings the toolchain, the kernel's programs and `portsplice` up to date; where the program is.
pub(crate) fn build(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    match given {
        Some(path) => println!("    using {}", path.display()),
        None => command::run(command::xtask().args(["setup", "--for", "demo"]))?,
    }
    interrupt::check()?;
    program::portsplice(given, Profile::Dev)
}

/// Two containers and a node. The fields are dropped in this order: who needs something goes before it.
pub(crate) struct Stage {
    /// How to talk to the node.
    pub(crate) client: Client,
    admin: String,
    node: Guarded,
    containers: Containers,
    folder: TempDir,
}

impl Stage {
    /// Sets everything up, telling what and why.
    pub(crate) fn set(binary: PathBuf, keep: bool) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("portsplice-demo-").tempdir().context("make a folder")?;
        step(2, "Two containers that nothing can reach");
        let containers = Containers::start(folder.path(), keep)?;
        interrupt::check()?;
        step(3, "The node daemon");
        let root = secrets(folder.path())?;
        let (node, address, admin) = start_node(&binary, &root, &containers.engine.socket, folder.path(), keep)?;
        println!("    `portsplice node` is ready on {address}; it shares one secret with the demo, and no more.");
        let client = Client { node: address, binary, folder: folder.path().to_owned() };
        Ok(Self { client, admin, node, containers, folder })
    }

    /// Leaves it all running, and says what to try and how to stop it.
    pub(crate) fn keep(mut self) -> anyhow::Result<()> {
        let stop = self.folder.path().join("stop.sh");
        let mut script = format!("#!/bin/sh\nkill {}\n", self.node.id());
        script += &self.containers.detach();
        script += &format!("rm -rf {}\n", self.folder.path().display());
        fs::write(&stop, script)?;
        let (binary, folder) = (self.client.binary.display(), self.folder.path().display());
        let (node, uuid) = (self.client.node, ALPHA.uuid);
        let sign = |target| {
            format!("{binary} sign --uuid {uuid} --port {PORT} --target {target} --root-secret-file {folder}/root")
        };
        println!("\nIt all runs on. Try:\n");
        for (target, options) in [("/", ""), ("/events", "-N "), ("/download", "-o /dev/null ")] {
            println!("    {} |\n      curl {options}-H @- http://{node}{target}", sign(target));
        }
        println!("    curl -i http://{node}/");
        println!("    curl {}/metrics", self.admin);
        println!("    {binary} top --socket {folder}/node.sock");
        println!("\nStop it and remove everything:\n\n    sh {}", stop.display());
        self.node.detach();
        let _kept = self.folder.keep();
        Ok(())
    }
}

/// Writes the cluster's secret and BETA's key, which is derived from it (protocol.md); the path of the former.
fn secrets(folder: &Path) -> anyhow::Result<PathBuf> {
    let root = format!("{}{}", sign::nonce(), sign::nonce());
    let path = folder.join("root");
    write_secret(&path, &root)?;
    write_secret(&folder.join("beta.key"), &sign::container_key(&root, BETA.uuid))?;
    Ok(path)
}

/// Starts the node; its process, its data address and the address for metrics.
fn start_node(
    binary: &Path,
    root: &Path,
    docker: &Path,
    folder: &Path,
    keep: bool,
) -> anyhow::Result<(Guarded, SocketAddr, String)> {
    let mut command = Command::new(binary);
    command.args(["node", "--listen", "tcp://127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.arg("--root-secret-file").arg(root).arg("--docker").arg(docker).args(["--containers-dir", ""]);
    command.env("PORTSPLICE_CONTROL_SOCKET", folder.join("node.sock"));
    command.env("PORTSPLICE_CONTROL_STATE", folder.join("registered.json"));
    command.env("PORTSPLICE_AUTH_USED_FILE", folder.join("used"));
    let log = folder.join("node.log");
    let mut node = if keep {
        Guarded::spawn_to_keep("portsplice node", &mut command, &log)?
    } else {
        Guarded::spawn("portsplice node", &mut command, &log, None)?
    };
    let (mut address, mut admin) = (None, None);
    loop {
        let line = node.line(START)?;
        if let Some(rest) = line.strip_prefix("listening tcp ") {
            address = Some(rest.parse().with_context(|| format!("understand {line:?}"))?);
        } else if let Some(rest) = line.strip_prefix("admin ") {
            admin = Some(rest.to_owned());
        } else if line == "ready" {
            break;
        }
    }
    let address = address.context("the node did not say where it listens")?;
    Ok((node, address, admin.context("the node did not say where its metrics are")?))
}

/// The containers, their image, and the engine that runs them.
struct Containers {
    names: Vec<String>,
    image: Option<String>,
    engine: Engine,
}

impl Containers {
    fn start(folder: &Path, keep: bool) -> anyhow::Result<Self> {
        let engine = Engine::find_or_start(&folder.join("docker"), keep)?;
        let whose =
            if engine.is_own() { "a Docker engine of the demo's own" } else { "the Docker engine that runs here" };
        println!("    in {whose}");
        let mut all = Self { names: Vec::new(), image: None, engine };
        let tag = format!("portsplice-demo:{}", process::id());
        image::make(&all.engine, &tag, &folder.join("image"))?;
        all.image = Some(tag);
        for actor in [&ALPHA, &BETA] {
            interrupt::check()?;
            all.run(actor)?;
        }
        Ok(all)
    }

    fn run(&mut self, actor: &Actor) -> anyhow::Result<()> {
        let name = format!("portsplice-demo-{}-{}", actor.name, process::id());
        let label = format!("portsplice.uuid={}", actor.uuid);
        let env = format!("CONTAINER={}", actor.name);
        let image = self.image.clone().context("there is no image")?;
        // Before it is made: half a container is removed too.
        self.names.push(name.clone());
        self.engine.run(&[
            "run",
            "--detach",
            "--network",
            "none",
            "--read-only",
            "--cap-drop",
            "ALL",
            "--name",
            &name,
            "--label",
            &label,
            "--env",
            &env,
            &image,
        ])?;
        println!("    {name}: no network, a server on its own 127.0.0.1:{PORT}");
        Ok(())
    }

    /// Leaves them running. The shell commands that remove them.
    fn detach(&mut self) -> String {
        let docker = format!("docker --host unix://{}", self.engine.socket.display());
        let mut script = format!("{docker} rm --force {} >/dev/null\n", self.names.join(" "));
        if let Some(image) = self.image.take() {
            script += &format!("{docker} rmi {image} >/dev/null\n");
        }
        self.names.clear();
        script + &self.engine.detach().unwrap_or_default()
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        // What has gone already cannot be removed, and the rest must go all the same.
        for name in &self.names {
            let _ = self.engine.run(&["rm", "--force", name]);
        }
        if let Some(image) = &self.image {
            let _ = self.engine.run(&["rmi", image]);
        }
    }
}
