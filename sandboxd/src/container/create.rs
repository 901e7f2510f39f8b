//! How a container comes to be, and what undoes each step, last first.
//!
//! ```text
//!  name taken ─▶ record "Making" ─▶ layers held ─▶ prepared: OCI spec, root file system as a detached mount
//!     ─▶ cgroup ─▶ log opened ─▶ made in the pod by its runtime, up to the point before exec ─▶ record "Made"
//! ```

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sandboxd_image::{Image, LayerId};

use super::containers::Containers;
use super::driver::Live;
use super::env;
use super::error::ContainerError;
use super::ground::{Ground, Node};
use super::log_file;
use super::model::{Container, ContainerId, ContainerState, Ids, ImageNames};
use super::prepare::{self, Input, PrepareError, Prepared};
use super::record::{Phase, Record};
use super::relabel::RelabelError;
use super::spec::{ContainerSpec, MountSource, PidMode};
use super::store::Reservation;
use crate::cgroup::{Devices, MadeContainer};
use crate::pod::model::{Pod, PodState};
use crate::pod::now_ns;
use crate::pod::spec::IdMappings;
use crate::runtime::task::{Task, TaskPlan};
use crate::runtime::{Infra, has_ended};

/// How often a preparation that takes long is asked after.
const STILL_WANTED: Duration = Duration::from_millis(200);

/// Makes a container. `cancelled` is asked before the runtime is: a caller who has gone has it undone.
pub(super) async fn make(
    room: &Arc<Containers>,
    pod: Arc<Pod>,
    mut spec: ContainerSpec,
    cancelled: impl Fn() -> bool + Send + Sync,
) -> Result<Live, ContainerError> {
    if pod.state != PodState::Ready {
        return Err(ContainerError::PodNotReady { pod: pod.id.clone(), state: pod.state });
    }
    let infra = room.base.pods.infra(&pod.id).ok_or_else(|| ended(&pod))?;
    let image = room.base.images.find(&spec.image.image)?;
    let image = image.ok_or_else(|| ContainerError::NoImage { image: spec.image.image.clone() })?;
    if let PidMode::Target(target) = &spec.security.pid {
        spec.security.pid = PidMode::Target(running(room, &pod, target)?.to_string());
    }
    // Said now, and not when it is started: so kubelet has it as CreateContainerError, and tells of it.
    if let Some(profile) = spec.security.apparmor.as_ref().filter(|_| !spec.security.privileged) {
        room.base.apparmor.ensure(profile).await?;
    }
    let id = ContainerId::random().map_err(|error| ContainerError::Io {
        action: "making a container id from",
        path: "/dev/urandom".into(),
        source: std::io::Error::other(error.to_string()),
    })?;
    let name = room.store.reserve(&pod.id, &spec.metadata, &id)?;
    let ground = room.ground(&id, &pod.id, &pod.spec.cgroup_parent)?;
    // Its image volumes as well: they are mounted for as long as it lives.
    let mut images = vec![Arc::clone(&image)];
    for mount in &mut spec.mounts {
        if let MountSource::Image { image: named, .. } = &mut mount.source
            && let Ok(Some(found)) = room.base.images.find(&named.image)
        {
            named.image_id = found.id.to_string();
            images.push(found);
        }
    }
    let layers: Vec<LayerId> = images
        .iter()
        .flat_map(|image| image.layers.iter().map(|layer| layer.id.clone()).collect::<Vec<_>>())
        .collect();
    let container = Container {
        id,
        pod: pod.id.clone(),
        state: ContainerState::Created,
        image_id: image.id.to_string(),
        image_names: ImageNames::choose(&image.repo_tags, &image.repo_digests, &spec.image),
        layers: layers.iter().map(ToString::to_string).collect(),
        ids: Ids::default(),
        created_at_ns: now_ns().max(1),
        started_at_ns: None,
        ended: None,
        pid: None,
        cgroup: ground.planned.path().to_owned(),
        stop_signal: libc::SIGTERM,
        spec,
    };
    let cgroup_parent = pod.spec.cgroup_parent.clone();
    let record = Record { phase: Phase::Making, container, cgroup_parent, process: None };
    ground.record(&record)?;
    let making = Making { room: Arc::clone(room), pod, ground, record, name };
    match making.hold_and_make(&*infra, image, &layers, cancelled).await {
        Ok((making, task, hold)) => Ok(Live {
            record: making.record,
            task: Some(task),
            ground: Arc::new(making.ground),
            store: Arc::clone(&room.store),
            name: Some(making.name),
            hold: Some(hold),
        }),
        Err((making, error)) => {
            if let Err(left) = making.ground.clear().await {
                let id = &making.record.container.id;
                tracing::warn!(container = %id, error = %left, "undoing it failed: the next start tries again");
            }
            // Whatever a runtime says of a pod that ends meanwhile.
            if matches!(error, ContainerError::Runtime { .. }) && has_ended(infra.pidfd()) {
                return Err(ended(&making.pod));
            }
            Err(error)
        }
    }
}

