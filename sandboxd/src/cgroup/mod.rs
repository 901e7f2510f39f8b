//! The cgroups of pods and containers: cgroupfs v1 and v2, systemd slices where systemd runs the cgroups.
//!
//! ```text
//!   plan ──▶ Planned ───create──▶ MadeCgroup ──attach──▶ (the infra container is in it)
//!               │                                              │
//!               └────────────── remove ◀───────────────────────┘   (also after a restart: plan again)
//! ```
//!
//! A pod's infra container and its containers are siblings below the parent that kubelet names, which holds
//! the limits of the whole pod:
//!
//! ```text
//!   /kubepods/burstable/pod…           kubelet's, with the pod's limits; on v2 its controllers are handed down
//!       ├── <pod id>                   the infra container
//!       ├── <container id>             a container, with limits and devices of its own
//!       └── <container id>
//! ```
//!
//! They are leaves because a v2 cgroup that hands controllers down takes no processes itself.
//!
//! With the systemd driver kubelet's is a slice, and between it and them is a scope of the pod's, which is ours
//! (`Delegate`): what systemd is told again, at a reload or for another property, never reaches the limits below it,
//! and a container's counters are there after its end. In the slice itself systemd would write each limit that it
//! knows over ours, and take an empty scope away before it could be read why the container ended:
//!
//! ```text
//!   kubepods-…-pod….slice
//!       └── sandboxd-<pod id>.scope    in no limits; lives as long as the infra container
//!           ├── infra
//!           └── <container id>
//! ```
//!
//! All calls block: on cgroup v1 the first write to a `cgroup.procs` after an idle spell waits 5 to 9 ms
//! for a grace period of the kernel, so `attach` belongs on a blocking thread beside CNI.
//! `oom_score_adj` is a property of processes, and the runtime's; here it is only changed, for those in a cgroup.

mod bpf;
mod container;
#[cfg(test)]
mod container_tests;
mod devices;
mod error;
mod files;
mod layout;
mod limits;
mod path;
mod scores;
mod systemd;
#[cfg(test)]
mod tests;
mod update;
mod usage;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::pod::model::PodId;
use crate::pod::spec::Resources;

pub use container::MadeContainer;
pub use devices::Devices;
pub use error::CgroupError;
pub use path::Planned;
pub use update::merge;
pub use usage::{Cpu, Hugepages, Io, Memory, Pressure, Stall, Usage};

use layout::Layout;
use limits::{Limits, Write};

/// Which driver the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DriverChoice {
    /// systemd where it runs the machine, else cgroupfs.
    #[default]
    Auto,
    Cgroupfs,
    Systemd,
}

/// Who makes the cgroups. Kubelet must use the same (CRI RuntimeConfig tells it).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

/// What the cgroup room needs to know.
#[derive(Debug, Clone)]
pub struct CgroupSettings {
    pub driver: DriverChoice,
    /// Where the hierarchies are mounted.
    pub root: PathBuf,
}

impl Default for CgroupSettings {
    fn default() -> Self {
        Self { driver: DriverChoice::Auto, root: PathBuf::from("/sys/fs/cgroup") }
    }
}

/// The machine's cgroups. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cgroups {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layout: Layout,
    driver: Driver,
    /// Only looked for with the systemd driver.
    busctl: PathBuf,
}

/// The version of the systemd that answers the systemd driver on the system bus.
///
/// # Errors
/// Without busctl, or without an answer within 5 s.
pub fn systemd_version() -> Result<String, CgroupError> {
    systemd::version(&systemd::busctl().ok_or(CgroupError::NoBusctl)?)
}

