//! The socket's file: made so that nobody else can use it for a moment, replaced after a crash, removed at the end; and who
//! may connect to it.
//!
//! A file beside it with `.lock` behind the name is locked as long as the daemon lives (flock(2)), which a crash undoes: so a
//! socket that is there while the lock can be had is left over.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::group;
use portsplice_files::lock_file;

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 128;

/// Where the control socket is, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketSettings {
    /// The socket's path; `None` is no socket.
    pub path: Option<PathBuf>,
    /// Whether the path is only the default, so that a daemon that may not make the socket there does as well without.
    pub optional: bool,
    /// The group whose members may use it beside root; empty is root alone.
    pub group: String,
}

/// A control socket that listens and is not served yet.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    access: Access,
    file: SocketFile,
}

/// The socket's file; removed when this is dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that nobody else's is removed.
    identity: (u64, u64),
    _lock: File,
}

/// Who may use the socket.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// The daemon's own user, beside root.
    uid: u32,
    gid: Option<u32>,
}

impl ControlSocket {
    /// Makes the socket; none if the configuration wants none.
    ///
    /// To be called before the process gives up privileges, since it may take one to give the file to a group.
    ///
    /// # Errors
    /// When it cannot be had, because another daemon has it, say. The text says what to do.
    pub fn bind(settings: &SocketSettings) -> Result<Option<Self>> {
        let Some(path) = &settings.path else { return Ok(None) };
        let bound = Self::bind_to(path, &settings.group);
        if let Err(error) = &bound
            && settings.optional
            && is_denied(error)
        {
            tracing::warn!(
                "no control socket: it is not configured and {} cannot be created: {error:#}",
                path.display()
            );
            return Ok(None);
        }
        bound.map(Some).with_context(|| {
            format!(
                "the control socket {}; set `control.socket` to another path, or to \"\" to disable it",
                path.display()
            )
        })
    }

    fn bind_to(path: &Path, group: &str) -> Result<Self> {
        let gid = match group {
            "" => None,
            name => Some(group::id(name)?.with_context(|| {
                format!("group {name:?} does not exist: create it with `groupadd {name}`, or correct `control.group`")
            })?),
        };
        make_directory(path)?;
        let lock = lock(path)?;
        remove_leftover(path)?;
        let listener = listen(path).context("cannot listen on it")?;
        let file = SocketFile::of(path, lock)?;
        if let Some(gid) = gid {
            std::os::unix::fs::chown(path, None, Some(gid))
                .with_context(|| format!("cannot give it to the group {group}"))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o660)).context("cannot set its mode")?;
        }
        let access = Access { uid: rustix::process::geteuid().as_raw(), gid };
        Ok(Self { listener, access, file })
    }

    /// The socket for a runtime, who may connect to it, and its file.
    ///
    /// # Errors
    /// When the runtime cannot take it. Must be called within one.
    pub fn into_parts(self) -> io::Result<(tokio::net::UnixListener, Access, SocketFile)> {
        self.listener.set_nonblocking(true)?;
        Ok((tokio::net::UnixListener::from_std(self.listener)?, self.access, self.file))
    }
}

impl SocketFile {
    fn of(path: &Path, lock: File) -> Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the control socket's file");
        }
    }
}

impl Access {
    /// Whether the peer may use the socket: by its credentials at the time when it connected (unix(7), `SO_PEERCRED`,
    /// `SO_PEERGROUPS`), whatever the file's mode has let through.
    ///
    /// # Errors
    /// A sentence for the peer.
    pub fn check(&self, stream: &tokio::net::UnixStream) -> Result<(), String> {
        let refused = "only root may use this socket";
        let peer = stream.peer_cred().map_err(|error| format!("{refused}, and your identity is unknown: {error}"))?;
        if peer.uid() == 0 || peer.uid() == self.uid {
            return Ok(());
        }
        let Some(gid) = self.gid else { return Err(format!("{refused}, or the group that `control.group` names")) };
        let member = peer.gid() == gid || group::of_peer(stream.as_raw_fd()).is_ok_and(|groups| groups.contains(&gid));
        if member { Ok(()) } else { Err(format!("{refused} and members of the group with the number {gid}")) }
    }
}

