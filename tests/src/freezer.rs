//! Control groups whose processes stop and go on, as a paused container's.

use std::fs;
use std::path::{Path, PathBuf};

use crate::net::unique;
use crate::wait;

/// A control group of the test's own in a hierarchy that can be frozen; thawed and removed when dropped.
pub struct Freezer {
    top: PathBuf,
    group: PathBuf,
    interface: &'static Interface,
}

/// How a hierarchy is told to freeze, and says that it has.
struct Interface {
    /// The file that is written, and what stops and what goes on.
    ask: (&'static str, &'static str, &'static str),
    /// The file that tells, and its line when all stand still.
    told: (&'static str, &'static str),
}

const V1: Interface = Interface { ask: ("freezer.state", "FROZEN", "THAWED"), told: ("freezer.state", "FROZEN") };
const V2: Interface = Interface { ask: ("cgroup.freeze", "1", "0"), told: ("cgroup.events", "frozen 1") };

impl Freezer {
    /// One in each hierarchy of this machine that has a freezer: there may be one of cgroup v1 and one of v2.
    #[track_caller]
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mounts = fs::read_to_string("/proc/mounts").expect("/proc");
        let all: Vec<Self> = mounts.lines().filter_map(Self::on).collect();
        assert!(!all.is_empty(), "no freezer is mounted");
        all
    }

    fn on(mount: &str) -> Option<Self> {
        let fields: Vec<&str> = mount.split(' ').collect();
        let interface = match fields[2] {
            "cgroup2" => &V2,
            "cgroup" if fields[3].split(',').any(|option| option == "freezer") => &V1,
            _ => return None,
        };
        let top = PathBuf::from(fields[1]);
        let group = top.join(format!("portsplice-test-{}-{}", std::process::id(), unique()));
        fs::create_dir(&group).expect("a cgroup");
        Some(Self { top, group, interface })
    }

    /// Puts a process into it, with all its threads.
    #[track_caller]
    pub fn take(&self, pid: u32) {
        fs::write(self.group.join("cgroup.procs"), pid.to_string()).expect("it takes the process");
    }

    /// Stops all that is in it, and waits until it has.
    #[track_caller]
    pub fn freeze(&self) {
        let (file, stop, _) = self.interface.ask;
        fs::write(self.group.join(file), stop).expect("it takes the word");
        let (file, line) = self.interface.told;
        let frozen = || fs::read_to_string(self.group.join(file)).expect("it tells").lines().any(|found| found == line);
        wait::until_true("all stand still", frozen);
    }

    /// Lets it go on.
    #[track_caller]
    pub fn thaw(&self) {
        self.try_thaw().expect("it takes the word");
    }

    fn try_thaw(&self) -> std::io::Result<()> {
        let (file, _, go) = self.interface.ask;
        fs::write(self.group.join(file), go)
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        // A test that has failed is not failed again here. What is in it has to leave before it can be removed.
        let _ = self.try_thaw();
        let inside = fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.lines() {
            let _ = fs::write(Path::new(&self.top).join("cgroup.procs"), pid);
        }
        let _ = fs::remove_dir(&self.group);
    }
}