impl Cgroups {
    /// Looks at what is mounted, and decides the driver.
    ///
    /// # Errors
    /// When no cgroup file system is mounted under the root, or the systemd driver lacks busctl.
    pub fn detect(settings: &CgroupSettings) -> Result<Self, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let mountinfo = std::fs::read_to_string(path).map_err(|source| CgroupError::Io {
            action: "reading",
            path: path.to_owned(),
            source,
        })?;
        let layout = Layout::parse(&mountinfo, &settings.root)?;
        let driver = match settings.driver {
            DriverChoice::Auto if systemd::booted() => Driver::Systemd,
            DriverChoice::Auto | DriverChoice::Cgroupfs => Driver::Cgroupfs,
            DriverChoice::Systemd => Driver::Systemd,
        };
        let busctl = match driver {
            Driver::Systemd => systemd::busctl().ok_or(CgroupError::NoBusctl)?,
            Driver::Cgroupfs => PathBuf::new(),
        };
        Ok(Self { inner: Arc::new(Inner { layout, driver, busctl }) })
    }

    /// "v1", "v2" or "hybrid".
    #[must_use]
    pub fn describe(&self) -> &'static str {
        self.inner.layout.name()
    }

    #[must_use]
    pub fn driver(&self) -> Driver {
        self.inner.driver
    }

    /// Where a pod's cgroup goes. `parent` as CRI has it; empty: the daemon's default, "/sandboxd" or
    /// "sandboxd.slice". No side effect.
    ///
    /// # Errors
    /// When the parent is not in the driver's way of naming, or leads out of the hierarchy.
    pub fn plan(&self, parent: &str, pod: &PodId) -> Result<Planned, CgroupError> {
        path::plan(self.inner.driver, parent, pod.as_str(), None)
    }

    /// Makes the cgroup and sets its limits: `resources`, raised by `overhead`. On an error nothing of the
    /// pod's is left. With the systemd driver the scope itself comes with the first [`MadeCgroup::attach`].
    ///
    /// # Errors
    /// Names the limit that this machine's cgroups cannot carry out.
    pub fn create(
        &self,
        cgroup: &Planned,
        resources: &Resources,
        overhead: &Resources,
    ) -> Result<MadeCgroup, CgroupError> {
        let Inner { layout, driver, .. } = &*self.inner;
        let limits = Limits::of(resources, overhead)?;
        let writes = if layout.is_v2() { limits.v2()? } else { limits.v1(layout.name())? };
        if *driver == Driver::Cgroupfs {
            let made = files::make(layout, cgroup).and_then(|()| files::limit(layout, cgroup, &writes));
            if let Err(error) = made {
                if let Err(left) = files::remove(layout, cgroup) {
                    tracing::warn!(cgroup = cgroup.path(), error = %left, "half-made cgroup is left");
                }
                return Err(error);
            }
        }
        Ok(MadeCgroup { cgroups: self.clone(), cgroup: cgroup.clone(), writes })
    }

    /// Removes the cgroup with everything the pod made inside it, and the default parent where it is empty.
    /// Waits up to three seconds for killed processes to be gone. Idempotent.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] where processes stay.
    pub fn remove(&self, cgroup: &Planned) -> Result<(), CgroupError> {
        let Inner { layout, busctl, .. } = &*self.inner;
        let Some(unit) = cgroup.unit.as_ref().filter(|_| cgroup.first) else {
            return files::remove(layout, cgroup);
        };
        if layout.mounts().any(|mount| unit.below(mount).exists()) {
            systemd::stop(busctl, unit)?;
        }
        files::remove_scope(layout, unit)
    }

    /// Kills all processes of the cgroup and of those inside it. Idempotent.
    ///
    /// # Errors
    /// When the kernel refuses, or processes stay for three seconds.
    pub fn kill(&self, cgroup: &Planned) -> Result<(), CgroupError> {
        files::kill(&self.inner.layout, cgroup)
    }
}

/// A cgroup that was made, ready for processes.
#[derive(Debug, Clone)]
pub struct MadeCgroup {
    cgroups: Cgroups,
    cgroup: Planned,
    writes: Vec<Write>,
}

impl MadeCgroup {
    /// The plan it was made from.
    #[must_use]
    pub fn cgroup(&self) -> &Planned {
        &self.cgroup
    }

    /// Moves the pod's first process (with its later children) in, in every hierarchy. `pid`: in the
    /// daemon's pid namespace.
    ///
    /// # Errors
    /// When the process has ended (ESRCH), or a limit cannot be met with it in.
    pub fn attach(&self, pid: i32) -> Result<(), CgroupError> {
        let Inner { layout, busctl, .. } = &*self.cgroups.inner;
        if let Some(unit) = &self.cgroup.unit {
            systemd::start(busctl, layout, unit, pid)?;
            // Controllers are handed on once the process is out of the scope itself.
            files::make_bare(layout, &self.cgroup)?;
            files::attach(layout, &self.cgroup, pid)?;
            files::make(layout, &self.cgroup)?;
            return files::limit(layout, &self.cgroup, &self.writes);
        }
        files::attach(layout, &self.cgroup, pid)
    }
}
