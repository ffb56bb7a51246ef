//! A configuration or a secret that is not in order is an error that says what to do, before anything is served.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use portsplice_tests::net::Netns;
use portsplice_tests::node::{ListenOn, Node, NodeConfig, binary};
use portsplice_tests::origin::{Origin, contract};
use portsplice_tests::process::{Process, run, try_run};
use portsplice_tests::sign::Scheme;
use portsplice_tests::{pattern, privileged};

/// Starts the daemon, which must end with a failure before it is ready; gives what it said.
#[track_caller]
fn must_fail(mut command: Command) -> String {
    let (ok, out, err) = try_run(&mut command, None);
    assert!(!ok, "it started:\n{out}{err}");
    assert!(!out.contains("ready") && !err.contains("panicked"), "{out}{err}");
    err
}

/// Mistakes in the file, the environment and the flags: each is named with where it is.
#[test]
fn mistakes_are_named() {
    type Change = for<'a> fn(&'a mut NodeConfig) -> &'a mut NodeConfig;
    let cases: [(&str, Change, &[&str]); 9] = [
        ("unknown key", |c| c.set("limits", "head-tiemout", "\"1s\""), &["head-tiemout"]),
        ("unknown section", |c| c.set("limit", "head-timeout", "\"1s\""), &["limit"]),
        ("bad value", |c| c.set("limits", "head-timeout", "\"soon\""), &["limits.head-timeout", "soon"]),
        ("wrong type", |c| c.set("limits", "connections", "\"many\""), &["limits.connections", "many"]),
        ("bad word", |c| c.set("relay", "path", "\"teleport\""), &["relay.path", "teleport", "splice"]),
        ("bad environment", |c| c.env("PORTSPLICE_LOG_FORMAT", "xml"), &["PORTSPLICE_LOG_FORMAT", "xml"]),
        ("bad flag", |c| c.arg("--idle-timeout").arg("never"), &["--idle-timeout", "never"]),
        (
            "certificate without TLS",
            |c| {
                c.listen(vec![ListenOn { address: "127.0.0.1:0".into(), tls: false, credentials: vec!["certificate"] }])
            },
            &["certificate", "tls"],
        ),
        (
            "unknown credential",
            |c| c.listen(vec![ListenOn { address: "127.0.0.1:0".into(), tls: true, credentials: vec!["password"] }]),
            &["password", "bound"],
        ),
    ];
    for (what, change, names) in cases {
        let mut config = NodeConfig::new();
        change(&mut config);
        let site = config.site();
        let mut check = site.command(&config);
        check.arg("--check-config");
        for command in [site.command(&config), check] {
            let said = must_fail(command);
            for name in names {
                assert!(said.contains(name), "{what}: {name:?} is not in:\n{said}");
            }
        }
    }
}

/// Secrets that are missing, empty, or open to others: the message says how to mend it and not what the secret is.
#[test]
fn secrets_in_disorder() {
    let config = NodeConfig::new();
    for (what, mode, content, hint) in [
        ("readable by all", 0o644, "secret-of-the-cluster", "chmod"),
        ("readable by the group", 0o640, "secret-of-the-cluster", "chmod"),
        ("empty", 0o600, "", "empty"),
        ("only a line end", 0o600, "\n", "empty"),
    ] {
        let site = config.site();
        let root = site.path("root");
        std::fs::write(&root, content).expect("written");
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(mode)).expect("mode");
        let said = must_fail(site.command(&config));
        assert!(said.contains(hint), "{what}: {hint:?} is not in:\n{said}");
        assert!(!said.contains("secret-of-the-cluster"), "{what}: {said}");
    }
    let site = config.site();
    std::fs::remove_file(site.path("root")).expect("removed");
    let said = must_fail(site.command(&config));
    assert!(said.contains("root"), "{said}");
}

/// An address that is taken: the error names it.
#[test]
fn address_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let mut config = NodeConfig::new();
    config.listen(vec![ListenOn { address: address.clone(), tls: false, credentials: vec!["bound"] }]);
    let said = must_fail(config.site().command(&config));
    assert!(said.contains(&address), "{said}");
}

/// `--check-config` accepts what is good, and starts nothing.
#[test]
fn check_config() {
    let config = NodeConfig::new();
    let site = config.site();
    let mut command = site.command(&config);
    let out = run(command.arg("--check-config"), None);
    assert!(!out.contains("listening") && !out.contains(&site.root), "{out}");
}