/// Whether it failed because this process may not.
fn is_denied(error: &anyhow::Error) -> bool {
    let denied =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
    error.chain().filter_map(|cause| cause.downcast_ref()).any(denied)
}

/// Most systems empty /run when they start.
fn make_directory(path: &Path) -> Result<()> {
    let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) else { return Ok(()) };
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .with_context(|| format!("cannot create the directory {}", directory.display()))
}

fn lock(path: &Path) -> Result<File> {
    lock_file::lock(path).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => anyhow::anyhow!("another daemon is using it: stop that one first"),
        _ => anyhow::Error::new(error).context(format!("cannot lock {}.lock", path.display())),
    })
}

/// Removes the socket of a daemon that has crashed. Nobody else is robbed of theirs.
fn remove_leftover(path: &Path) -> Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("cannot examine it"),
    };
    ensure!(metadata.file_type().is_socket(), "something else exists at this path");
    match UnixStream::connect(path) {
        Ok(_) => bail!("another program is listening on it"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).context("cannot remove the socket left by a crashed daemon")
        }
        Err(error) => Err(error).context("cannot determine whether anybody is listening on it"),
    }
}

/// A listening socket whose file has the mode 0600 from the beginning.
fn listen(path: &Path) -> Result<UnixListener> {
    let address = SocketAddrUnix::new(path).context("the path is too long for a socket: the maximum is 107 bytes")?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The file that bind(2) makes has the mode of the socket, less the umask (net/unix/af_unix.c, unix_bind_bsd).
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_roots_alone_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made").join("node.sock");
        let socket = ControlSocket::bind_to(&path, "").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_crash_leaves_is_replaced_and_what_is_used_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = ControlSocket::bind_to(&path, "").unwrap();
        let error = format!("{:#}", ControlSocket::bind_to(&path, "").unwrap_err());
        assert!(error.contains("another daemon is using it"), "{error}");
        drop(socket);
        let _other = UnixListener::bind(&path).unwrap();
        let error = format!("{:#}", ControlSocket::bind_to(&path, "").unwrap_err());
        assert!(error.contains("another program is listening"), "{error}");
    }

    #[test]
    fn nothing_else_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.sock");
        fs::write(&path, "mine").unwrap();
        let error = format!("{:#}", ControlSocket::bind_to(&path, "").unwrap_err());
        assert!(error.contains("something else"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        fs::remove_file(&path).unwrap();

        // A socket that took the place of ours meanwhile stays.
        let socket = ControlSocket::bind_to(&path, "").unwrap();
        fs::remove_file(&path).unwrap();
        let _new = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn the_default_is_done_without_where_it_may_not_be_made() {
        let settings =
            |optional| SocketSettings { path: Some("/proc/nowhere/node.sock".into()), optional, group: String::new() };
        // Not for want of permission: there is no making directories in /proc.
        assert!(ControlSocket::bind(&settings(true)).is_err() && ControlSocket::bind(&settings(false)).is_err());
        let denied = anyhow::Error::from(io::Error::from_raw_os_error(libc::EACCES)).context("cannot make it");
        assert!(is_denied(&denied) && !is_denied(&anyhow::anyhow!("another daemon is using it")));
    }

    #[test]
    fn mistakes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = format!("{:#}", ControlSocket::bind_to(&dir.path().join("x"), "no-such-group-here").unwrap_err());
        assert!(error.contains("groupadd no-such-group-here"), "{error}");
        let error = format!("{:#}", ControlSocket::bind_to(&dir.path().join("x".repeat(120)), "").unwrap_err());
        assert!(error.contains("too long"), "{error}");
    }
}
