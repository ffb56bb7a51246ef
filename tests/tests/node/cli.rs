//! The commands that need no privileges, run as a person would.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use portsplice_tests::sign::{container_key, hmac_hex};

fn portsplice(args: &[&str]) -> Command {
    let mut command = Command::new(portsplice_tests::node::binary());
    command.args(args).env_clear().stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    portsplice(args).output().unwrap()
}

fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn err(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

#[track_caller]
fn good(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", err(&output));
    assert_eq!(err(&output), "");
    out(&output).to_owned()
}

fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn the_version_tells_what_it_was_built_from() {
    let version = good(&["--version"]);
    assert!(version.starts_with(&format!("portsplice {} (commit ", env!("CARGO_PKG_VERSION"))), "{version}");
    assert!(version.contains(", built 20") && version.contains(", eBPF object sha256 "), "{version}");
    assert_eq!(good(&["-V"]).trim_end(), format!("portsplice {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_shell_gets_completions_that_know_the_flags() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = good(&["completions", shell]);
        assert!(script.contains("root-secret-file") && script.contains("log-level"), "{shell}");
    }
    assert_eq!(run(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn manual_pages_are_printed_or_written() {
    assert!(good(&["man"]).contains(".TH portsplice 1"));
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("made").join("man1");
    assert_eq!(good(&["man", "--dir", target.to_str().unwrap()]), "");
    for page in
        ["portsplice.1", "portsplice-node.1", "portsplice-sign.1", "portsplice-man.1", "portsplice-connections-close.1"]
    {
        let text = fs::read_to_string(target.join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    let output = run(&["man", "--dir", "/proc/nowhere"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).starts_with("error: cannot create the directory /proc/nowhere"), "{}", err(&output));
}

#[test]
fn without_a_daemon_it_is_3_and_says_what_to_do() {
    for args in [
        &["ps"] as &[&str],
        &["ports", "web"],
        &["connections"],
        &["connections", "close", "1"],
        &["events"],
        &["drain"],
        &["log-level", "debug"],
    ] {
        let output = run(&[args, &["--socket", "/nowhere/node.sock"]].concat());
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", err(&output));
        let text = err(&output);
        assert!(text.starts_with("error: no daemon at /nowhere/node.sock: start `portsplice node`"), "{text}");
    }
    let output = run(&["top"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("needs a terminal"), "{}", err(&output));
}

#[test]
fn a_reader_that_has_gone_is_no_panic() {
    for args in [&["completions", "zsh"] as &[&str], &["man"], &["--help"]] {
        let mut child = portsplice(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {:?}", output.status);
        assert_eq!(err(&output), "");
    }
}

#[test]
fn a_wrong_command_line_is_2_and_says_what_is_allowed() {
    for (args, expected) in [
        (&["node", "--idle-timeout", "5"] as &[&str], "turns the timeout off"),
        (&["node", "--max-connections", "many"], "0 is no limit"),
        (&["node", "--bpf", "maybe"], "\"required\""),
        (&["node", "--root-secret", "x"], "--root-secret-file"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&["sign", "--uuid", "a", "--port", "0", "--root-secret-file", "x"], "--port"),
        (&["sign", "--uuid", "a", "--port", "1"], "--root-secret-file"),
        (&["sign", "--uuid", "a", "--port", "1", "--key-file", "x", "--exporter", "00"], "64 hexadecimal digits"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
        assert!(err(&output).contains(expected), "{args:?}: {}", err(&output));
        assert_eq!(out(&output), "");
    }
}

#[test]
fn check_config_prints_what_it_would_run_with() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    write_secret(&root, "do-not-show\n");
    let file = dir.path().join("node.toml");
    fs::write(&file, format!("drain-timeout = \"7s\"\n[secrets]\nroot-file = {root:?}\n")).unwrap();
    let file = file.to_str().unwrap();
    // So few that no limit of open files is worth a warning.
    let output = portsplice(&[
        "node",
        "--config",
        file,
        "--check-config",
        "--max-connections",
        "10",
        "--listen",
        "tcp://[::1]:0",
        "--wait-for-port",
        "1s",
    ])
    .env("PORTSPLICE_LOG_LEVEL", "warn")
    .env("PORTSPLICE_PORT", "tcp://10.0.0.1:80")
    .output()
    .unwrap();
    assert!(output.status.success(), "{}", err(&output));
    for line in [
        &format!("drain-timeout = \"7s\"  # {file} line 1"),
        "level = \"warn\"  # environment variable PORTSPLICE_LOG_LEVEL",
        "wait-for-port = \"1s\"  # flag --wait-for-port",
        "idle-timeout = \"1h\"",
        "address = \"[::1]:0\"",
        "tls = false",
    ] {
        assert!(out(&output).lines().any(|l| l == line), "{line} is missing:\n{}", out(&output));
    }
    assert!(!out(&output).contains("do-not-show"));
    assert_eq!(err(&output), "warning: environment variable PORTSPLICE_PORT is not a setting and is ignored\n");

    // What was printed is a configuration that means the same.
    let printed = dir.path().join("printed.toml");
    fs::write(&printed, &output.stdout).unwrap();
    let again = good(&["node", "--config", printed.to_str().unwrap(), "--check-config"]);
    let settings =
        |text: &str| -> Vec<String> { text.lines().map(|l| l.split("  # ").next().unwrap().to_owned()).collect() };
    assert_eq!(settings(&again), settings(out(&output)));
}

#[test]
fn check_config_fails_with_everything_that_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("node.toml");
    let check = |text: &str| -> String {
        fs::write(&file, text).unwrap();
        let output = run(&["node", "--config", file.to_str().unwrap(), "--check-config"]);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert_eq!(out(&output), "");
        err(&output).to_owned()
    };
    let text = check("adnim = \"x\"\n[limits]\nidle-timeout = 5\n");
    assert!(text.starts_with("error: 4 mistakes in the configuration:\n"), "{text}");
    assert!(text.contains("line 1: unknown key `adnim`"), "{text}");
    assert!(text.contains("line 3: `limits.idle-timeout` is `5`"), "{text}");

    // Files that it names are read, too.
    let listen = "[[listen]]\naddress = \"127.0.0.1:0\"\n";
    let root = dir.path().join("root");
    let text = check(&format!("secrets.root-file = {root:?}\n{listen}"));
    assert!(text.contains("cannot open the secret file"), "{text}");
    fs::write(&root, "x").unwrap();
    fs::set_permissions(&root, Permissions::from_mode(0o644)).unwrap();
    let text = check(&format!("secrets.root-file = {root:?}\n{listen}"));
    assert!(text.contains("chmod 600"), "{text}");
    write_secret(&root, "x");
    let text = check(&format!(
        "secrets.root-file = {root:?}\n{listen}certificate-file = \"/nowhere/c\"\nkey-file = \"/nowhere/k\"\n"
    ));
    assert!(text.contains("cannot open /nowhere/c"), "{text}");

    let output = run(&["node", "--config", "/nowhere/node.toml", "--check-config"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("/nowhere/node.toml"), "{}", err(&output));
}

#[test]
fn signed_headers_are_those_of_the_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    write_secret(Path::new(&path("root")), "s3cr3t\n");
    let certificate = b"not really DER, but what is covered are bytes";
    fs::write(path("cert.der"), certificate).unwrap();
    let sign = |rest: &[&str]| -> Vec<String> {
        let args = [&["sign", "--uuid", "web", "--port", "80"] as &[&str], rest].concat();
        good(&args).lines().map(str::to_owned).collect()
    };
    let lines = sign(&["--root-secret-file", &path("root")]);
    assert_eq!(lines[0], "X-Arvados-Container-Gateway-Uuid: web");
    assert_eq!(lines[1], "X-Arvados-Container-Target-Port: 80");
    assert!(lines[2].starts_with("X-Arvados-Authorization: v1 t="), "{}", lines[2]);
    assert_eq!(lines.len(), 3);
    let by_root = sign(&["--root-secret-file", &path("root"), "--certificate", &path("cert.der")]);
    let timestamp = sign(&["--root-secret-file", &path("root"), "--scheme", "timestamp"]);
    assert_eq!(timestamp[2].split(' ').count(), 3, "{}", timestamp[2]);

    // The container's own key signs the same.
    write_secret(Path::new(&path("key")), &container_key("s3cr3t", "web"));
    let by_key = sign(&["--key-file", &path("key"), "--certificate", &path("cert.der")]);
    assert_eq!(by_key, by_root);
    assert_eq!(
        by_root[2],
        format!("X-Arvados-Authorization: {}", hmac_hex(container_key("s3cr3t", "web").as_bytes(), certificate))
    );
}

#[test]
fn signing_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    fs::File::create(&key).unwrap().write_all(b"zz").unwrap();
    let key = key.to_str().unwrap();
    for (rest, expected) in [
        (&["--uuid", "a/b", "--key-file", key] as &[&str], "is not a valid container name"),
        (&["--uuid", "a", "--key-file", key], "64 lower-case hexadecimal digits"),
        (&["--uuid", "a", "--key-file", "/nowhere"], "cannot read the secret file /nowhere"),
        (&["--uuid", "a", "--key-file", key, "--scheme", "timestamp"], "--root-secret-file"),
        (&["--uuid", "a", "--key-file", key, "--scheme", "certificate"], "--certificate-of HOST:PORT"),
        (&["--uuid", "a", "--key-file", key, "--scheme", "bound", "--certificate", key], "need `--scheme certificate`"),
        (&["--uuid", "a", "--key-file", key, "--certificate-of", "localhost"], "HOST:PORT"),
    ] {
        let output = run(&[&["sign", "--port", "1"], rest].concat());
        assert_eq!(output.status.code(), Some(1), "{rest:?}");
        assert!(err(&output).starts_with("error: ") && err(&output).contains(expected), "{rest:?}: {}", err(&output));
        assert_eq!(out(&output), "");
    }
}
