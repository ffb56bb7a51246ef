//! What this binary was built from, found out by the build script.

/// The crate's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit in short, followed by `+dirty` if the sources differed from it; `unknown` without git.
pub const COMMIT: &str = env!("PORTSPLICE_COMMIT");

/// The day of the build in UTC, as `2026-01-31`; that of `SOURCE_DATE_EPOCH` when the build had it set.
pub const BUILD_DATE: &str = env!("PORTSPLICE_BUILD_DATE");

/// SHA-256 of the embedded eBPF object in hex; `none` when there is none.
pub const EBPF_SHA256: &str = env!("PORTSPLICE_EBPF_SHA256");

/// All of it in one line, as `portsplice --version` shows it after the program's name.
pub const LONG_VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("PORTSPLICE_COMMIT"),
    ", built ",
    env!("PORTSPLICE_BUILD_DATE"),
    ", eBPF object sha256 ",
    env!("PORTSPLICE_EBPF_SHA256"),
    ")"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_look_like_what_they_are() {
        let commit = COMMIT.strip_suffix("+dirty").unwrap_or(COMMIT);
        assert!(commit == "unknown" || commit.len() >= 12 && commit.bytes().all(|b| b.is_ascii_hexdigit()), "{COMMIT}");
        assert!(humantime::parse_rfc3339(&format!("{BUILD_DATE}T00:00:00Z")).is_ok(), "{BUILD_DATE}");
        let hash = EBPF_SHA256.len() == 64 && EBPF_SHA256.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(EBPF_SHA256 == "none" || hash, "{EBPF_SHA256}");
        for part in [VERSION, COMMIT, BUILD_DATE, EBPF_SHA256] {
            assert!(LONG_VERSION.contains(part));
        }
    }
}
