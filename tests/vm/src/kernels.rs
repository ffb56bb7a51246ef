//! Which kernels: Debian's own, pinned by version and hash.

/// A kernel as Debian packs it.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// How it is called here: its series, or more where there are several of one.
    pub(crate) name: &'static str,
    /// The package.
    pub(crate) package: &'static str,
    /// The package's version.
    pub(crate) version: &'static str,
    /// The archive, by the label in its Release file.
    pub(crate) archive: &'static str,
    /// The package's folder in that archive.
    pub(crate) folder: &'static str,
    /// SHA-256 of the package.
    pub(crate) sha256: &'static str,
    /// What it stands for.
    pub(crate) note: &'static str,
}

/// Debian's archive of releases, where a version stays as long as its release is supported.
const RELEASES: &str = "Debian";
/// Debian's archive of security updates, which keeps the last few versions.
const SECURITY: &str = "Debian-Security";

/// All of them, the oldest first.
pub(crate) const ALL: [Kernel; 4] = [
    Kernel {
        name: "5.10",
        package: "linux-image-5.10.0-32-amd64",
        version: "5.10.223-1",
        archive: RELEASES,
        folder: "pool/main/l/linux-signed-amd64",
        sha256: "86a6792f3a03ab15a643f385830cdaa921f15e3e9c8bf63aa55a9243c62fc797",
        note: "Debian 11",
    },
    Kernel {
        name: "6.1",
        package: "linux-image-6.1.0-50-amd64",
        version: "6.1.176-1",
        archive: RELEASES,
        folder: "pool/main/l/linux-signed-amd64",
        sha256: "7b5597492a0a65aee61985a492e6bcc3f2cde830072a0e3b3d8c7e1b90279bd3",
        note: "Debian 12",
    },
    Kernel {
        name: "6.12",
        package: "linux-image-6.12.107+deb13-amd64",
        version: "6.12.107-1",
        archive: RELEASES,
        folder: "pool/main/l/linux-signed-amd64",
        sha256: "7794643cf4560de2a7e3b069e8ca8511ad2a568d652ea285f0fe051f79bc9e99",
        note: "Debian 13, with the FIONREAD fault of 6.12.75 to 6.12.113",
    },
    Kernel {
        name: "6.12.117",
        package: "linux-image-6.12.117+deb13-amd64",
        version: "6.12.117-1",
        archive: SECURITY,
        folder: "pool/updates/main/l/linux-signed-amd64",
        sha256: "ca712d36790184f6ac125ce2b20ea4e2202ae6bb7817b7de268f1f0115ccda73",
        note: "Debian 13 with security updates, without that fault",
    },
];

impl Kernel {
    /// The package's file name.
    pub(crate) fn file(&self) -> String {
        format!("{}_{}_amd64.deb", self.package, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_hashes_are_whole() {
        for (at, kernel) in ALL.iter().enumerate() {
            assert!(ALL[..at].iter().all(|other| other.name != kernel.name && other.sha256 != kernel.sha256));
            assert_eq!(hex::decode(kernel.sha256).map(|hash| hash.len()), Ok(32), "{}", kernel.name);
            assert!(kernel.version.starts_with(kernel.name), "{}", kernel.name);
        }
    }
}
