//! Containers registered by files.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portsplice_discovery::container::{Container, Containers, ContainersSettings, ResolveError};
use portsplice_discovery::events::Events;
use portsplice_model::Denied;
use portsplice_net::netns::Netns;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::support::{Running, at_once, connects, eventually, skipping, unique};

struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::Builder::new().prefix("portsplice-registered-").tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("containers")
    }

    fn settings(&self) -> ContainersSettings {
        ContainersSettings { directory: Some(self.path()), ..ContainersSettings::default() }
    }

    /// Writes a file as a runtime does: whole, under its name at once.
    fn write(&self, name: &str, text: &str) {
        let temporary = self.path().join(format!(".{name}.new"));
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.path().join(name)).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(name)).unwrap();
    }
}

/// A process in a network namespace of its own.
struct Process(Child);

impl Process {
    fn start() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up; echo; exec sleep 1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn start_ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A namespace under /run/netns.
struct Named(String);

impl Named {
    fn new() -> Self {
        let named = Self(unique("ns"));
        named.make();
        named
    }

    fn make(&self) {
        for arguments in [&["netns", "add", &self.0][..], &["-n", &self.0, "link", "set", "lo", "up"]] {
            assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?} (root?)");
        }
    }

    fn unmake(&self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.0)
    }

    fn line(&self) -> String {
        format!("netns = {:?}\n", self.path())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.unmake();
    }
}

#[tokio::test]
async fn registered_by_path_for_as_long_as_the_file_stands() {
    if skipping() {
        return;
    }
    let (directory, named) = (Directory::new(), Named::new());
    let running = Running::start(&directory.settings()).await;
    assert_eq!(running.health(), Ok(()));
    assert_eq!(running.containers.resolve("web").await.unwrap_err(), ResolveError::NotOnThisNode);

    directory.write("web.toml", &named.line());
    let container = running.get("web").await;
    assert_eq!(container.netns.id(), Netns::open(&named.path()).unwrap().id());
    let server = container.netns.run(|| std::net::TcpListener::bind("127.0.0.1:8080").unwrap()).unwrap();
    connects(&container, 8080).await.unwrap();
    drop(server);
    assert_eq!(running.observed.count(), 1);

    directory.remove("web.toml");
    at_once("removal", container.gone()).await;
    assert_eq!(running.containers.resolve("web").await.unwrap_err(), ResolveError::NotOnThisNode);
    assert_eq!(running.observed.count(), 0);
}

/// A running container `web`, registered by the path of its namespace.
async fn by_path() -> (Directory, Named, Running, Arc<Container>) {
    let (directory, named) = (Directory::new(), Named::new());
    fs::create_dir(directory.path()).unwrap();
    directory.write("web.toml", &named.line());
    let running = Running::start(&directory.settings()).await;
    let container = running.get("web").await;
    (directory, named, running, container)
}

#[tokio::test]
async fn a_namespace_replaced_at_its_path_is_another_container() {
    if skipping() {
        return;
    }
    let (_directory, named, running, first) = by_path().await;
    named.unmake();
    at_once("unmounting", first.gone()).await;
    running.until_not("web", ResolveError::NotOnThisNode).await;
    named.make();
    let second = running.until("web", |_| true).await;
    assert_ne!(first.netns.id(), second.netns.id());
    // In one step, between two looks.
    named.unmake();
    named.make();
    let third = running.until("web", |now| now.netns.id() != second.netns.id()).await;
    assert!(second.is_gone() && !third.is_gone());
}

