//! What both daemons are configured with.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::setting::section;
use super::value::{
    Keyword, count, duration, keyword, log_filter, optional_address, optional_path, seconds, size, switch,
};
use crate::logging::LogFormat;

/// What is allowed for a timeout that can be switched off.
pub(super) const TIMEOUT: &str = r#"a time such as "500ms", "10s", "5m" or "1h 30m"; "0s" turns the timeout off"#;
/// What is allowed for a cap that can be switched off.
pub(super) const CAP: &str = "a number from 0 to 4294967295; 0 is no limit";
/// What is allowed for a switch.
pub(super) const SWITCH: &str = "true or false";

section! {
    /// What both daemons are configured with.
    pub struct Shared in "" {
        /// Where `/metrics`, `/healthz` and `/readyz` are served, such as `127.0.0.1:9450`.
        admin: Option<SocketAddr> = "", optional_address,
            r#"an IP address and a port such as "127.0.0.1:9450" or "[::1]:9450" (port 0 takes a free one), or "" to turn it off"#,
            restart, flag("--admin", "ADDRESS", Listeners);
        /// How long running requests may go on after SIGTERM.
        drain_timeout: Duration = "30s", duration, r#"a time such as "30s" or "5m"; "0s" ends connections at once"#,
            reload, flag("--drain-timeout", "TIME", Limits);
    }
    sections {
        /// `[log]`
        log: LogConfig,
        /// `[secrets]`
        secrets: SecretsConfig,
        /// `[auth]`
        auth: AuthConfig,
    }
}

impl Keyword for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

section! {
    /// What is logged, and how.
    pub struct LogConfig in "log." {
        /// Which lines are logged: those of a level and above, or what a list of filters lets through (the syntax is that of
        /// `tracing_subscriber::EnvFilter`).
        level: String = "info", log_filter,
            r#""error", "warn", "info", "debug" or "trace", or a list of filters such as "info,portsplice::container=debug""#,
            reload, flag("--log-level", "LEVEL", Logs);
        /// How log lines look: text for people, or one JSON object per line for machines.
        format: LogFormat = "text", keyword, r#""text" for people or "json" for machines"#,
            restart, flag("--log-format", "FORMAT", Logs);
    }
}

section! {
    /// Where secrets are read from.
    pub struct SecretsConfig in "secrets." {
        /// The file (mode 600) with the cluster's root secret. Without one, the systemd credential `portsplice.root`
        /// (`LoadCredential=portsplice.root:PATH` in the unit) is the root secret, if it was passed.
        root_file: Option<PathBuf> = "", optional_path,
            r#"the path of a file that holds the cluster's secret, or "" for none"#,
            reload, flag("--root-secret-file", "FILE", Secrets);
        /// The directory with one key for each container, in files (mode 600) named by the containers' uuids.
        keys_dir: Option<PathBuf> = "", optional_path,
            r#"the path of a directory with one file for each container, named by the container's uuid, or "" for none"#,
            reload, flag("--keys-dir", "DIR", Secrets);
    }
    computed {
        /// Where the service manager put the credential [`super::ROOT_CREDENTIAL`]; only when it is there and no root file is
        /// named.
        credentials_directory: Option<PathBuf> = |given| {
            if given.is_empty("secrets.root-file") { given.root_credential() } else { None }
        };
    }
}

impl SecretsConfig {
    /// Whether the root secret is among them.
    pub fn has_root(&self) -> bool {
        self.root_file.is_some() || self.credentials_directory.is_some()
    }
}

section! {
    /// Bounds on what clients may use, whatever they ask for. Zero timeouts and zero caps are off.
    pub struct ClientLimits in "limits." {
        /// For a TLS handshake.
        handshake_timeout: Duration = "10s", duration, TIMEOUT, reload;
        /// Between two requests of a connection.
        keep_alive_timeout: Duration = "75s", duration, TIMEOUT, reload, flag("--keep-alive-timeout", "TIME", Limits);
        /// Most connections of clients at a time; 0 is no limit.
        connections: u32 = "10000", count,
            "a number from 0 to 4294967295; 0 is no limit except that of open files",
            reload, flag("--max-connections", "N", Limits);
        /// Maximum number of connections from one client address; 0 is no limit.
        connections_per_client: u32 = "1024", count, CAP, reload, flag("--max-connections-per-client", "N", Limits);
    }
}

section! {
    /// How credentials are checked.
    pub struct AuthConfig in "auth." {
        /// How far a credential's time may be from the daemon's clock, either way.
        window: Duration = "60s", seconds::<1, 3600>, r#"a time from "1s" to "1h""#, restart;
        /// How many nonces are remembered, so that no credential is used twice.
        replay_entries: usize = "4194304", size::<1024, 268_435_456>,
            "a number from 1024 to 268435456; each takes 8 bytes of memory once used", restart;
        /// Where it is kept, for the daemon that starts next, which credentials were used that hold on any connection.
        used_file: Option<PathBuf> = "/run/portsplice/used", optional_path,
            r#"the path of a file that outlives the daemon and records which credentials were used on plain TCP, or "" to refuse all that were signed before the start"#,
            restart;
        /// Whether credentials that were signed before the start and hold on any connection are refused although it is known
        /// which of them were used. A client whose clock is slow is refused for as long.
        only_since_start: bool = "false", switch,
            "true (after a restart, refuse credentials that were signed before it and are valid on any connection: on plain TCP, and `timestamp`) or false (only where `auth.used-file` does not show which of them were used)",
            restart;
    }
}
