//! What a daemon under test is configured with, and the files that say so.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use super::{Node, binary, write_secret};
use crate::net::Netns;
use crate::process::Process;
use crate::sign;

/// One listener of the daemon.
#[derive(Clone, Debug)]
pub struct ListenOn {
    /// Address, with port 0 unless a test means a certain one.
    pub address: String,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Accepted credentials, as the configuration names them.
    pub credentials: Vec<&'static str>,
}

/// The configuration of a daemon under test.
pub struct NodeConfig {
    sections: BTreeMap<String, BTreeMap<String, String>>,
    listen: Vec<ListenOn>,
    files: Vec<(String, String)>,
    env: Vec<(String, String)>,
    args: Vec<String>,
    netns: Option<Arc<Netns>>,
    root: Option<String>,
    keys: bool,
    open_files: Option<u32>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl NodeConfig {
    /// A plain listener for `bound`, a TLS listener for `bound` and `certificate`, JSON logs, no Docker, no eBPF.
    #[must_use]
    pub fn new() -> Self {
        let listen = |tls, credentials| ListenOn { address: "127.0.0.1:0".to_owned(), tls, credentials };
        let mut this = Self {
            sections: BTreeMap::new(),
            listen: vec![listen(false, vec!["bound"]), listen(true, vec!["bound", "certificate"])],
            files: Vec::new(),
            env: Vec::new(),
            args: Vec::new(),
            netns: None,
            root: Some(sign::nonce()),
            keys: false,
            open_files: None,
        };
        this.set("", "admin", "\"127.0.0.1:0\"");
        this.set("log", "level", "\"info\"").set("log", "format", "\"json\"");
        this.set("containers", "docker", "\"\"").set("bpf", "mode", "\"off\"");
        this
    }

    /// Sets a key of a section (`""` for the top level) to a TOML value.
    pub fn set(&mut self, section: &str, key: &str, value: &str) -> &mut Self {
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Lifts the caps on connections of one client and to one container, for tests with thousands of either.
    pub fn without_caps(&mut self) -> &mut Self {
        self.set("limits", "connections-per-client", "0").set("limits", "connections-per-container", "0")
    }

    /// Replaces the listeners.
    pub fn listen(&mut self, listen: Vec<ListenOn>) -> &mut Self {
        self.listen = listen;
        self
    }

    /// Registers a container before the daemon starts: the text of `NAME.toml`.
    pub fn container(&mut self, name: &str, toml: &str) -> &mut Self {
        self.files.push((name.to_owned(), toml.to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, name: &str, value: &str) -> &mut Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds an argument after `node --config FILE`.
    pub fn arg(&mut self, arg: &str) -> &mut Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Starts the daemon inside a namespace instead of this process's own.
    pub fn inside(&mut self, netns: &Arc<Netns>) -> &mut Self {
        self.netns = Some(netns.clone());
        self
    }

    /// Sets the cluster's secret, which is a random one otherwise.
    pub fn root(&mut self, secret: &str) -> &mut Self {
        self.root = Some(secret.to_owned());
        self
    }

    /// Gives the daemon a directory of containers' keys in place of the root secret.
    pub fn keys_only(&mut self) -> &mut Self {
        self.keys = true;
        self
    }

    /// Limits how many files the daemon may have open.
    pub fn open_files(&mut self, limit: u32) -> &mut Self {
        self.open_files = Some(limit);
        self
    }

    /// Writes the configuration, starts the daemon, and waits until it is ready.
    #[track_caller]
    #[must_use]
    pub fn start(&mut self) -> Node {
        let site = self.site();
        let process = Process::spawn("portsplice node", &mut site.command(self), self.netns.as_deref());
        Node::ready(site, process, self.netns.clone())
    }

    /// Writes the configuration and secrets without starting anything.
    #[track_caller]
    #[must_use]
    pub fn site(&self) -> Site {
        let dir = tempfile::Builder::new().prefix("portsplice-test-").tempdir().expect("a temporary directory");
        let site = Site { root: self.root.clone().expect("a secret"), dir };
        fs::create_dir(site.containers()).expect("a directory");
        fs::create_dir(site.keys()).expect("a directory");
        fs::set_permissions(site.keys(), fs::Permissions::from_mode(0o700)).expect("mode");
        write_secret(&site.path("root"), &site.root);
        for (name, toml) in &self.files {
            fs::write(site.containers().join(format!("{name}.toml")), toml).expect("written");
            if self.keys {
                write_secret(&site.keys().join(name), &sign::container_key(&site.root, name));
            }
        }
        site.configure(self);
        site
    }
}

/// Where a daemon under test has its files.
pub struct Site {
    /// The cluster's secret.
    pub root: String,
    dir: TempDir,
}

impl Site {
    /// A file of it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The directory of registered containers.
    #[must_use]
    pub fn containers(&self) -> PathBuf {
        self.path("containers")
    }

    /// The control socket.
    #[must_use]
    pub fn control(&self) -> PathBuf {
        self.path("node.sock")
    }

    /// The directory of containers' keys.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.path("keys")
    }

    /// Writes the configuration file.
    #[track_caller]
    pub fn configure(&self, config: &NodeConfig) {
        let mut sections = config.sections.clone();
        let quoted = |path: PathBuf| format!("{:?}", path.to_str().expect("UTF-8"));
        let secrets = sections.entry("secrets".to_owned()).or_default();
        if config.keys {
            secrets.entry("keys-dir".to_owned()).or_insert(quoted(self.keys()));
        } else {
            secrets.entry("root-file".to_owned()).or_insert(quoted(self.path("root")));
        }
        let containers = sections.entry("containers".to_owned()).or_default();
        containers.entry("directory".to_owned()).or_insert(quoted(self.containers()));
        let control = sections.entry("control".to_owned()).or_default();
        control.entry("socket".to_owned()).or_insert(quoted(self.control()));
        control.entry("state".to_owned()).or_insert(quoted(self.path("registered.json")));
        let auth = sections.entry("auth".to_owned()).or_default();
        auth.entry("used-file".to_owned()).or_insert(quoted(self.path("used")));
        let registry = sections.entry("registry".to_owned()).or_default();
        registry.entry("accepted-file".to_owned()).or_insert(quoted(self.path("accepted")));
        let mut text = String::new();
        for (name, keys) in &sections {
            if !name.is_empty() {
                text.push_str(&format!("\n[{name}]\n"));
            }
            for (key, value) in keys {
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
        for ListenOn { address, tls, credentials } in &config.listen {
            text.push_str(&format!(
                "\n[[listen]]\naddress = {address:?}\ntls = {tls}\ncredentials = {credentials:?}\n"
            ));
        }
        fs::write(self.path("config.toml"), text).expect("written");
    }

    /// The command that starts the daemon on this site.
    #[must_use]
    pub fn command(&self, config: &NodeConfig) -> Command {
        let mut command = match config.open_files {
            // It becomes the daemon, under the same process id.
            Some(limit) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={limit}:{limit}")).arg(binary());
                command
            }
            None => Command::new(binary()),
        };
        command.arg("node").arg("--config").arg(self.path("config.toml")).args(&config.args);
        command.envs(config.env.iter().map(|(k, v)| (k, v)));
        // The soak's own, which the daemon would warn of.
        command.env_remove("PORTSPLICE_SEED").env_remove("PORTSPLICE_PLAY");
        // Leave a backtrace in the log of a test that fails.
        command.env("RUST_BACKTRACE", "1");
        command
    }
}