/// `--check-config` and `check` tell when few files may be open for the connections that are wanted.
#[test]
fn few_files_are_told() {
    let mut config = NodeConfig::new();
    let site = config.open_files(1024).site();
    let (ok, _, err) = try_run(site.command(&config).arg("--check-config"), None);
    assert!(ok && err.contains("not the 10000 of `limits.connections`") && err.contains("LimitNOFILE=32768"), "{err}");
    config.set("limits", "connections", "100");
    site.configure(&config);
    let (ok, _, err) = try_run(site.command(&config).arg("--check-config"), None);
    assert!(ok && !err.contains("LimitNOFILE"), "{err}");
}

/// File, environment, flags: the later one counts.
#[test]
fn precedence() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let status = |config: &mut NodeConfig| {
        let node = config.container("here", &format!("netns = {:?}\n", netns.path())).start();
        let mut conn = node.connect("here", origin.port());
        conn.send("GET", &format!("/bytes/5?{}", "a".repeat(2000)), &[], b"");
        conn.any_head().status()
    };
    let mut config = NodeConfig::new();
    config.set("limits", "target-bytes", "1000");
    assert_eq!(status(&mut config), 414);
    assert_eq!(status(config.env("PORTSPLICE_LIMITS_TARGET_BYTES", "4000")), 200);
}

/// Flags alone are enough, without a file.
#[test]
fn flags_alone() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let mut config = NodeConfig::new();
    let site = config.container("here", &format!("netns = {:?}\n", netns.path())).site();
    let mut command = Command::new(binary());
    command.args(["node", "--listen", "tcp://127.0.0.1:0", "--listen", "tls://[::1]:0?credentials=certificate,bound"]);
    command.arg("--root-secret-file").arg(site.path("root")).arg("--containers-dir").arg(site.containers());
    command.args([
        "--docker",
        "",
        "--admin",
        "127.0.0.1:0",
        "--bpf",
        "off",
        "--log-level",
        "info",
        "--log-format",
        "json",
    ]);
    // No file of the machine's own may meddle.
    std::fs::write(site.path("empty.toml"), "").expect("written");
    command.env("PORTSPLICE_CONFIG", site.path("empty.toml"));
    command.env("PORTSPLICE_CONTROL_SOCKET", site.control()).env("PORTSPLICE_AUTH_USED_FILE", site.path("used"));
    let process = Process::spawn("portsplice node", &mut command, None);
    let node = Node::ready(site, process, None);
    assert_eq!((node.plain.len(), node.tls.len(), node.admin.is_some()), (1, 1, true));
    assert_eq!(node.connect("here", origin.port()).get("/bytes/5").body, pattern::bytes(5));
    use portsplice_tests::client::Version;
    for scheme in [Scheme::Bound, Scheme::Certificate] {
        let mut conn = node.connect_tls(Version::Tls13, scheme, "here", origin.port());
        assert_eq!(conn.get("/bytes/5").body, pattern::bytes(5));
    }
}

/// The systemd credential is the root secret when no file is named.
#[test]
fn systemd_credential() {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", contract::serve);
    let mut config = NodeConfig::new();
    config.set("secrets", "root-file", "\"\"").container("here", &format!("netns = {:?}\n", netns.path()));
    let site = config.site();
    std::fs::create_dir(site.path("credentials")).expect("a directory");
    portsplice_tests::node::write_secret(&site.path("credentials").join("portsplice.root"), &site.root);
    let mut command = site.command(&config);
    command.env("CREDENTIALS_DIRECTORY", site.path("credentials"));
    let process = Process::spawn("portsplice node", &mut command, None);
    let node = Node::ready(site, process, None);
    assert_eq!(node.connect("here", origin.port()).get("/bytes/5").body, pattern::bytes(5));
}

/// What a person asks a program first.
#[test]
fn version_help_completions_and_manual() {
    let portsplice = |args: &[&str]| run(Command::new(binary()).args(args), None);
    let version = portsplice(&["--version"]);
    assert!(version.starts_with("portsplice "), "{version}");
    assert!(portsplice(&["--help"]).contains("node"));
    let help = portsplice(&["node", "--help"]);
    for flag in ["--config", "--listen", "--check-config", "--keys-dir", "--drain-timeout"] {
        assert!(help.contains(flag), "{flag}");
    }
    for shell in ["bash", "zsh", "fish"] {
        assert!(portsplice(&["completions", shell]).contains("portsplice"), "{shell}");
    }
    let dir = tempfile::tempdir().expect("a directory");
    portsplice(&["man", "--dir", dir.path().to_str().expect("UTF-8")]);
    let pages = std::fs::read_dir(dir.path()).expect("a directory").count();
    assert!(pages >= 2, "{pages} pages");
    // Of a secret there is no flag.
    assert!(!help.contains("--root-secret <"), "{help}");
}