/// On a thread of its own: relabelling a large volume takes minutes, and everybody shares the few that may wait. It
/// ends soon after nobody wants the container any more, or the volume could not be unmounted.
async fn prepare_apart(input: Input, unwanted: impl Fn() -> bool) -> Result<Prepared, ContainerError> {
    let (reply, mut prepared) = tokio::sync::oneshot::channel();
    let cancelled = Arc::clone(&input.cancelled);
    let thread = std::thread::Builder::new().name("relabel".into());
    let started = thread.spawn(move || drop(reply.send(prepare::prepare(&input))));
    started.map_err(|source| PrepareError::Io { action: "starting a thread".into(), source })?;
    loop {
        match tokio::time::timeout(STILL_WANTED, &mut prepared).await {
            Ok(prepared) => return Ok(prepared.map_err(|_| ContainerError::ShuttingDown)??),
            Err(_) if unwanted() => cancelled.store(true, Ordering::Relaxed),
            Err(_) => {}
        }
    }
}

/// A pod that was READY a moment ago.
fn ended(pod: &Pod) -> ContainerError {
    ContainerError::PodNotReady { pod: pod.id.clone(), state: PodState::NotReady }
}

/// A running container of the pod, by id or unique prefix.
fn running(room: &Containers, pod: &Pod, target: &str) -> Result<ContainerId, ContainerError> {
    let found = room.store.find(target)?;
    let found = found.filter(|c| c.pod == pod.id && c.state == ContainerState::Running);
    let none = || ContainerError::NoTarget { target: target.to_owned(), pod: pod.id.clone() };
    found.map(|container| container.id.clone()).ok_or_else(none)
}

/// A container that is being made.
struct Making {
    room: Arc<Containers>,
    pod: Arc<Pod>,
    ground: Node,
    record: Record,
    name: Reservation,
}

type Made = (Making, Arc<dyn Task>, sandboxd_image::Hold);

impl Making {
    async fn hold_and_make(
        mut self,
        infra: &dyn Infra,
        image: Arc<Image>,
        layers: &[LayerId],
        cancelled: impl Fn() -> bool + Send + Sync,
    ) -> Result<Made, (Self, ContainerError)> {
        let made = async {
            let hold = self.room.base.images.hold(layers)?;
            let prepared = self.prepare(image, &cancelled).await?;
            for warning in &prepared.warnings {
                tracing::warn!(container = %self.record.container.id, "not all that was asked for: {warning}");
            }
            let (cgroup, procs) = self.cgroup(&prepared).await?;
            let log = self.log()?;
            if cancelled() {
                return Err(ContainerError::Abandoned);
            }
            let task = self.create(infra, prepared, procs, log).await?;
            // Its first process is in it by now.
            drop(cgroup);
            Ok((task, hold))
        };
        match made.await {
            Ok((task, hold)) => match self.ground.record(&self.record) {
                Ok(()) => Ok((self, task, hold)),
                Err(error) => {
                    if let Err(left) = task.remove().await {
                        tracing::warn!(container = %self.record.container.id, error = %left, "removing it failed");
                    }
                    Err((self, error))
                }
            },
            Err(error) => Err((self, error)),
        }
    }

