//! Files that the configuration names, or that lie in a directory that it names: read without ever waiting for anybody.
//!
//! A fifo, a device or a file under somebody's lease in such a place would hold whoever opens or reads it for as long as the other
//! end likes, a reload and the end of the daemon with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

/// Opens a regular file for reading; follows links.
///
/// # Errors
/// The error of `open(2)`, `WouldBlock` for a file under a lease; `InvalidInput` if it is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

/// Reads a file of at most `most` bytes. What was read is wiped when it is dropped, and leaves no copies behind.
///
/// # Errors
/// As for [`open`], and those of `read(2)`; `FileTooLarge` if there is more.
pub fn read(path: &Path, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    read_opened(&open(path)?, most)
}

/// The same of a file that was [opened](open) before.
///
/// # Errors
/// As for [`read`].
pub fn read_opened(mut file: &File, most: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {most} bytes"));
    let size = file.metadata()?.len();
    if size > most {
        return Err(too_large());
    }
    // Sized in advance: a growing vector would leave copies behind.
    let room = usize::try_from(size).map_err(|_| too_large())?;
    let mut content = Zeroizing::new(Vec::with_capacity(room + 1));
    file.by_ref().take(most + 1).read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(too_large());
    }
    Ok(content)
}

/// The same as text.
///
/// # Errors
/// As for [`read`]; `InvalidData` if it is not UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<Zeroizing<String>> {
    text_of(&read(path, most)?)
}

/// Contents as text.
///
/// # Errors
/// `InvalidData` if they are not UTF-8.
pub fn text_of(content: &[u8]) -> io::Result<Zeroizing<String>> {
    let text = std::str::from_utf8(content).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// Takes the line end off a secret that an editor has added.
pub fn strip_line_end(secret: &mut Vec<u8>) {
    while let [.., b'\n' | b'\r'] = secret[..] {
        secret.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_holds_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        for path in [&*fifo, &link, dir.path(), Path::new("/dev/zero")] {
            assert_eq!(open(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path:?}");
        }
    }

    #[test]
    fn no_more_is_read_than_was_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(&**read_text(&path, 5).unwrap(), "12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        // Its size tells nothing.
        assert_eq!(read(Path::new("/proc/self/status"), 16).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(read(Path::new("/proc/self/status"), 1 << 20).is_ok());
        std::fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_text(&path, 5).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn only_line_ends_are_taken_off() {
        for (text, secret) in [("a\r\n", "a"), ("a b \n\n", "a b "), ("\na", "\na"), ("\r\n", ""), ("", "")] {
            let mut bytes = text.as_bytes().to_vec();
            strip_line_end(&mut bytes);
            assert_eq!(bytes, secret.as_bytes(), "{text:?}");
        }
    }
}
