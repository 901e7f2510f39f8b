//! A container's cgroup: a sibling of its pod's infra container's, with limits and devices of its own.
//!
//! ```text
//!   plan_container ──▶ Planned ──create_container──▶ MadeContainer ──procs──▶ (the shim writes itself in)
//!                         │                               │ drop, once a process is in it
//!        update, kill, oom_kills, remove ◀────────────────┘
//! ```

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::devices;
use super::error::CgroupError;
use super::files;
use super::limits::Limits;
use super::path::{self, Planned};
use super::{Cgroups, Devices, Inner};
use crate::container::model::ContainerId;
use crate::pod::model::PodId;
use crate::pod::spec::Resources;

/// The kernel's list of the files that may be given to the owner of a part of the tree (cgroups(7)).
const DELEGATE: &str = "/sys/kernel/cgroup/delegate";
/// The list of kernels before 4.15, and what is given at least.
const DELEGATED: [&str; 3] = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];

/// A container's cgroup that was made.
#[derive(Debug)]
pub struct MadeContainer {
    cgroups: Cgroups,
    cgroup: Planned,
}

impl MadeContainer {
    /// The plan it was made from.
    #[must_use]
    pub fn cgroup(&self) -> &Planned {
        &self.cgroup
    }

    /// See [`Cgroups::procs`].
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn procs(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        self.cgroups.procs(&self.cgroup)
    }
}

impl Cgroups {
    /// Where a container's cgroup goes: beside its pod's infra container's. No side effect.
    ///
    /// # Errors
    /// As [`Cgroups::plan`].
    pub fn plan_container(
        &self,
        parent: &str,
        pod: &PodId,
        container: &ContainerId,
    ) -> Result<Planned, CgroupError> {
        path::plan(self.inner.driver, parent, pod.as_str(), Some(container.as_str()))
    }

    /// Makes a container's cgroup and sets its limits and devices. `owner`: the host ids of a pod's root that
    /// may manage the cgroup (a writable cgroup2 in a user namespace); nothing is given away on v1, whose
    /// controllers are not safe to give. On an error nothing is left.
    ///
    /// # Errors
    /// Names the limit or device rule that this machine's cgroups cannot carry out.
    pub fn create_container(
        &self,
        cgroup: &Planned,
        resources: &Resources,
        devices: &Devices,
        owner: Option<(u32, u32)>,
    ) -> Result<MadeContainer, CgroupError> {
        let Inner { layout, .. } = &*self.inner;
        let limits = Limits::of(resources, &Resources::default())?;
        let writes = if layout.is_v2() { limits.v2()? } else { limits.v1(layout.name())? };
        let make = || {
            // A scope that is gone, with its pod's first process, is not ours to make again behind systemd's back.
            if let Some(unit) = &cgroup.unit
                && let Some(path) = layout.mounts().map(|mount| unit.below(mount)).find(|dir| !dir.is_dir())
            {
                let source = io::Error::from(io::ErrorKind::NotFound);
                return Err(CgroupError::Io { action: "finding the pod's scope", path, source });
            }
            files::make(layout, cgroup)?;
            files::limit(layout, cgroup, &writes)?;
            devices::set(layout, cgroup, devices)?;
            if let (Some((uid, gid)), true, Some(mount)) = (owner, layout.is_v2(), &layout.v2) {
                delegate(&cgroup.below(mount), uid, gid)?;
            }
            Ok(())
        };
        match make() {
            Ok(()) => Ok(MadeContainer { cgroups: self.clone(), cgroup: cgroup.clone() }),
            Err(error) => {
                if let Err(left) = self.remove(cgroup) {
                    tracing::warn!(cgroup = cgroup.path(), error = %left, "half-made cgroup is left");
                }
                Err(error)
            }
        }
    }

    /// `cgroup.procs` of a cgroup in every hierarchy, open for writing: what writes "0" there moves itself in.
    /// The kernel asks for the rights of the daemon, who opened them.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn procs(&self, cgroup: &Planned) -> Result<Vec<OwnedFd>, CgroupError> {
        let open = |mount: &Path| {
            let path = cgroup.below(mount).join("cgroup.procs");
            let file = OpenOptions::new().write(true).open(&path);
            file.map(Into::into).map_err(|source| CgroupError::Io { action: "opening", path, source })
        };
        self.inner.layout.mounts().map(open).collect()
    }

    /// How many of its processes the kernel has killed for lack of memory. 0 without a memory controller, and
    /// once the cgroup is gone.
    ///
    /// # Errors
    /// When the counter cannot be read.
    pub fn oom_kills(&self, cgroup: &Planned) -> Result<u64, CgroupError> {
        let layout = &self.inner.layout;
        let (mount, file) = match (layout.is_v2(), layout.v1_of("memory")) {
            (true, _) => (layout.v2.as_deref(), "memory.events"),
            (false, hierarchy) => (hierarchy.map(|h| h.mount.as_path()), "memory.oom_control"),
        };
        let Some(path) = mount.map(|mount| cgroup.below(mount).join(file)) else { return Ok(0) };
        match fs::read_to_string(&path) {
            Ok(text) => Ok(files::keyed(&text, "oom_kill").unwrap_or(0)),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(0),
            Err(source) => Err(CgroupError::Io { action: "reading", path, source }),
        }
    }
}

/// Gives a v2 cgroup to the root of a user namespace: the directory and the files that manage what is inside,
/// never those that limit it.
fn delegate(dir: &Path, uid: u32, gid: u32) -> Result<(), CgroupError> {
    let listed = fs::read_to_string(DELEGATE).unwrap_or_default();
    let names = listed.lines().chain(DELEGATED).filter(|name| !name.is_empty() && !name.contains('/'));
    let paths = std::iter::once(dir.to_owned()).chain(names.map(|name| dir.join(name)));
    for path in paths {
        match std::os::unix::fs::lchown(&path, Some(uid), Some(gid)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && path != dir => {}
            outcome => outcome.map_err(|source| CgroupError::Io { action: "giving away", path, source })?,
        }
    }
    Ok(())
}
