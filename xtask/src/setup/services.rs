//! Keeps packages from starting their services while they are installed: we want the programs, and to run them
//! ourselves, with our configuration, in our namespaces.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;

/// Asked by Debian's maintainer scripts before they start anything (invoke-rc.d(8)); 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

const TEXT: &str = "#!/bin/sh\n# Made by Portsplice's `cargo xtask setup` for as long as it runs; remove it if it is still here.\nexit 101\n";

/// While it lives, no package starts a service.
pub(super) struct Forbidden {
    ours: bool,
}

impl Forbidden {
    /// Puts the policy in place, unless the host has one of its own: then that is how its owner wants it.
    pub(super) fn new() -> anyhow::Result<Self> {
        let policy = Path::new(POLICY);
        // One that an interrupted setup left is ours to take over, and so to remove.
        let ours = !policy.exists() || fs::read_to_string(policy).is_ok_and(|text| text == TEXT);
        if ours {
            fs::write(policy, TEXT).with_context(|| format!("write {POLICY}"))?;
            fs::set_permissions(policy, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { ours })
    }
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = fs::remove_file(POLICY)
        {
            eprintln!("setup: please remove {POLICY}: {error}");
        }
    }
}
