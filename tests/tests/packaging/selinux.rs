//! The SELinux policy module.

use std::fs;
use std::process::Command;

use portsplice_tests::process::run;

use crate::{repository, temporary};

/// It compiles against the reference policy. Whether it allows all that the daemon does takes a system that enforces it.
#[test]
fn the_module_compiles() {
    let dir = temporary();
    for part in ["te", "fc", "if"] {
        let name = format!("portsplice.{part}");
        fs::copy(repository("packaging/selinux").join(&name), dir.path().join(&name)).expect("copied");
    }
    let mut make = Command::new("make");
    make.args(["-f", "/usr/share/selinux/devel/Makefile", "portsplice.pp"]).current_dir(dir.path());
    run(make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL"), None);
    let package = fs::read(dir.path().join("portsplice.pp")).expect("a policy package");
    // SEPOL_PACKAGE_MAGIC of libsepol.
    assert_eq!(package[..4], 0xf97c_ff8f_u32.to_le_bytes());
}
