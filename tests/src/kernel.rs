//! What a daemon has running inside the kernel, seen from outside.

use std::collections::BTreeSet;
use std::process::Command;

use crate::process::{run, try_run};

/// Programs, maps and links of eBPF by the kernel's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Programs.
    pub programs: BTreeSet<u32>,
    /// Maps, also those that only a program refers to.
    pub maps: BTreeSet<u32>,
    /// Links: what keeps a program attached.
    pub links: BTreeSet<u32>,
}

impl Objects {
    /// Those that a process holds by its descriptors (proc_pid_fdinfo(5)).
    #[track_caller]
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let mut objects = Self::default();
        for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("it runs").flatten() {
            // It may be closed by now.
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let number = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
            objects.maps.extend(number("map_id:"));
            match number("link_id:") {
                // A link's description names its program, too.
                Some(link) => drop(objects.links.insert(link)),
                None => objects.programs.extend(number("prog_id:")),
            }
        }
        let used: Vec<u32> = objects.programs.iter().flat_map(|&program| maps_of(program)).collect();
        objects.maps.extend(used);
        objects
    }

    /// Those of them that are still there.
    #[track_caller]
    #[must_use]
    pub fn remaining(&self) -> Self {
        let there = |kind: &str, ids: &BTreeSet<u32>| {
            let alive =
                |id: &&u32| try_run(Command::new("bpftool").args([kind, "show", "id", &id.to_string()]), None).0;
            ids.iter().filter(alive).copied().collect()
        };
        Self {
            programs: there("prog", &self.programs),
            maps: there("map", &self.maps),
            links: there("link", &self.links),
        }
    }
}

/// The maps that a program uses.
#[track_caller]
fn maps_of(program: u32) -> Vec<u32> {
    let text = run(Command::new("bpftool").args(["-j", "prog", "show", "id", &program.to_string()]), None);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let ids = value.get("map_ids").and_then(serde_json::Value::as_array).into_iter().flatten();
    ids.filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}
