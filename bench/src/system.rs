//! The systems that are compared, and how each is started.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use portsplice_testkit::conn::Conn;
use portsplice_tooling::child::{Guarded, program};
use portsplice_tooling::interrupt;
use rustls::ClientConfig;

use crate::load::tls;
use crate::origin::{self, ECHO_PORT, HTTP_PORT};
use crate::peers;
use crate::route::{CONTAINER_NAME, Route, Signer, Tunnel};
use crate::topology::{NODE, Topology};

/// How long a system may take from its start to its first answer.
const START: Duration = Duration::from_secs(20);
/// The cluster secret of the run; it protects nothing but this run's server.
const ROOT: &str = "a-secret-for-one-measurement";

/// One way from the controller to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    /// The routed connection without any proxy: the yardstick
    Direct,
    /// Portsplice, bodies copied through userspace
    Copy,
    /// Portsplice, bodies moved with splice(2)
    Splice,
    /// Portsplice as it comes: the kernel carries long responses past the daemon
    Fast,
    /// Portsplice with TLS towards the controller
    Tls,
    /// HAProxy as an HTTP proxy
    HaproxyHttp,
    /// HAProxy as a TCP proxy
    HaproxyTcp,
    /// nginx as an HTTP proxy
    Nginx,
    /// The reverse proxy of Go's library, which flushes at once
    Go,
}

impl System {
    /// All of them, the yardstick first.
    pub(crate) const ALL: [Self; 9] = [
        Self::Direct,
        Self::Copy,
        Self::Splice,
        Self::Fast,
        Self::Tls,
        Self::HaproxyHttp,
        Self::HaproxyTcp,
        Self::Nginx,
        Self::Go,
    ];

    /// The name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Copy => "copy",
            Self::Splice => "splice",
            Self::Fast => "fast",
            Self::Tls => "tls",
            Self::HaproxyHttp => "haproxy-http",
            Self::HaproxyTcp => "haproxy-tcp",
            Self::Nginx => "nginx",
            Self::Go => "go",
        }
    }

    /// Whether it is Portsplice.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Copy | Self::Splice | Self::Fast | Self::Tls)
    }

    /// Whether it ends TLS.
    pub(crate) fn speaks_tls(self) -> bool {
        matches!(self, Self::Tls | Self::HaproxyHttp | Self::Nginx | Self::Go)
    }

    /// The address that it listens on.
    fn listens(self) -> SocketAddr {
        let port = match self {
            Self::Direct => return origin::address(HTTP_PORT),
            Self::Copy => 9001,
            Self::Splice => 9002,
            Self::Fast => 9008,
            Self::HaproxyHttp => 9003,
            Self::HaproxyTcp => peers::HAPROXY_TCP_HTTP,
            Self::Nginx => 9006,
            Self::Tls => 9007,
            Self::Go => 9009,
        };
        (NODE, port).into()
    }

    fn tunnel(self) -> Tunnel {
        match self {
            Self::Direct => Tunnel::Raw(origin::address(ECHO_PORT)),
            Self::HaproxyTcp => Tunnel::Raw((NODE, peers::HAPROXY_TCP_ECHO).into()),
            Self::HaproxyHttp | Self::Nginx | Self::Go => Tunnel::Upgrade,
            Self::Copy | Self::Splice | Self::Fast | Self::Tls => Tunnel::Tcp,
        }
    }
}

/// A system that answers requests.
pub(crate) struct Running {
    /// Which it is.
    pub(crate) system: System,
    /// How requests take it.
    pub(crate) route: Route,
    /// Its process; none for the direct way.
    process: Option<Guarded>,
}

impl Running {
    /// The processes' ids: the one that was started and its children.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let Some(process) = &self.process else { return Vec::new() };
        let pid = process.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        std::iter::once(pid).chain(children.split_whitespace().filter_map(|c| c.parse().ok())).collect()
    }

    /// Fails with its last words if it has ended.
    pub(crate) fn ensure_running(&mut self) -> anyhow::Result<()> {
        self.process.as_mut().map_or(Ok(()), Guarded::ensure_running)
    }
}

/// What it takes to start systems: the hosts, a folder for their files, the binary under test.
pub(crate) struct Launcher<'t> {
    topology: &'t Topology,
    folder: PathBuf,
    binary: PathBuf,
    signer: Signer,
    client: Arc<ClientConfig>,
}

impl<'t> Launcher<'t> {
    /// Prepares `folder`: the secret, and the file that registers the server's process as a container.
    pub(crate) fn new(topology: &'t Topology, folder: &Path, binary: &Path, server: u32) -> anyhow::Result<Self> {
        let root = folder.join("root");
        std::fs::write(&root, ROOT).context("write the root secret")?;
        std::fs::set_permissions(&root, Permissions::from_mode(0o600))?;
        let containers = folder.join("containers");
        std::fs::create_dir(&containers)?;
        std::fs::write(containers.join("bench.toml"), format!("name = \"{CONTAINER_NAME}\"\npid = {server}\n"))?;
        let signer = Signer::new(ROOT);
        let client = tls::client(&peers::certificate(folder)?)?;
        Ok(Self { topology, folder: folder.to_owned(), binary: binary.to_owned(), signer, client })
    }