/// `ip netns delete` takes the name away and leaves the namespace to those who are in it (ip-netns(8)).
#[tokio::test]
async fn a_namespace_without_its_name_lives_on_with_what_is_in_it() {
    if skipping() {
        return;
    }
    let (_directory, named, running, container) = by_path().await;
    let server = container.netns.run(|| std::net::TcpListener::bind("127.0.0.1:8080").unwrap()).unwrap();
    let mut process = Command::new("ip").args(["netns", "exec", &named.0, "sleep", "1000"]).spawn().unwrap();
    let inside = PathBuf::from(format!("/proc/{}/ns/net", process.id()));
    eventually("the process to be inside", async || {
        Netns::open(&inside).is_ok_and(|netns| netns.id() == container.netns.id())
    })
    .await;
    named.unmake();
    assert!(!named.path().exists());
    goes_on("a process and a server", &container).await;
    assert!(Arc::ptr_eq(&running.get("web").await, &container));
    connects(&container, 8080).await.unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    goes_on("a server alone", &container).await;
    connects(&container, 8080).await.unwrap();
    drop(server);
    eventually("the end", async || container.is_gone()).await;
    running.until_not("web", ResolveError::NotOnThisNode).await;

    // Whoever makes the name anew says what it means, whatever is in the old one.
    named.make();
    let second = running.until("web", |_| true).await;
    let _server = second.netns.run(|| std::net::TcpListener::bind("127.0.0.1:8080").unwrap()).unwrap();
    named.unmake();
    goes_on("until then", &second).await;
    named.make();
    at_once("another namespace at the path", second.gone()).await;
    running.until("web", |now| now.netns.id() != second.netns.id()).await;
}

/// Looked at a few times, it is still there.
async fn goes_on(why: &str, container: &Container) {
    let waited = tokio::time::timeout(Duration::from_millis(4500), container.gone()).await;
    assert!(waited.is_err(), "{why}");
}

#[tokio::test]
async fn registered_by_pid_for_as_long_as_the_process_lives() {
    if skipping() {
        return;
    }
    let (directory, mut process) = (Directory::new(), Process::start());
    let running = Running::start(&directory.settings()).await;
    directory.write("job.toml", &format!("name = 'zzzzz-dz642-ccccccccccccccc'\npid = {}", process.pid()));
    let container = running.get("zzzzz-dz642-ccccccccccccccc").await;
    assert_eq!(running.containers.resolve("job").await.unwrap_err(), ResolveError::NotOnThisNode);
    process.0.kill().unwrap();
    at_once("death", container.gone()).await;
    running.until_not("zzzzz-dz642-ccccccccccccccc", ResolveError::NotOnThisNode).await;

    // The file stands still, and means nothing any more, until it is written anew.
    process.0.wait().unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(running.containers.list().is_empty());
    let other = Process::start();
    directory.write("job.toml", &format!("pid = {}", other.pid()));
    assert!(!running.get("job").await.is_gone());
}

#[tokio::test]
async fn a_pid_that_came_to_mean_another_process_is_refused() {
    if skipping() {
        return;
    }
    let directory = Directory::new();
    fs::create_dir(directory.path()).unwrap();
    let process = Process::start();
    // The file is of an hour ago: it meant a process that had this pid then.
    let write_old = |name: &str, text: String| {
        directory.write(name, &text);
        let file = File::options().write(true).open(directory.path().join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(3600)).unwrap();
    };
    let (pid, start) = (process.pid(), process.start_ticks());
    write_old("old.toml", format!("pid = {pid}"));
    write_old("sure.toml", format!("pid = {pid}\nstart-time = {start}"));
    directory.write("other.toml", &format!("pid = {pid}\nstart-time = {}", start - 1));
    directory.write("new.toml", &format!("pid = {pid}"));
    let running = Running::start(&directory.settings()).await;
    let mut names: Vec<_> = running.containers.list().iter().map(|c| c.name.clone()).collect();
    names.sort();
    assert_eq!(names, ["new", "sure"]);
    assert_eq!(running.observed.count(), 1);
}