    async fn prepare(
        &self,
        image: Arc<Image>,
        cancelled: impl Fn() -> bool + Send + Sync,
    ) -> Result<Prepared, ContainerError> {
        let container = &self.record.container;
        let images = Arc::clone(&self.room.base.images);
        let find = move |id: &str| images.find(id).ok().flatten();
        let handler = self.room.base.pods.handlers().get(&self.pod.spec.handler);
        let input = Input {
            id: container.id.clone(),
            pod: Arc::clone(&self.pod),
            spec: container.spec.clone(),
            image,
            find_image: Arc::new(find),
            features: handler.map(|handler| handler.runtime.features()).unwrap_or_default(),
            pod_dir: self.room.pod_dir(&self.pod.id),
            dir: self.ground.dir(),
            cgroup: container.cgroup.clone(),
            cancelled: Arc::default(),
        };
        let relabels = container.spec.security.selinux.is_some()
            && container.spec.mounts.iter().any(|mount| mount.selinux_relabel);
        if relabels {
            let pod_ended = || self.room.pod_ended(&self.pod.id);
            let prepared = prepare_apart(input, || cancelled() || pod_ended().is_some()).await;
            return match prepared {
                Err(ContainerError::Prepare(PrepareError::Relabel(RelabelError::Cancelled { .. }))) => {
                    Err(pod_ended().unwrap_or(ContainerError::Abandoned))
                }
                prepared => prepared,
            };
        }
        let prepared = tokio::task::spawn_blocking(move || prepare::prepare(&input)).await;
        Ok(prepared.map_err(|_| ContainerError::ShuttingDown)??)
    }

    /// The cgroup with its limits and devices, and the files through which a process moves itself in.
    async fn cgroup(&self, prepared: &Prepared) -> Result<(MadeContainer, Vec<OwnedFd>), ContainerError> {
        let spec = &self.record.container.spec;
        let rules = prepared.spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let rules = rules.and_then(|resources| resources.devices().clone());
        let devices = match rules {
            _ if spec.security.privileged => Devices::all(),
            Some(rules) => Devices::of(&rules)?,
            None => Devices::defaults(),
        };
        let maps = self.pod.spec.namespaces.user.as_ref().filter(|_| spec.security.privileged);
        let owner = maps.map(IdMappings::host_root);
        let (cgroups, planned) = (self.ground.cgroups.clone(), self.ground.planned.clone());
        let resources = spec.resources.clone();
        let made = tokio::task::spawn_blocking(move || {
            let made = cgroups.create_container(&planned, &resources, &devices, owner)?;
            let procs = made.procs()?;
            Ok::<_, ContainerError>((made, procs))
        });
        made.await.map_err(|_| ContainerError::ShuttingDown)?
    }

    fn log(&self) -> Result<Option<OwnedFd>, ContainerError> {
        let Some(path) = &self.record.container.spec.log_path else { return Ok(None) };
        let base = self.pod.spec.log_directory.as_deref();
        let base = base.unwrap_or_else(|| path.parent().unwrap_or(Path::new("/")));
        Ok(Some(log_file::open(base, path)?.0))
    }

    async fn create(
        &mut self,
        infra: &dyn Infra,
        prepared: Prepared,
        cgroup: Vec<OwnedFd>,
        log: Option<OwnedFd>,
    ) -> Result<Arc<dyn Task>, ContainerError> {
        let Prepared { spec, rootfs, sources, ids, stop_signal, .. } = prepared;
        let container = &mut self.record.container;
        self.room.records.write_spec(&container.id, &spec)?;
        self.record.process.clone_from(spec.process());
        let host_root = self.pod.spec.namespaces.user.as_ref().map(IdMappings::host_root);
        let plan = TaskPlan {
            host_root,
            id: container.id.clone(),
            pid: container.spec.security.pid.clone(),
            raw_env: env::raw(&container.spec.envs),
            spec,
            rootfs,
            sources,
            stdin: container.spec.stdin,
            stdin_once: container.spec.stdin_once,
            tty: container.spec.tty,
            log,
            cgroup,
        };
        let made = infra.create_container(plan).await;
        let task = made
            .map_err(|source| ContainerError::Runtime { action: "creating the container failed", source })?;
        container.pid = Some(task.pid());
        container.ids = ids;
        container.stop_signal = stop_signal;
        self.record.phase = Phase::Made;
        Ok(task)
    }
}
