//! The table of all settings but the listeners. File, environment, flags, `--check-config` and the errors all work from it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::setting::{
    AnySetting, Setting, Shape, count, duration, flows, keyword, log_filter, optional_address, optional_path,
    optional_socket, path, seconds, size, size_or_none, switch, text, urls,
};
use super::{RegistryStore, RelayPath};
use crate::fastpath::BpfMode;
use crate::logging::LogFormat;
use portsplice_model::url::Url;

const TIMEOUT: &str = r#"a time such as "500ms", "10s", "5m" or "1h 30m"; "0s" turns the timeout off"#;
const USED: &str = r#"the path of a file that outlives the daemon, in which is kept which credentials were used on plain TCP, or "" to refuse all that were signed before the start"#;
const CAP: &str = "a number from 0 to 4294967295; 0 is no limit";

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $key:literal, $default:literal, $shape:ident, $parse:expr, $allowed:expr $(, $restart:ident)?;)*) => {
        $($(#[$doc])* pub static $name: Setting<$type> = Setting {
            key: $key,
            default: $default,
            allowed: $allowed,
            shape: Shape::$shape,
            restart: settings!(@restart $($restart)?),
            parse: $parse,
        };)*

        /// All settings, in the order in which they are shown.
        pub static ALL: &[&dyn AnySetting] = &[$(&$name),*];
    };
    (@restart restart) => { true };
    (@restart) => { false };
}