    /// Starts `system` and returns once it has answered a request.
    pub(crate) fn start(&self, system: System) -> anyhow::Result<Running> {
        let listens = system.listens();
        let mut process = match system {
            System::Direct => None,
            System::Copy | System::Splice | System::Fast | System::Tls => Some(self.portsplice(system, listens)?),
            System::HaproxyHttp => {
                Some(self.peer(system, "cfg", &peers::haproxy_http(listens, &self.folder), haproxy)?)
            }
            System::HaproxyTcp => Some(self.peer(system, "cfg", &peers::haproxy_tcp(), haproxy)?),
            System::Nginx => Some(self.peer(system, "conf", &peers::nginx(listens, &self.folder), nginx)?),
            System::Go => {
                Some(self.spawn(system, &mut peers::go::proxy(&peers::go::compile()?, listens, &self.folder))?)
            }
        };
        let signer = system.is_ours().then(|| self.signer.clone());
        let tls = match system {
            System::Tls => Some(listens),
            _ => system.speaks_tls().then(|| peers::beside(listens)),
        };
        let tls = tls.map(|address| (address, self.client.clone()));
        let route = Route { http: listens, tls, tunnel: system.tunnel(), signer };
        self.wait_for_answer(system, &route, process.as_mut())?;
        Ok(Running { system, route, process })
    }

    fn wait_for_answer(&self, system: System, route: &Route, mut process: Option<&mut Guarded>) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        loop {
            interrupt::check()?;
            if let Some(process) = process.as_deref_mut() {
                process.ensure_running()?;
            }
            let head = route.head("GET", "/k", "")?;
            let answer = self.topology.controller.enter(|| match system {
                System::Tls => tls::probe(route),
                _ => Conn::connect(route.http)?.get(&head),
            });
            match answer {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    let words = process.map(|p| p.last_words()).unwrap_or_default();
                    return Err(error).with_context(|| format!("{} does not answer\n{words}", system.name()));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn portsplice(&self, system: System, listens: SocketAddr) -> anyhow::Result<Guarded> {
        let config = self.folder.join(format!("{}.toml", system.name()));
        let (folder, name) = (self.folder.display(), system.name());
        let (path, tls) = match system {
            // By default the daemon takes the fast path where that pays.
            System::Fast => ("auto", "tls = false".to_owned()),
            System::Tls => ("auto", peers::portsplice_tls(&self.folder)),
            _ => (system.name(), "tls = false".to_owned()),
        };
        std::fs::write(
            &config,
            format!(
                "drain-timeout = \"1s\"\n\
                 [log]\nlevel = \"warn\"\naccess = false\n\
                 [secrets]\nroot-file = \"{folder}/root\"\n\
                 [auth]\nused-file = \"{folder}/{name}.used\"\n\
                 [limits]\nconnections-per-client = 0\nconnections-per-container = 0\n\
                 [[listen]]\naddress = \"{listens}\"\n{tls}\ncredentials = [\"bound\"]\n\
                 [containers]\ndocker = \"\"\ndirectory = \"{folder}/containers\"\n\
                 [relay]\npath = \"{path}\"\n"
            ),
        )?;
        let mut command = Command::new(&self.binary);
        command.arg("node").arg("--config").arg(&config);
        // Not in the file: an older binary, which the measures may be for, would not know the key.
        command.env("PORTSPLICE_CONTROL_SOCKET", "");
        let mut process = self.spawn(system, &mut command)?;
        while process.line(START)? != "ready" {}
        Ok(process)
    }

    fn peer(
        &self,
        system: System,
        extension: &str,
        config: &str,
        command: fn(&Path) -> Command,
    ) -> anyhow::Result<Guarded> {
        let path = self.folder.join(format!("{}.{extension}", system.name()));
        std::fs::write(&path, config)?;
        self.spawn(system, &mut command(&path))
    }

    fn spawn(&self, system: System, command: &mut Command) -> anyhow::Result<Guarded> {
        let log = self.folder.join(format!("{}.log", system.name()));
        Guarded::spawn(system.name(), command, &log, Some(self.topology.node.fd()))
    }
}

fn haproxy(config: &Path) -> Command {
    let mut command = Command::new(program("haproxy"));
    command.arg("-db").arg("-f").arg(config);
    command
}

fn nginx(config: &Path) -> Command {
    let mut command = Command::new(program("nginx"));
    command.arg("-c").arg(config).args(["-e", "stderr"]);
    command
}
