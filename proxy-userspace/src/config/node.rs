//! What `portsplice node` is configured with.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use super::error::Problems;
use super::registry::RegistryConfig;
use super::role::{Role, RoleSettings};
use super::setting::{all, section};
use super::shared::{CAP, ClientLimits, SWITCH, Shared, TIMEOUT};
use super::value::{
    Keyword, count, duration, flows, keyword, optional_path, optional_socket, seconds, size, size_or_none, switch, text,
};
use super::{PREFIX, ROOT_CREDENTIAL};
use portsplice_auth::Scheme;
use portsplice_bpf::BpfMode;
use portsplice_model::ContainerName;
use portsplice_model::url::authority;
use portsplice_net::listen::ListenConfig;

/// The node's configuration.
pub static NODE: Role = Role {
    name: "node",
    default_file: "/etc/portsplice/node.toml",
    prefix: PREFIX,
    others: &["PORTSPLICE_EDGE_"],
    listen_example: "0.0.0.0:7450",
    defaults: &[],
    settings: LazyLock::new(all::<Node>),
};

section! {
    /// All settings of a node but its listeners.
    pub struct Node in "" {}
    sections {
        /// What it shares with the edge.
        shared: Shared,
        /// Threads
        workers: WorkersConfig,
        /// `[log]` of requests
        access_log: AccessLogConfig,
        /// `[limits]` of requests
        limits: LimitsConfig,
        /// `[limits]` of connections
        clients: ClientLimits,
        /// `[containers]`
        containers: ContainersConfig,
        /// `[relay]`
        relay: RelayConfig,
        /// `[bpf]`
        bpf: BpfConfig,
        /// `[node]`
        node: NodeConfig,
        /// `[ports]`
        ports: PortsConfig,
        /// `[control]`
        control: ControlConfig,
        /// `[registry]`
        registry: RegistryConfig,
    }
}

section! {
    /// What the data path runs on.
    pub struct WorkersConfig in "" {
        /// Threads that connections are spread over.
        threads: usize = "0", size::<0, 1024>, "a number from 1 to 1024, or 0 for one per CPU", restart;
    }
}

section! {
    /// The access log.
    pub struct AccessLogConfig in "log." {
        /// Whether each request gets a line.
        access: bool = "true", switch, SWITCH, reload;
    }
}

section! {
    /// Bounds on what a request may use. Zero timeouts and zero caps are off.
    pub struct LimitsConfig in "limits." {
        /// Longest head of a request, in bytes.
        head_bytes: usize = "65536", size::<1024, 1_048_576>, "a number of bytes from 1024 to 1048576", reload;
        /// Most fields of a request's head.
        head_fields: usize = "128", size::<16, 4096>, "a number from 16 to 4096", reload;
        /// Longest request target, in bytes.
        target_bytes: usize = "16384", size::<256, 1_048_576>, "a number of bytes from 256 to 1048576", reload;
        /// Longest field line of a request, in bytes.
        field_bytes: usize = "0", size_or_none::<256, 1_048_576>,
            "a number of bytes from 256 to 1048576, or 0 for as long as the head may be", reload;
        /// Longest head of a response, in bytes.
        response_head_bytes: usize = "262144", size::<1024, 1_048_576>, "a number of bytes from 1024 to 1048576", reload;
        /// Most fields of a response's head.
        response_head_fields: usize = "1000", size::<16, 16_384>, "a number from 16 to 16384", reload;
        /// Most memory for request heads that are not complete yet, in bytes.
        unfinished_heads_bytes: usize = "67108864", size::<1_048_576, 68_719_476_736>,
            "a number of bytes from 1048576 to 68719476736, for the unfinished request heads of all connections together; the first 4096 of each are not counted",
            reload;
        /// Timeout for a request head, from its first byte to its last.
        head_timeout: Duration = "10s", duration, TIMEOUT, reload, flag("--head-timeout", "TIME", Limits);
        /// For a connection to a container.
        connect_timeout: Duration = "5s", duration, TIMEOUT, reload, flag("--connect-timeout", "TIME", Limits);
        /// Between two requests of a connection to a container. Shorter than servers wait before they close an idle
        /// connection, so that no request meets its end.
        upstream_idle_timeout: Duration = "1500ms", duration, TIMEOUT, reload,
            flag("--upstream-idle-timeout", "TIME", Limits);
        /// Without a byte in either direction of a request or tunnel.
        idle_timeout: Duration = "1h", duration, TIMEOUT, reload, flag("--idle-timeout", "TIME", Limits);
        /// From a request's last byte to the end of its response's head.
        response_header_timeout: Duration = "0s", duration, TIMEOUT, reload;
        /// Most connections to one container at a time, beside what its labels say; 0 is no limit.
        connections_per_container: u32 = "512", count, CAP, reload, flag("--max-connections-per-container", "N", Limits);
    }
}

