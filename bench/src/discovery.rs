//! `cargo xtask bench discovery`: what it costs the node to know which ports listen, in many containers, when nothing changes.
//!
//! Each container is a process in a network namespace of its own. They are told to listen once while the node knows them, so that
//! the kernel tells it of each port; and then the node is started anew, so that it has to find them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portsplice_testkit::conn::Conn;
use portsplice_testkit::{process, wire};
use portsplice_tooling::child::{Guarded, contain};
use portsplice_tooling::{interrupt, workspace};

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time for what a change brings about to be over.
const DRAIN: Duration = Duration::from_secs(5);
/// `ports.rescan`, the default.
const RESCAN: Duration = Duration::from_secs(60);
/// The first port that a container listens on.
const FIRST_PORT: u16 = 8001;

/// Arguments of `cargo xtask bench discovery`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many containers
    #[arg(long, value_name = "N", default_value_t = 1000)]
    containers: usize,
    /// How many ports listen in each
    #[arg(long, value_name = "N", default_value_t = 5)]
    ports: u16,
    /// How long the node is watched while nothing changes; a multiple of the minute in which it looks at each container once
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
}

/// Measures with the daemon `binary`, and prints what came of it.
pub(crate) fn run(args: &Args, binary: &Path) -> anyhow::Result<()> {
    let folder = tempfile::Builder::new().prefix("portsplice-bench-").tempdir().context("make a folder")?;
    let site = Site::new(folder.path(), binary)?;
    eprintln!("making {} containers", args.containers);
    let mut containers = Vec::with_capacity(args.containers);
    for number in 0..args.containers {
        interrupt::check()?;
        let container = Container::start(args.ports)?;
        site.register(number, container.child.id())?;
        containers.push(container);
    }
    let all = containers.len() * usize::from(args.ports);
    println!("{} containers with {} ports each; `ports.rescan` is {RESCAN:?}", containers.len(), args.ports);

    let mut node = Node::start(&site)?;
    wait_until(&mut node, "portsplice_containers", containers.len())?;
    let began = Instant::now();
    containers.iter_mut().try_for_each(Container::listen)?;
    let listening = began.elapsed();
    wait_until(&mut node, "portsplice_ports_listening", all)?;
    println!("all began to listen within {listening:.2?}, and were known after {:.2?}", began.elapsed());
    watch(&mut node, "told by the kernel", args.seconds)?;
    drop(node);

    let mut node = Node::start(&site)?;
    wait_until(&mut node, "portsplice_ports_listening", all)?;
    println!("a node that was started anew had computed for {:.2?} when it knew them all", node.cpu()?);
    watch(&mut node, "found at the start", args.seconds)
}

/// Watches the node while nothing changes.
fn watch(node: &mut Node, what: &str, seconds: u64) -> anyhow::Result<()> {
    pause(node, DRAIN)?;
    let look = |node: &Node| anyhow::Ok((node.cpu()?, node.looker()?, node.metric("portsplice_ports_dumps_total")?));
    let (before, began) = (look(node)?, Instant::now());
    pause(node, Duration::from_secs(seconds))?;
    let after = look(node)?;
    let share = |spent: Duration| spent.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let (looking, looks) = (after.1.saturating_sub(before.1), after.2 - before.2);
    println!(
        "{what}: {:.2} % of one processor, {:.2} % in the whole node; {looks} looks at a container, {:.0} us each",
        share(looking),
        share(after.0.saturating_sub(before.0)),
        looking.as_secs_f64() * 1e6 / looks.max(1.0),
    );
    Ok(())
}

fn pause(node: &mut Node, length: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + length;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        interrupt::check()?;
        node.process.ensure_running()?;
        thread::sleep(left.min(Duration::from_millis(200)));
    }
    Ok(())
}

