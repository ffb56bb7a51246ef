//! The Debian package: its scripts, and the list of what is in it. (To build it takes minutes: `cargo xtask package`.)

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use portsplice_tests::privileged;
use portsplice_tests::process::run;
use serde_json::Value;

use crate::{repository, temporary, text};

const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

#[test]
fn scripts_are_plain_shell() {
    for script in SCRIPTS {
        let path = repository("packaging/debian").join(script);
        run(Command::new("dash").arg("-n").arg(&path), None);
        run(Command::new("shellcheck").args(["--shell", "dash"]).arg(&path), None);
    }
}

/// Runs a script for another root than the machine's, as `dpkg --root` does with `--force-script-chrootless`.
#[track_caller]
fn script(root: &Path, script: &str, args: &[&str]) -> String {
    let mut shell = Command::new("dash");
    shell.arg(repository("packaging/debian").join(script)).args(args);
    run(shell.env("DPKG_ROOT", root).env("DPKG_MAINTSCRIPT_PACKAGE", "portsplice"), None)
}

/// Puts a file of the repository to where the package has it.
#[track_caller]
fn unpack(root: &Path, from: &str, to: &str) {
    let to = root.join(to);
    fs::create_dir_all(to.parent().expect("a folder")).expect("made");
    fs::copy(repository(from), to).unwrap_or_else(|e| panic!("{from}: {e}"));
}

/// Installed, configured again, removed and purged in a root of its own: users and folders are made, the node's units are
/// enabled, an administrator's decision and secret are respected, and what the package made goes.
#[test]
fn scripts_install_and_purge() {
    if !privileged() {
        return;
    }
    let root = temporary();
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("etc")).expect("made");
    fs::write(at("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("written");
    fs::write(at("etc/group"), "root:x:0:\n").expect("written");
    for unit in ["portsplice-node.service", "portsplice-node.socket", "portsplice-edge.service"] {
        unpack(root.path(), &format!("packaging/systemd/{unit}"), &format!("usr/lib/systemd/system/{unit}"));
    }
    unpack(root.path(), "packaging/sysusers.d/portsplice.conf", "usr/lib/sysusers.d/portsplice.conf");
    unpack(root.path(), "packaging/tmpfiles.d/portsplice.conf", "usr/lib/tmpfiles.d/portsplice.conf");
    unpack(root.path(), "packaging/config/node.toml", "etc/portsplice/node.toml");

    let said = script(root.path(), "postinst", &["configure", ""]);
    assert!(said.contains("openssl rand") && said.contains("systemctl start portsplice-node"), "{said}");
    let (users, groups) = (fs::read_to_string(at("etc/passwd")), fs::read_to_string(at("etc/group")));
    assert!(users.expect("users").contains("portsplice-edge:"));
    assert!(groups.expect("groups").contains("\nportsplice:"));
    assert!(at("run/portsplice/containers").is_dir());
    let wanted = [
        at("etc/systemd/system/multi-user.target.wants/portsplice-node.service"),
        at("etc/systemd/system/sockets.target.wants/portsplice-node.socket"),
    ];
    assert!(wanted.iter().all(|link| link.is_symlink()), "{said}");
    assert!(!at("etc/systemd/system/multi-user.target.wants/portsplice-edge.service").exists());

    // A secret of a careless mode, and a node that shall not start at boot.
    fs::write(at("etc/portsplice/root.secret"), "secret").expect("written");
    fs::set_permissions(at("etc/portsplice/root.secret"), fs::Permissions::from_mode(0o644)).expect("mode");
    wanted.iter().for_each(|link| fs::remove_file(link).expect("removed"));
    let said = script(root.path(), "postinst", &["configure", "0.0.9-1"]);
    assert_eq!(said, "", "an upgrade has nothing to say");
    assert!(!wanted.iter().any(|link| link.is_symlink()));
    let mode = fs::metadata(at("etc/portsplice/root.secret")).expect("still there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    fs::create_dir_all(at("var/lib/portsplice")).expect("made");
    for (name, args) in [("prerm", "remove"), ("postrm", "remove"), ("postrm", "purge")] {
        script(root.path(), name, &[args]);
    }
    assert!(!at("var/lib/portsplice").exists() && !at("run/portsplice").exists());
    assert!(at("etc/portsplice/root.secret").exists(), "a secret is its owner's to delete");
}

/// What `[package.metadata.deb]` names is there, and what is in the folders of the package's files is named.
#[test]
fn assets_are_there_and_complete() {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"]);
    let metadata: Value = serde_json::from_str(&run(cargo.arg(repository("Cargo.toml")), None)).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let deb = &packages.iter().find(|package| package["name"] == "portsplice").expect("the package")["metadata"]["deb"];
    let sources = deb["assets"].as_array().expect("assets").iter().map(|asset| asset[0].as_str().expect("a path"));
    // What starts with target/ is made by `cargo xtask package`.
    let sources: Vec<_> = sources.filter(|source| !source.starts_with("target/")).collect();
    for source in &sources {
        let place = repository("proxy-userspace").join(source);
        match place.file_name().and_then(|name| name.to_str()).and_then(|name| name.split_once('*')) {
            None => assert!(place.is_file(), "{source}"),
            Some((start, end)) => {
                let names = fs::read_dir(place.parent().expect("a folder")).expect("a folder").flatten();
                let mut names = names.filter_map(|entry| entry.file_name().into_string().ok());
                assert!(names.any(|name| name.starts_with(start) && name.ends_with(end)), "{source}");
            }
        }
    }
    for folder in ["systemd", "sysusers.d", "tmpfiles.d", "config", "nginx", "kubernetes", "selinux"] {
        let folder = format!("../packaging/{folder}/");
        assert!(sources.iter().any(|source| source.starts_with(&folder)), "nothing of {folder} is packaged");
    }
    assert_eq!(deb["conf-files"], serde_json::json!(["/etc/portsplice/edge.toml", "/etc/portsplice/node.toml"]));
    assert!(text("packaging/debian/copyright").contains("Expat or Apache-2.0"));
}