section! {
    /// Where containers are found.
    pub struct ContainersConfig in "containers." {
        /// The Docker engine's unix socket, or `""` to do without Docker. An engine at the default place may be missing; one that is named here is
        /// expected, and without it the node is not ready.
        docker: Option<PathBuf> = "/var/run/docker.sock", optional_socket,
            r#"the path of the Docker engine's Unix socket, or "" to disable Docker"#,
            restart, flag("--docker", "SOCKET", Containers);
        /// The directory in which runtimes register containers, or `""` to do without.
        directory: Option<PathBuf> = "/run/portsplice/containers", optional_path,
            r#"the path of a directory with one TOML file per registered container, or "" to disable it"#,
            restart, flag("--containers-dir", "DIR", Containers);
        /// Whether containers that share the host's network are reached too, and with it everything that listens on this
        /// host.
        allow_host_network: bool = "false", switch, SWITCH, restart, flag("--allow-host-network", "", Containers);
        /// Whether labels that come from an image may claim names and publish ports.
        trust_image_labels: bool = "false", switch, SWITCH, restart;
        /// How long a request waits for a port that nothing listens on yet.
        wait_for_port: Duration = "0s", duration,
            r#"a time such as "10s" that a request waits for a port to open; "0s" does not wait"#,
            reload, flag("--wait-for-port", "TIME", Containers);
    }
    computed {
        /// Whether the engine's socket is only the default, so that a machine without an engine is as good.
        docker_optional: bool = |given| given.is_default("containers.docker");
    }
}

/// How bytes are moved between plain sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayPath {
    /// Past the daemon where it pays, else by splice(2) where that pays, else by copy.
    Auto,
    /// Past the daemon wherever it can, however short a response is.
    Fast,
    /// By splice(2) wherever it can.
    Splice,
    /// By copy always.
    Copy,
}

impl Keyword for RelayPath {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("fast", Self::Fast), ("splice", Self::Splice), ("copy", Self::Copy)];
}

section! {
    /// How bytes are moved.
    pub struct RelayConfig in "relay." {
        /// How bytes are moved between plain sockets: `auto` takes what pays, `fast` has the kernel carry responses past the
        /// daemon wherever it can, `splice` uses splice(2) wherever it can, `copy` copies.
        path: RelayPath = "auto", keyword, r#""auto", "fast", "splice" or "copy""#,
            reload, flag("--relay-path", "PATH", Relay);
        /// The size of a pipe between two sockets, in bytes.
        pipe_bytes: usize = "1048576", size::<4096, 16_777_216>, "a number of bytes from 4096 to 16777216", reload;
        /// Pipes that are kept open though unused.
        idle_pipes: usize = "64", size::<0, 65_536>, "a number from 0 to 65536", reload;
        /// What may be held in all of responses whose containers have ended, for clients that read slowly, in bytes.
        tail_bytes: usize = "268435456", size::<0, 68_719_476_736>,
            "a number of bytes from 0 to 68719476736; responses of containers that have ended are lost beyond this after 10 s",
            reload;
    }
}

impl Keyword for BpfMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("off", Self::Off), ("required", Self::Required)];
}