#[tokio::test]
async fn a_bad_file_disturbs_no_other_and_may_be_put_right() {
    if skipping() {
        return;
    }
    let (directory, named) = (Directory::new(), Named::new());
    fs::create_dir(directory.path()).unwrap();
    directory.write("good.toml", &named.line());
    directory.write("bad.toml", "netns = ");
    directory.write("open.toml", &named.line());
    fs::set_permissions(directory.path().join("open.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    directory.write("notes.txt", &named.line());
    directory.write(".hidden.toml", &named.line());
    fs::write(directory.path().join("large.toml"), "#".repeat(100_000)).unwrap();
    fs::write(directory.path().join("binary.toml"), [0xff, 0, 0xfe]).unwrap();
    fs::create_dir(directory.path().join("dir.toml")).unwrap();
    let running = Running::start(&directory.settings()).await;
    let names: Vec<_> = running.containers.list().iter().map(|c| c.name.clone()).collect();
    assert_eq!(names, ["good"]);

    directory.write("bad.toml", &named.line());
    fs::set_permissions(directory.path().join("open.toml"), fs::Permissions::from_mode(0o600)).unwrap();
    running.until("bad", |_| true).await;
    running.until("open", |_| true).await;
    let good = running.get("good").await;
    directory.write("good.toml", "what?");
    at_once("a file made bad", good.gone()).await;
    assert_eq!(running.observed.count(), 1);
}

#[tokio::test]
async fn a_new_policy_is_for_new_connections_unless_it_closes() {
    if skipping() {
        return;
    }
    let (directory, process) = (Directory::new(), Process::start());
    let running = Running::start(&directory.settings()).await;
    let write = |more: &str| directory.write("job.toml", &format!("pid = {}\n{more}", process.pid()));
    write("");
    let first = running.get("job").await;
    let _slot = first.try_acquire(80, None).unwrap();
    write("ports = [80, '8000-8010']");
    let second = running.until("job", |c| c.policy.check(81) == Err(Denied::Port)).await;
    assert_eq!((second.policy.check(8005), second.active(), first.is_gone()), (Ok(()), 1, false));
    write("deny = true");
    at_once("closing", second.gone()).await;
    assert!(first.is_gone());
    let third = running.until("job", |c| c.policy.check(80) == Err(Denied::Denied)).await;
    assert!(!third.is_gone());
    // The observer is told behind the table's change.
    eventually("nothing to be observed", async || running.observed.count() == 0).await;
}

#[tokio::test]
async fn the_first_of_two_files_of_one_name_counts_and_the_hosts_network_is_refused() {
    if skipping() {
        return;
    }
    let (directory, named, other) = (Directory::new(), Named::new(), Named::new());
    fs::create_dir(directory.path()).unwrap();
    directory.write("a.toml", &format!("name = 'same'\n{}", named.line()));
    // Of later than a tick of the clock that files' times are taken from.
    tokio::time::sleep(Duration::from_millis(30)).await;
    directory.write("b.toml", &format!("name = 'same'\n{}", other.line()));
    directory.write("host.toml", &format!("pid = {}", std::process::id()));
    let running = Running::start(&directory.settings()).await;
    assert_eq!(running.get("same").await.netns.id(), Netns::open(&named.path()).unwrap().id());
    assert_eq!(running.get("host").await.policy.check(80), Err(Denied::HostNetwork));
    directory.remove("a.toml");
    let other = Netns::open(&other.path()).unwrap().id();
    running.until("same", |container| container.netns.id() == other).await;
}

#[tokio::test]
async fn the_directory_may_be_replaced() {
    if skipping() {
        return;
    }
    let (directory, named) = (Directory::new(), Named::new());
    let running = Running::start(&directory.settings()).await;
    directory.write("web.toml", &named.line());
    let container = running.get("web").await;
    fs::remove_dir_all(directory.path()).unwrap();
    eventually("the loss to be told", async || running.health().is_err()).await;
    assert!(Arc::ptr_eq(&running.get("web").await, &container), "what is known stays until the directory tells");
    fs::create_dir(directory.path()).unwrap();
    at_once("a look at the new directory", async {
        while !container.is_gone() {
            let _ = running.containers.resolve("anything").await;
        }
    })
    .await;
    assert_eq!(running.health(), Ok(()));
    directory.write("web.toml", &named.line());
    running.until("web", |_| true).await;
}

#[tokio::test]
async fn a_directory_open_to_all_is_refused() {
    let directory = Directory::new();
    fs::create_dir(directory.path()).unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let start = |settings| async move {
        Containers::start(&settings, Events::default(), Arc::new(()), CancellationToken::new()).await
    };
    let error = start(directory.settings()).await.err().unwrap().to_string();
    assert!(error.contains("chmod o-w"), "{error}");
    let file = directory.0.path().join("file");
    fs::write(&file, "").unwrap();
    let settings = ContainersSettings { directory: Some(file), ..ContainersSettings::default() };
    assert!(start(settings).await.is_err());
}
