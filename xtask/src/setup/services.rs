//! Keeps packages from starting their services while they are installed: we want the programs, and to run them
//! ourselves, with our configuration, in our namespaces.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Asked by Debian's maintainer scripts before they start anything (invoke-rc.d(8)); 101 means no.
const POLICY: &str = "/usr/sbin/policy-rc.d";

const TEXT: &str = "#!/bin/sh\n# Made by Portsplice's `cargo xtask setup` for as long as it runs; remove it if it is still here.\nexit 101\n";

/// While it lives, no package starts a service.
pub(super) struct Forbidden {
    /// The policy, if it is ours to remove.
    ours: Option<PathBuf>,
}

impl Forbidden {
    /// Puts the policy in place, unless the host has one of its own: then that is how its owner wants it.
    pub(super) fn new() -> anyhow::Result<Self> {
        Self::at(Path::new(POLICY))
    }

    fn at(policy: &Path) -> anyhow::Result<Self> {
        // One that an interrupted setup left is ours to take over, and so to remove.
        if policy.exists() && fs::read_to_string(policy).map_or(true, |text| text != TEXT) {
            return Ok(Self { ours: None });
        }
        fs::write(policy, TEXT).with_context(|| format!("write {}", policy.display()))?;
        fs::set_permissions(policy, fs::Permissions::from_mode(0o755))?;
        Ok(Self { ours: Some(policy.to_owned()) })
    }
}

impl Drop for Forbidden {
    fn drop(&mut self) {
        let Some(policy) = &self.ours else { return };
        if let Err(error) = fs::remove_file(policy) {
            eprintln!("setup: please remove {}: {error}", policy.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn ours_comes_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy-rc.d");
        for _ in 0..2 {
            let forbidden = Forbidden::at(&policy).unwrap();
            assert_eq!(Command::new(&policy).status().unwrap().code(), Some(101));
            drop(forbidden);
            assert!(!policy.exists());
            fs::write(&policy, TEXT).unwrap(); // as if interrupted
        }
    }

    #[test]
    fn the_hosts_own_stays() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy-rc.d");
        fs::write(&policy, "#!/bin/sh\nexit 0\n").unwrap();
        drop(Forbidden::at(&policy).unwrap());
        assert_eq!(fs::read_to_string(&policy).unwrap(), "#!/bin/sh\nexit 0\n");
    }
}