section! {
    /// The kernel programs.
    pub struct BpfConfig in "bpf." {
        /// Whether kernel programs are loaded: `auto` where they work, `off`, or `required`, without which the daemon does not
        /// start.
        mode: BpfMode = "auto", keyword,
            r#""auto" (use it where it works), "off", or "required" (do not start without it)"#,
            restart, flag("--bpf", "MODE", Relay);
        /// The cgroup v2 directory that they are attached to.
        cgroup: Option<PathBuf> = "", optional_path,
            r#"the path of a cgroup v2 directory, or "" to find the root of the hierarchy"#, restart;
        /// How many responses can be on the fast path at once.
        max_flows: u32 = "16384", flows, "a number from 1 to 1048576", restart;
    }
}

section! {
    /// How the cluster knows this node.
    pub struct NodeConfig in "node." {
        /// This node's name in the cluster's record.
        name: String = "", text, r#"a name that no other node of the cluster has, or "" for the host's own name"#, restart;
        /// Where controllers and edges reach this node.
        address: String = "", text,
            r#"HOST:PORT as controllers and edges reach this node, or "" for the first listener's"#, restart;
    }
}

section! {
    /// How it is found out what listens in containers.
    pub struct PortsConfig in "ports." {
        /// How often each network namespace is scanned for what listens there, though no change was reported.
        rescan: Duration = "60s", seconds::<1, 86400>, r#"a time from "1s" to "24h""#, restart;
    }
}

section! {
    /// The control socket, over which `portsplice ps`, `ports`, `top` and others ask the daemon.
    pub struct ControlConfig in "control." {
        /// Where the control socket is. Where the default cannot be made for want of permission, the daemon does without.
        socket: Option<PathBuf> = "/run/portsplice/node.sock", optional_path,
            r#"the path of the control socket, or "" to disable it"#, restart;
        /// The group whose members may use it beside root.
        group: String = "", text,
            r#"the name of a group whose members may use the control socket beside root, or "" for root alone"#, restart;
        /// Where the containers are kept that were registered over the control socket.
        state: Option<PathBuf> = "/run/portsplice/registered.json", optional_path,
            r#"the path of a file that outlives the daemon but not a reboot, or "" to forget registrations at shutdown"#,
            restart;
    }
    computed {
        /// Whether the socket is only the default, so that a daemon that may not make it there does as well without.
        socket_optional: bool = |given| given.is_default("control.socket");
    }
}

impl RoleSettings for Node {
    fn role() -> &'static Role {
        &NODE
    }

    fn shared(&self) -> &Shared {
        &self.shared
    }

    fn clients(&self) -> &ClientLimits {
        &self.clients
    }

    fn check(&self, listen: &[ListenConfig], problems: &mut Problems) {
        let secrets = &self.shared.secrets;
        if !secrets.has_root() && secrets.keys_dir.is_none() {
            problems.add(format!(
                "no secret is configured, so no request can be authenticated; name a file with `secrets.root-file` (--root-secret-file), a directory of keys with `secrets.keys-dir` (--keys-dir), or pass the systemd credential {ROOT_CREDENTIAL}"
            ));
        } else if !secrets.has_root()
            && let Some(listen) = listen.iter().find(|l| l.credentials.contains(&Scheme::Timestamp))
        {
            problems.add(format!(
                "listener {} accepts the credential `timestamp`, which is signed with the root secret; name its file with `secrets.root-file`, or remove `timestamp`",
                listen.address
            ));
        }
        self.node.problems().into_iter().for_each(|problem| problems.add(problem));
        self.registry.problems().into_iter().for_each(|problem| problems.add(problem));
        if self.containers.docker.is_none() && self.containers.directory.is_none() {
            problems.add(
                "neither `containers.docker` nor `containers.directory` is set, so no container can be found; set one of them",
            );
        }
    }
}

impl NodeConfig {
    /// What is wrong with it.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if !self.name.is_empty() && ContainerName::parse(&self.name).is_none() {
            problems.push(format!(
                "`node.name` is {:?}; write letters, digits, '.', '_' and '-', 255 at most, the first a letter or digit",
                self.name
            ));
        }
        if !self.address.is_empty() && authority(&self.address).is_none() {
            problems.push(format!(
                "`node.address` is {:?}; write HOST:PORT, such as \"node1.example:7450\" or \"[2001:db8::1]:7450\"",
                self.address
            ));
        }
        problems
    }
}
