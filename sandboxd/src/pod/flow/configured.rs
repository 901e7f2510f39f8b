//! Configured: the files are there, the cgroup is planned, the intent of the network is on its way to the
//! disk; nothing runs yet.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::JoinHandle;

use super::created::Created;
use super::early::EarlyNetwork;
use super::effects::Cgroup;
use super::reserved::undo_base;
use super::{Base, Failure, Timer, undone};
use crate::network::{Lease, NetworkError};
use crate::pod::error::PodError;
use crate::pod::model::StepName;
use crate::pod::spec::NetworkMode;
use crate::runtime::{InfraPlan, NetworkPlan};

/// What the pod's containers find under /etc.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodFiles {
    pub(crate) resolv_conf: Vec<u8>,
    pub(crate) hostname: String,
    /// The log directory, where this daemon made it: only then is it taken away again.
    pub(crate) made_log_directory: Option<PathBuf>,
}

#[derive(Debug)]
pub(in crate::pod) struct Configured {
    pub(super) base: Base,
    pub(super) files: PodFiles,
    /// Made beside the namespaces.
    pub(super) cgroup: Option<Arc<dyn Cgroup>>,
    /// The intent on its way to the disk. `None`: the pod has no network of its own.
    lease: Option<JoinHandle<Result<Lease, NetworkError>>>,
}

impl Configured {
    pub(super) async fn make(mut base: Base) -> Result<Self, Box<Failure>> {
        let timer = Timer::start(StepName::Configured);
        match base.effects.plan_cgroup(&base.pod) {
            Ok(cgroup) => base.pod.cgroup = cgroup,
            Err(error) => return Err(undo_base(base, PodError::Cgroup(error))),
        }
        if let Err(error) = base.effects.journal(&base.pod, StepName::Configured) {
            return Err(undo_base(base, PodError::Journal(error)));
        }
        let mut this = Self { base, files: PodFiles::default(), cgroup: None, lease: None };
        match this.side_effects().await {
            Ok(()) => {
                this.base.done(timer);
                Ok(this)
            }
            Err(error) => {
                this.base.failed(timer, &error);
                Err(this.undo(error).await)
            }
        }
    }

    async fn side_effects(&mut self) -> Result<(), PodError> {
        let (effects, pod) = (&self.base.effects, &self.base.pod);
        if pod.spec.namespaces.network == NetworkMode::Pod {
            let (effects, pod) = (Arc::clone(effects), pod.clone());
            self.lease = Some(tokio::spawn(async move { effects.lease(&pod).await }));
        }
        self.files = effects.write_files(pod)?;
        Ok(())
    }

    /// The lease, once it is on disk.
    pub(super) async fn leased(&mut self) -> Result<Option<Lease>, PodError> {
        let Some(task) = self.lease.take() else { return Ok(None) };
        match task.await {
            Ok(lease) => lease.map(Some).map_err(PodError::Network),
            Err(join) => Err(PodError::Io {
                action: "writing the pod's CNI lease".to_owned(),
                source: std::io::Error::other(join),
            }),
        }
    }

    /// What the runtime is asked to make.
    pub(super) fn plan(&self, network: NetworkPlan) -> InfraPlan {
        let mut spec = self.base.pod.spec.clone();
        for (name, value) in self.base.effects.default_sysctls(&self.base.pod) {
            spec.sysctls.entry(name).or_insert(value);
        }
        InfraPlan {
            pod: self.base.pod.id.clone(),
            spec,
            dir: self.base.dir(),
            network,
            resolv_conf: self.files.resolv_conf.clone(),
            hostname: self.files.hostname.clone(),
        }
    }

    /// The right order: the runtime makes all namespaces.
    pub(super) async fn create(self) -> Result<Created, Box<Failure>> {
        let network = match self.base.pod.spec.namespaces.network {
            NetworkMode::Pod => NetworkPlan::New,
            NetworkMode::Node => NetworkPlan::Host,
        };
        Created::make(self, network, None).await
    }

    /// The old order: the network namespace first.
    pub(super) async fn network_first(self) -> Result<EarlyNetwork, Box<Failure>> {
        EarlyNetwork::make(self).await
    }

    pub(super) async fn undo(mut self, error: PodError) -> Box<Failure> {
        // A lease on its way is waited for: what is written must be known to be taken back.
        let leased = self.leased().await;
        let base = self.base;
        let mut clean = true;
        if !matches!(leased, Ok(None)) {
            let netns = base.pod.netns_path.clone();
            clean &= undone(&base.pod, "CNI DEL", base.effects.cni_del(&base.pod.id, netns.as_deref()).await);
        }
        if !clean {
            tracing::warn!(pod = %base.pod.id, "the CNI lease stays on disk and is given back later");
        }
        undo_files(base, &self.files, error).await
    }
}

/// Takes back the cgroup and the files, then what came before them.
pub(super) async fn undo_files(mut base: Base, files: &PodFiles, error: PodError) -> Box<Failure> {
    let removed = base.effects.remove_cgroup(&base.pod).await;
    base.unfinished |= !undone(&base.pod, "removing the cgroup", removed);
    if let Some(dir) = &files.made_log_directory {
        // Only an empty one: logs of anybody else stay.
        let _ = std::fs::remove_dir(dir);
    }
    undo_base(base, error)
}
