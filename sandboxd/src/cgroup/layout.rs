//! Which cgroup hierarchies are mounted, from `/proc/self/mountinfo` (proc_pid_mountinfo(5), cgroups(7)).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::error::CgroupError;

/// A v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct V1 {
    pub mount: PathBuf,
    /// "cpu", "cpuacct", …; "name=systemd" for a named one.
    pub controllers: BTreeSet<String>,
}

/// The hierarchies of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub v1: Vec<V1>,
    pub v2: Option<PathBuf>,
}

impl Layout {
    /// Reads the hierarchies mounted at or under `root`.
    pub(super) fn parse(mountinfo: &str, root: &Path) -> Result<Self, CgroupError> {
        let mut layout = Self { v1: Vec::new(), v2: None };
        for line in mountinfo.lines() {
            // 36 35 98:0 ROOT MOUNT OPTIONS [OPTIONAL…] - TYPE SOURCE SUPER
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let (Some(mount), mut after) = (before.split(' ').nth(4), after.split(' ')) else { continue };
            let mount = PathBuf::from(unescape(mount));
            if !mount.starts_with(root) {
                continue;
            }
            match after.next() {
                Some("cgroup2") => {
                    layout.v2.get_or_insert(mount);
                }
                Some("cgroup") => {
                    let options = after.nth(1).unwrap_or_default().split(',');
                    let controllers: BTreeSet<String> =
                        options.filter(|o| is_controller(o)).map(str::to_owned).collect();
                    // The same hierarchy may be mounted twice (cpu and cpuacct links, bind mounts).
                    if !layout.v1.iter().any(|h| h.controllers == controllers) {
                        layout.v1.push(V1 { mount, controllers });
                    }
                }
                _ => {}
            }
        }
        if layout.v1.is_empty() && layout.v2.is_none() {
            return Err(CgroupError::NotMounted { root: root.to_owned() });
        }
        Ok(layout)
    }

    /// "v1", "v2", or "hybrid": controllers on v1 beside a cgroup2 without any.
    pub(super) fn name(&self) -> &'static str {
        match (self.v1.is_empty(), self.v2.is_some()) {
            (true, _) => "v2",
            (false, true) => "hybrid",
            (false, false) => "v1",
        }
    }

    /// Whether limits are v2's.
    pub(super) fn is_v2(&self) -> bool {
        self.v1.is_empty()
    }

    /// The v1 hierarchy of a controller.
    pub(super) fn v1_of(&self, controller: &str) -> Option<&V1> {
        self.v1.iter().find(|h| h.controllers.contains(controller))
    }

    /// Every hierarchy's mount point. On a hybrid machine the cgroup2 is one too: it limits next to nothing,
    /// but it gives the pod a cgroup id, `cgroup.kill` and pressure stalls.
    pub(super) fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.v1.iter().map(|h| h.mount.as_path()).chain(self.v2.as_deref())
    }
}

/// Super options that are no controllers (`cgroup1_show_options`).
fn is_controller(option: &str) -> bool {
    const OTHERS: [&str; 9] =
        ["rw", "ro", "none", "noprefix", "xattr", "clone_children", "favordynmods", "cpuset_v2_mode", ""];
    !OTHERS.contains(&option) && !option.starts_with("release_agent=")
}

/// Octal escapes of mountinfo: space, tab, newline, backslash.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
42 31 0:39 / /mnt/elsewhere rw - cgroup cgroup rw,memory
";

    #[test]
    fn hybrid_v1_v2_and_none() {
        let root = Path::new("/sys/fs/cgroup");
        let layout = Layout::parse(HYBRID, root).unwrap();
        assert_eq!((layout.name(), layout.is_v2(), layout.v1.len()), ("hybrid", false, 2));
        assert_eq!(layout.v1_of("cpuacct").unwrap().mount, root.join("cpu,cpuacct"));
        assert!(layout.v1_of("memory").is_none(), "outside the root");
        assert_eq!(layout.v1[1].controllers, BTreeSet::from(["name=systemd".to_owned()]));
        assert_eq!(layout.mounts().count(), 3);
        let v1 = HYBRID.lines().filter(|l| !l.contains("cgroup2")).collect::<Vec<_>>().join("\n");
        assert_eq!(Layout::parse(&v1, root).unwrap().name(), "v1");
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(Layout::parse(v2, root).unwrap().name(), "v2");
        let error = Layout::parse("1 1 0:1 / / rw - ext4 /dev/vda rw", root).unwrap_err();
        assert!(error.to_string().contains("/sys/fs/cgroup"), "{error}");
    }
}