settings! {
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    ADMIN: Option<SocketAddr> = "admin", "", Text, optional_address,
        r#"an IP address and a port such as "127.0.0.1:9450" or "[::1]:9450" (port 0 takes a free one), or "" to turn it off"#, restart;
    /// How long running requests may go on after SIGTERM.
    DRAIN_TIMEOUT: Duration = "drain-timeout", "30s", Text, duration,
        r#"a time such as "30s" or "5m"; "0s" ends connections at once"#;
    /// Threads that connections are spread over.
    THREADS: usize = "threads", "0", Number, size::<0, 1024>, "a number from 1 to 1024, or 0 for one a processor", restart;

    /// What is logged.
    LOG_LEVEL: String = "log.level", "info", Text, log_filter,
        r#""error", "warn", "info", "debug" or "trace", or a list of filters such as "info,portsplice::container=debug""#;
    /// How log lines look.
    LOG_FORMAT: LogFormat = "log.format", "text", Text, keyword,
        r#""text" for people or "json" for machines"#, restart;
    /// Whether each request gets a line.
    LOG_ACCESS: bool = "log.access", "true", Switch, switch, "true or false";

    /// The file with the cluster's secret.
    ROOT_FILE: Option<PathBuf> = "secrets.root-file", "", Text, optional_path,
        r#"the path of a file that holds the cluster's secret, or "" for none"#;
    /// The directory with one key for each container.
    KEYS_DIR: Option<PathBuf> = "secrets.keys-dir", "", Text, optional_path,
        r#"the path of a directory with one file for each container, named by the container's uuid, or "" for none"#;

    /// Longest head of a request.
    HEAD_BYTES: usize = "limits.head-bytes", "65536", Number, size::<1024, 1_048_576>,
        "a number of bytes from 1024 to 1048576";
    /// Most fields of a request's head.
    HEAD_FIELDS: usize = "limits.head-fields", "128", Number, size::<16, 4096>, "a number from 16 to 4096";
    /// Longest request target.
    TARGET_BYTES: usize = "limits.target-bytes", "16384", Number, size::<256, 1_048_576>,
        "a number of bytes from 256 to 1048576";
    /// Longest field line of a request.
    FIELD_BYTES: usize = "limits.field-bytes", "0", Number, size_or_none::<256, 1_048_576>,
        "a number of bytes from 256 to 1048576, or 0 for as long as the head may be";
    /// Longest head of a response.
    RESPONSE_HEAD_BYTES: usize = "limits.response-head-bytes", "262144", Number, size::<1024, 1_048_576>,
        "a number of bytes from 1024 to 1048576";
    /// Most fields of a response's head.
    RESPONSE_HEAD_FIELDS: usize = "limits.response-head-fields", "1000", Number, size::<16, 16_384>,
        "a number from 16 to 16384";
    /// Most memory for request heads that are not whole yet.
    UNFINISHED_HEADS: usize = "limits.unfinished-heads-bytes", "67108864", Number, size::<1_048_576, 68_719_476_736>,
        "a number of bytes from 1048576 to 68719476736, for the unfinished request heads of all connections together; the first 4096 of each are not counted";
    /// From the first byte of a request head to its last.
    HEAD_TIMEOUT: Duration = "limits.head-timeout", "10s", Text, duration, TIMEOUT;
    /// For a TLS handshake.
    HANDSHAKE_TIMEOUT: Duration = "limits.handshake-timeout", "10s", Text, duration, TIMEOUT;
    /// For a connection to a container.
    CONNECT_TIMEOUT: Duration = "limits.connect-timeout", "5s", Text, duration, TIMEOUT;
    /// Between two requests of a connection.
    KEEP_ALIVE_TIMEOUT: Duration = "limits.keep-alive-timeout", "75s", Text, duration, TIMEOUT;
    /// Between two requests of a connection to a container.
    ORIGIN_IDLE_TIMEOUT: Duration = "limits.origin-idle-timeout", "1500ms", Text, duration, TIMEOUT;
    /// Without a byte in either direction.
    IDLE_TIMEOUT: Duration = "limits.idle-timeout", "1h", Text, duration, TIMEOUT;
    /// From a request's end to the end of its response's head.
    ANSWER_TIMEOUT: Duration = "limits.answer-timeout", "0s", Text, duration, TIMEOUT;
    /// Most connections of controllers.
    CONNECTIONS: u32 = "limits.connections", "10000", Number, count,
        "a number from 0 to 4294967295; 0 is no limit but that of open files, which leaves room for fewer where it is low";
    /// Most connections to one container.
    CONNECTIONS_PER_CONTAINER: u32 = "limits.connections-per-container", "512", Number, count, CAP;
    /// Most connections of one client address.
    CONNECTIONS_PER_CLIENT: u32 = "limits.connections-per-client", "1024", Number, count, CAP;

    /// Docker's socket.
    DOCKER: Option<PathBuf> = "containers.docker", "/var/run/docker.sock", Text, optional_socket,
        r#"the path of the Docker engine's unix socket, or "" to do without Docker"#, restart;
    /// Where runtimes register containers.
    DIRECTORY: Option<PathBuf> = "containers.directory", "/run/portsplice/containers", Text, optional_path,
        r#"the path of a directory with one TOML file for each registered container, or "" to do without"#, restart;
    /// Whether containers that share the host's network may be reached.
    ALLOW_HOST_NETWORK: bool = "containers.allow-host-network", "false", Switch, switch, "true or false", restart;
    /// Whether labels of images may claim names and publish ports.
    TRUST_IMAGE_LABELS: bool = "containers.trust-image-labels", "false", Switch, switch, "true or false", restart;
    /// How long a request waits for a listener.
    HOLD: Duration = "containers.hold", "0s", Text, duration,
        r#"a time such as "10s" that a request waits for a port that nothing listens on yet; "0s" does not wait"#;

    /// How far a credential's time may be from the node's clock.
    AUTH_WINDOW: Duration = "auth.window", "60s", Text, seconds::<1, 3600>, r#"a time from "1s" to "1h""#, restart;
    /// How many nonces are remembered.
    REPLAY_ENTRIES: usize = "auth.replay-entries", "4194304", Number, size::<1024, 268_435_456>,
        "a number from 1024 to 268435456; each takes 8 bytes of memory once used", restart;

    /// Where it is kept which credentials were used.
    USED_FILE: Option<PathBuf> = "auth.used-file", "/run/portsplice/used", Text, optional_path, USED, restart;
    /// Whether credentials from before the start are refused in any case.
    ONLY_SINCE_START: bool = "auth.only-since-start", "false", Switch, switch,
        "true (a daemon that starts anew refuses credentials that were signed before and hold on any connection: on plain TCP, and `timestamp`) or false (only where `auth.used-file` cannot tell which of them were used)", restart;

    /// How bytes are moved.
    RELAY_PATH: RelayPath = "relay.path", "auto", Text, keyword, r#""auto", "fast", "splice" or "copy""#;
    /// The size of a pipe between two sockets.
    PIPE_BYTES: usize = "relay.pipe-bytes", "1048576", Number, size::<4096, 16_777_216>,
        "a number of bytes from 4096 to 16777216";
    /// Pipes that are kept open though unused.
    IDLE_PIPES: usize = "relay.idle-pipes", "64", Number, size::<0, 65_536>, "a number from 0 to 65536";
    /// What may be held in all of answers whose containers have ended, for clients that read slowly.
    TAIL_BYTES: usize = "relay.tail-bytes", "268435456", Number, size::<0, 68_719_476_736>,
        "a number of bytes from 0 to 68719476736; of an ended container's answers more than this is lost after 10 s";

    /// Whether kernel programs are loaded.
    BPF_MODE: BpfMode = "bpf.mode", "auto", Text, keyword,
        r#""auto" (use it where it works), "off", or "required" (do not start without it)"#, restart;
    /// The cgroup they are attached to.
    BPF_CGROUP: Option<PathBuf> = "bpf.cgroup", "", Text, optional_path,
        r#"the path of a cgroup v2 directory, or "" to find the root of the hierarchy"#, restart;
    /// How many responses can be on the fast path at once.
    BPF_MAX_FLOWS: u32 = "bpf.max-flows", "16384", Number, flows, "a number from 1 to 1048576", restart;

    /// This node's name in the cluster's record.
    NODE_NAME: String = "node.name", "", Text, text,
        r#"a name that no other node of the cluster has, or "" for the host's own name"#, restart;
    /// Where controllers and edges reach this node.
    NODE_ADDRESS: String = "node.address", "", Text, text,
        r#"HOST:PORT as controllers and edges reach this node, or "" for the first listener's"#, restart;

    /// How often each namespace is asked what listens there, though nothing was heard of a change.
    PORTS_RESCAN: Duration = "ports.rescan", "60s", Text, seconds::<1, 86400>, r#"a time from "1s" to "24h""#, restart;

    /// The control socket.
    CONTROL_SOCKET: Option<PathBuf> = "control.socket", "/run/portsplice/node.sock", Text, optional_path,
        r#"the path of the control socket, or "" to do without"#, restart;
    /// Who, beside root, may use it.
    CONTROL_GROUP: String = "control.group", "", Text, text,
        r#"the name of a group whose members may use the control socket beside root, or "" for root alone"#, restart;
    /// Where the containers are kept that were registered over the control socket.
    CONTROL_STATE: Option<PathBuf> = "control.state", "/run/portsplice/registered.json", Text, optional_path,
        r#"the path of a file that outlives the daemon but not the machine, or "" to forget registrations at the end"#, restart;

    /// Where the cluster's record is kept.
    REGISTRY_STORE: RegistryStore = "registry.store", "none", Text, keyword,
        r#""none", "embedded" (a file on this host), "edge" (the record API of a `portsplice edge`), "etcd" or "arvados""#, restart;
    /// The embedded store's file.
    REGISTRY_PATH: PathBuf = "registry.path", "/var/lib/portsplice/registry.db", Text, path,
        "the path of a file; its directory is made if it is missing", restart;
    /// The other stores' place.
    REGISTRY_URL: Vec<Url> = "registry.url", "", Text, urls,
        r#"http:// or https:// and HOST:PORT (of etcd, several with commas between them), or """#, restart;
    /// What their certificates are checked against.
    REGISTRY_CA: Option<PathBuf> = "registry.ca-file", "", Text, optional_path,
        r#"the path of a PEM file of certificates, or "" for the system's"#, restart;
    /// The client's certificate for etcd.
    REGISTRY_CERTIFICATE: Option<PathBuf> = "registry.certificate", "", Text, optional_path,
        r#"the path of a PEM file with this node's certificate for etcd, or """#, restart;
    /// Its key.
    REGISTRY_KEY: Option<PathBuf> = "registry.key", "", Text, optional_path,
        r#"the path of a PEM file with the key of `registry.certificate`, or """#, restart;
    /// The secret that a store asks for.
    REGISTRY_TOKEN: Option<PathBuf> = "registry.token-file", "", Text, optional_path,
        r#"the path of a file with Arvados's token, or with USER:PASSWORD for etcd, or "" for none"#, restart;
    /// What etcd's keys begin with.
    REGISTRY_PREFIX: String = "registry.prefix", "/portsplice/", Text, text,
        "what all keys in etcd begin with", restart;
    /// Where it is noted which containers have accepted connections.
    REGISTRY_ACCEPTED: Option<PathBuf> = "registry.accepted-file", "/run/portsplice/accepted", Text, optional_path,
        r#"the path of a file that outlives the daemon but not the machine, or "" to forget at the end which containers have accepted connections"#, restart;
    /// How long a record outlives its node.
    REGISTRY_TTL: Duration = "registry.ttl", "15s", Text, seconds::<2, 3600>, r#"a time from "2s" to "1h""#, restart;
    /// How long news are collected before they are reported.
    REGISTRY_DEBOUNCE: Duration = "registry.debounce", "100ms", Text, duration, r#"a time such as "100ms""#, restart;
}
