//! Names of containers.

use std::fmt;

/// A name that can be a container's: a letter or digit, then letters, digits, `.`, `_` and `-`, 255 in all at most.
///
/// The characters are those of Docker's names and of Arvados's UUIDs, and no such name leads out of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerName<'b>(&'b str);

impl<'b> ContainerName<'b> {
    /// `None` when `name` can be no container's name.
    #[must_use]
    pub fn parse(name: &'b str) -> Option<Self> {
        let bytes = name.as_bytes();
        let legal = bytes.len() <= 255
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        legal.then_some(Self(name))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &'b str {
        self.0
    }
}

impl fmt::Display for ContainerName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
