//! Every side effect of the flow outside the runtime, as one seam: [`super::Rooms`] makes them,
//! the tests record them.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::configured::PodFiles;
use std::sync::Arc;

use crate::cgroup::{CgroupError, MadeCgroup};
use crate::journal::JournalError;
use crate::network::{Attached, Lease, NetworkError};
use crate::observer::Explanation;
use crate::pod::error::PodError;
use crate::pod::model::{NamespaceInfo, NsKind, Pod, PodId, StepName};

/// A cgroup that was made and waits for the pod's first process.
pub(crate) trait Cgroup: Send + Sync + std::fmt::Debug {
    /// May wait on the kernel for some milliseconds.
    fn fill(&self, pid: i32) -> Result<(), CgroupError>;
}

impl Cgroup for MadeCgroup {
    fn fill(&self, pid: i32) -> Result<(), CgroupError> {
        self.attach(pid)
    }
}

#[tonic::async_trait]
pub(crate) trait Effects: Send + Sync + std::fmt::Debug {
    /// The pod's directory under the state directory.
    fn dir(&self, id: &PodId) -> PathBuf;
    fn journal_begin(&self, pod: &Pod) -> Result<(), JournalError>;
    /// Says which step comes next, before it does.
    fn journal(&self, pod: &Pod, step: StepName) -> Result<(), JournalError>;
    fn journal_remove(&self, id: &PodId) -> Result<(), JournalError>;

    /// resolv.conf and hostname for the pod's containers, and the log directory.
    fn write_files(&self, pod: &Pod) -> Result<PodFiles, PodError>;

    /// Sysctls that the pod gets unless it asks for other values.
    fn default_sysctls(&self, pod: &Pod) -> BTreeMap<String, String>;

    /// Where the pod's cgroup will be.
    fn plan_cgroup(&self, pod: &Pod) -> Result<String, CgroupError>;
    async fn create_cgroup(&self, pod: &Pod) -> Result<Arc<dyn Cgroup>, CgroupError>;
    /// Sets the limits of the pod's cgroup anew.
    async fn update_cgroup(&self, pod: &Pod) -> Result<(), CgroupError>;
    async fn remove_cgroup(&self, pod: &Pod) -> Result<(), CgroupError>;
    /// Kills what runs in the pod's cgroup: for pods whose shim cannot be asked to.
    async fn end_processes(&self, pod: &Pod) -> Result<(), CgroupError>;

    /// A network namespace of the daemon's own user namespace (network-first handlers).
    async fn make_netns(&self) -> Result<OwnedFd, PodError>;
    fn identify(&self, kind: NsKind, fd: BorrowedFd<'_>) -> Result<NamespaceInfo, PodError>;
    fn pin(&self, fd: BorrowedFd<'_>, path: &Path) -> Result<(), PodError>;
    fn is_pinned(&self, path: &Path) -> bool;
    fn unpin(&self, path: &Path) -> Result<(), PodError>;

    /// Writes CNI's intent to disk: the one fsync of a pod.
    async fn lease(&self, pod: &Pod) -> Result<Lease, NetworkError>;
    async fn loopback_up(&self, netns: BorrowedFd<'_>) -> Result<(), NetworkError>;
    async fn cni_add(&self, lease: &Lease, netns: &Path) -> Result<Attached, NetworkError>;
    /// DEL with a deadline of its own; the lease goes with it. No lease: nothing to do.
    async fn cni_del(&self, id: &PodId, netns: Option<&Path>) -> Result<(), NetworkError>;

    /// Ends plugins of the pod that a daemon before this one has left running.
    async fn end_orphans(&self, id: &PodId);

    /// From now on the observer knows the pod's namespaces and processes.
    fn observe(&self, pod: &Pod);
    fn forget(&self, id: &PodId);
    /// The denied check behind a refused mount of this pid, in words.
    async fn explain(&self, pod: &Pod, pid: i32, since_ns: i64) -> Option<Explanation>;
}
