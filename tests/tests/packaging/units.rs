//! The systemd units.

use std::fs;
use std::process::Command;

use portsplice_tests::node::binary;
use portsplice_tests::privileged;
use portsplice_tests::process::{run, try_run};

use crate::{kept_capabilities, manual, repository, temporary, text};

const UNITS: [&str; 3] = ["portsplice-node.service", "portsplice-node.socket", "portsplice-edge.service"];

/// systemd knows every line of them, and what they name is there: program, manual pages, other units.
#[test]
fn systemd_finds_nothing_to_say() {
    let root = temporary();
    let at = |path: &str| root.path().join(path);
    fs::create_dir_all(at("usr/bin")).expect("a directory");
    std::os::unix::fs::symlink(binary(), at("usr/bin/portsplice")).expect("a link");
    manual(&at("man"));
    let units = UNITS.map(|unit| {
        // The program is not installed: the units name another.
        let unit_text = text(&format!("packaging/systemd/{unit}"));
        let program = at("usr/bin/portsplice");
        let path = at(unit);
        fs::write(&path, unit_text.replace("/usr/bin/portsplice", program.to_str().expect("UTF-8"))).expect("written");
        path
    });
    let mut verify = Command::new("systemd-analyze");
    verify.arg("verify").args(units).env("MANPATH", at("man"));
    let (ok, out, err) = try_run(&mut verify, None);
    assert!(ok && out.is_empty() && err.is_empty(), "{out}{err}");
}

/// `systemd-analyze security` rates exposure from 0 to 10.
#[test]
fn exposure_is_low() {
    for (unit, most) in [("portsplice-node.service", 30), ("portsplice-edge.service", 15)] {
        let mut rate = Command::new("systemd-analyze");
        // The threshold is in tenths.
        rate.args(["security", "--offline=true", "--no-pager", &format!("--threshold={most}")]);
        run(rate.arg(repository("packaging/systemd").join(unit)), None);
    }
}

/// The unit leaves the daemon what it keeps by itself: less would break it, more would be for nothing.
#[test]
fn capabilities_are_those_that_the_daemon_keeps() {
    if !privileged() {
        return;
    }
    let unit = text("packaging/systemd/portsplice-node.service");
    let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).expect("a bounding set");
    let mut bounding: Vec<_> = line.split(' ').map(str::to_owned).collect();
    bounding.sort();
    assert_eq!(bounding, kept_capabilities());
}

/// The tests above know all of them.
#[test]
fn no_unit_is_forgotten() {
    for entry in fs::read_dir(repository("packaging/systemd")).expect("a folder").flatten() {
        let name = entry.file_name();
        assert!(UNITS.iter().any(|unit| *unit == name), "{name:?}");
    }
}
