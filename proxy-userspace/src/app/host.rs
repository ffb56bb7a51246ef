//! What this host is called.

use std::path::Path;

const HOSTNAME: &str = "/proc/sys/kernel/hostname";

/// The host's name; empty where it cannot be read.
pub(super) fn hostname() -> String {
    read(Path::new(HOSTNAME))
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_a_name_has_an_empty_one() {
        assert_eq!(read(Path::new("/nonexistent")), "");
    }
}