fn wait_until(node: &mut Node, metric: &str, value: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        interrupt::check()?;
        node.process.ensure_running()?;
        let now = node.metric(metric)?;
        if now as usize == value {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{metric} is {now} and not {value} after {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The node's files.
struct Site {
    folder: PathBuf,
    binary: PathBuf,
}

impl Site {
    fn new(folder: &Path, binary: &Path) -> anyhow::Result<Self> {
        let root = folder.join("root");
        std::fs::write(&root, "a-secret-for-one-measurement").context("write the root secret")?;
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o600))?;
        std::fs::create_dir(folder.join("containers"))?;
        let path = folder.display();
        let config = format!(
            "admin = \"127.0.0.1:0\"\ndrain-timeout = \"1s\"\n\
             [log]\nlevel = \"warn\"\n\
             [secrets]\nroot-file = \"{path}/root\"\n\
             [[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\ncredentials = [\"bound\"]\n\
             [containers]\ndocker = \"\"\ndirectory = \"{path}/containers\"\n\
             [auth]\nused-file = \"{path}/used\"\n\
             [ports]\nrescan = \"{}s\"\n\
             [control]\nsocket = \"{path}/node.sock\"\nstate = \"{path}/registered.json\"\n",
            RESCAN.as_secs()
        );
        std::fs::write(folder.join("node.toml"), config)?;
        Ok(Self { folder: folder.to_owned(), binary: binary.to_owned() })
    }

    fn register(&self, number: usize, pid: u32) -> anyhow::Result<()> {
        let file = self.folder.join(format!("containers/c{number}.toml"));
        std::fs::write(&file, format!("pid = {pid}\n")).with_context(|| format!("write {}", file.display()))
    }
}

/// A running node.
struct Node {
    process: Guarded,
    admin: SocketAddr,
}

impl Node {
    fn start(site: &Site) -> anyhow::Result<Self> {
        let mut command = Command::new(&site.binary);
        command.arg("node").arg("--config").arg(site.folder.join("node.toml"));
        let mut process = Guarded::spawn("portsplice", &mut command, &site.folder.join("node.log"), None)?;
        let mut admin = None;
        loop {
            let line = process.line(PATIENCE)?;
            if let Some(address) = line.strip_prefix("admin http://") {
                admin = Some(address.parse()?);
            } else if line == "ready" {
                return Ok(Self { process, admin: admin.context("the node has no admin server")? });
            }
        }
    }

    /// The value of a metric without labels.
    fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let mut conn = Conn::connect(self.admin)?;
        conn.send(b"GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let head = conn.expect(200)?;
        let length = wire::content_length(&head).context("metrics without a length")?;
        let text = String::from_utf8(conn.read_body(length)?).context("metrics that are no text")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
        value.with_context(|| format!("no metric {name}"))
    }

    /// How long it has computed.
    fn cpu(&self) -> anyhow::Result<Duration> {
        Ok(process::cpu_time_in(&PathBuf::from(format!("/proc/{}", self.process.id())))?)
    }

    /// How long its thread that looks for ports has. What tells it of changes has nothing to do while there are none.
    fn looker(&self) -> anyhow::Result<Duration> {
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let task = task?.path();
            if std::fs::read_to_string(task.join("comm"))?.trim_end() == "ports" {
                return Ok(process::cpu_time_in(&task)?);
            }
        }
        anyhow::bail!("the node has no thread that looks for ports")
    }
}

/// A process in a namespace of its own.
struct Container {
    child: Child,
}

impl Container {
    fn start(ports: u16) -> anyhow::Result<Self> {
        let mut command = Command::new(workspace::program()?);
        command.args(["listeners", &ports.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        contain(&mut command, None, Some(rustix::process::Signal::KILL));
        let mut this = Self { child: command.spawn().context("start a container's process")? };
        this.line().context("a container's namespace")?;
        Ok(this)
    }

    fn listen(&mut self) -> anyhow::Result<()> {
        self.child.stdin.as_mut().context("it is told nothing more")?.write_all(b"\n")?;
        self.line().context("a container's ports")
    }

    /// Waits until it has done what it was told.
    fn line(&mut self) -> anyhow::Result<()> {
        let read = self.child.stdout.as_mut().context("its output")?.read(&mut [0])?;
        ensure!(read == 1, "its process has exited");
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process of a container: goes into a namespace of its own, and listens when it is told to.
pub(crate) fn serve(ports: u16) -> anyhow::Result<()> {
    // SAFETY: only this process's namespace changes, and it has one thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.context("a network namespace")?;
    let mut orders = BufReader::new(std::io::stdin()).lines();
    let mut listeners = Vec::new();
    let done = || std::io::stdout().write_all(b".").and_then(|()| std::io::stdout().flush());
    done()?;
    while orders.next().transpose()?.is_some() {
        // The namespace's loopback interface is down, so it has no address yet.
        let bind = |port| TcpListener::bind(("0.0.0.0", port)).with_context(|| format!("listen on port {port}"));
        let new: Vec<_> = (FIRST_PORT..FIRST_PORT + ports).map(bind).collect::<anyhow::Result<_>>()?;
        listeners.extend(new);
        done()?;
    }
    Ok(())
}
