//! What is mounted where: `/proc/PID/mountinfo`, proc_pid_mountinfo(5).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What of the file system is seen there: `/` is all of it. File systems without directories have other names here, for
    /// example `net:[4026531840]`.
    pub root: PathBuf,
    /// Where it is seen.
    pub point: PathBuf,
    /// The type of the file system, such as `cgroup2`.
    pub kind: String,
    /// The file system's own options.
    pub options: Vec<String>,
}

/// The mounts that the text of a mountinfo lists, in its order: a later one may hide an earlier one. Lines that do not have
/// the form are left out.
pub fn parse(mountinfo: &[u8]) -> impl Iterator<Item = Mount> {
    mountinfo.split(|&byte| byte == b'\n').filter_map(mount)
}

/// id, parent's id, device, root, mount point, options of the mount, optional fields, `-`, type, source, options.
fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (root, point) = (fields.nth(3)?, fields.next()?);
    let mut fields = fields.skip_while(|&field| field != b"-").skip(1);
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let options = String::from_utf8_lossy(fields.nth(1).unwrap_or_default()).split(',').map(str::to_owned).collect();
    Some(Mount { root: path(root), point: path(point), kind, options })
}

/// A path as the kernel writes it: space, tab, newline and backslash are three octal digits after a backslash.
fn path(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| byte == b'\\').and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        path.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    PathBuf::from(OsString::from_vec(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn optional_fields_and_escapes() {
        let text = b"41 31 0:38 /sub /a\\040b\\134c rw,nosuid shared:1 master:2 - cgroup none rw,cpu,freezer\n\
                     301 28 0:4 net:[4026532281] /run/netns/web rw - nsfs nsfs rw\n\
                     303 28 0:25 / /x rw - tmpfs";
        let mounts: Vec<Mount> = parse(text).collect();
        assert_eq!(mounts.len(), 3);
        assert_eq!((mounts[0].root.as_path(), mounts[0].point.as_path()), (Path::new("/sub"), Path::new("/a b\\c")));
        assert_eq!((&*mounts[0].kind, mounts[0].options.join("+")), ("cgroup", "rw+cpu+freezer".to_owned()));
        assert_eq!((mounts[1].root.as_os_str(), &*mounts[1].kind), ("net:[4026532281]".as_ref(), "nsfs"));
        assert_eq!(mounts[2].options, [""], "no options are none that anybody looks for");
        assert_eq!(path(b"\\9\\04"), Path::new("\\9\\04"));
    }

    #[test]
    fn nonsense_is_left_out() {
        for text in ["", "\n", "1 2 - ", "31 23 0:28 / /sys", "31 23 0:28 / /sys rw tmpfs tmpfs rw", "- - - - - -"] {
            assert_eq!(parse(text.as_bytes()).next(), None, "{text:?}");
        }
    }

    #[test]
    fn this_process_has_a_root() {
        let text = std::fs::read("/proc/self/mountinfo").unwrap();
        assert!(parse(&text).any(|mount| mount.point == Path::new("/")));
    }
}
