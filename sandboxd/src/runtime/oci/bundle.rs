//! What an OCI runtime is given: the container's spec, with everything that is no path of the host attached
//! where `create` alone sees it.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxNamespace, LinuxNamespaceType, LinuxResources, Spec};
use rustix::mount::{OpenTreeFlags, open_tree};
use sandboxd_shim::plan::oci::{OciExecCgroups, OciPlan, OciRuntime};

use super::{Line, SubCgroups, oom};
use crate::container::env::RawEnv;
use crate::pod::model::NsKind;
use crate::runtime::RuntimeError;
use crate::runtime::native::cgroups;
use crate::runtime::native::container::Descriptors;
use crate::runtime::native::plan::{detached, io, text};
use crate::runtime::spec::POD_SHM;
use crate::runtime::task::TaskPlan;

/// Directories that every machine has one of and no runtime needs, where everybody may pass: a root file system
/// under the state directory would be out of reach of the ids of a user namespace.
const STAGES: [&str; 4] = ["/mnt", "/media", "/srv", "/opt"];

/// What the pod gives its containers.
#[derive(Debug)]
pub struct Pod {
    pub joined: Vec<(NsKind, OwnedFd)>,
    pub shm: Option<OwnedFd>,
}

/// The shim's plan, and its descriptors. The spec lies in the container's directory.
#[derive(Debug)]
pub struct Bundle {
    pub plan: OciPlan,
    pub fds: Descriptors,
}

/// Whether a spec has the pod's shared memory.
pub fn wants_shm(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|mount| mount.source().as_deref() == Some(Path::new(POD_SHM)))
}

/// Makes the container's directory, with its spec.
///
/// # Errors
/// [`RuntimeError::Unsupported`], and [`RuntimeError::Io`]. The directory may be left.
pub fn make(line: &Line, dir: &Path, plan: TaskPlan, pod: Pod) -> Result<Bundle, RuntimeError> {
    let stage = stage(line, dir)?;
    let mut fds = Descriptors::default();
    let mut attached = Vec::new();
    let mut attach = |name: String, mount: OwnedFd| -> Result<PathBuf, RuntimeError> {
        let path = stage.join(&name);
        attached.push((name, fds.push(mount)?));
        Ok(path)
    };
    let mut spec = plan.spec;
    refuse(&spec, &pod)?;
    let root = attach("rootfs".into(), plan.rootfs)?;
    let mut oci_root = spec.root().clone().unwrap_or_default();
    oci_root.set_path(root);
    spec.set_root(Some(oci_root));
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    let given: Vec<usize> = plan.sources.iter().map(|(index, _)| *index).collect();
    for (index, source) in plan.sources {
        let path = attach(format!("mount-{index}"), source)?;
        if let Some(mount) = mounts.get_mut(index) {
            mount
                .set_typ(Some("bind".into()))
                .set_source(Some(path))
                .set_uid_mappings(None)
                .set_gid_mappings(None);
        }
    }
    let shm = pod.shm.map(|shm| attach("shm".into(), shm)).transpose()?;
    for (index, mount) in mounts.iter_mut().enumerate() {
        let source = mount.source().clone().unwrap_or_default();
        if source == Path::new(POD_SHM) {
            mount.set_source(shm.clone());
        } else if matches!(mount.typ().as_deref(), None | Some("" | "bind" | "none"))
            && !given.contains(&index)
        {
            // From the node's own mounts: what `create` sees of them is a copy, which lets nothing out.
            let recursive = mount.options().iter().flatten().any(|option| option == "rbind");
            let path = attach(format!("mount-{index}"), detached(&source, recursive)?)?;
            mount.set_typ(Some("bind".into())).set_source(Some(path));
        }
    }
    spec.set_mounts(Some(mounts));
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    for (kind, namespace) in pod.joined {
        let words = || format!("copying the pod's {} namespace", kind.name());
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let copy = open_tree(namespace.as_fd(), "", flags).map_err(|errno| io(words(), errno))?;
        let path = attach(format!("ns-{}", kind.name()), copy)?;
        let Some(typ) = oci_kind(kind) else { continue };
        namespaces.retain(|known| known.typ() != typ);
        let mut joined = LinuxNamespace::default();
        joined.set_typ(typ).set_path(Some(path));
        namespaces.push(joined);
    }
    linux.set_namespaces(Some(namespaces));
    let execs = match line.sub_cgroups {
        SubCgroups::None => None,
        SubCgroups::Unified => cgroups::for_oci_execs(&plan.cgroup, false),
        SubCgroups::All => cgroups::for_oci_execs(&plan.cgroup, true),
    };
    only_devices(&mut linux);
    spec.set_linux(Some(linux));
    if let Some(process) = spec.process_mut()
        && let Some(said) = oom::within_reach(process)
    {
        tracing::info!(container = %plan.id, "the container is not all that was asked for: {said}");
    }
    if let Some(said) = replaced(&plan.raw_env) {
        tracing::warn!(container = %plan.id, "the container is not all that was asked for: {said}");
    }
    write(dir, &spec)?;
    let plan = OciPlan {
        id: plan.id.as_str().to_owned(),
        runtime: OciRuntime { binary: text(&line.binary)?, root: text(&line.root)? },
        dir: text(dir)?,
        stage: text(&stage)?,
        mounts: attached,
        terminal: plan.tty,
        stdin: plan.stdin,
        stdin_once: plan.stdin_once,
        log: plan.log.map(|log| fds.push(log)).transpose()?,
        exec_cgroups: execs
            .map(|(dir, prefix)| Ok(OciExecCgroups { dir: fds.push(dir)?, prefix: prefix.to_owned() }))
            .transpose()?,
        cgroup: plan.cgroup.into_iter().map(|procs| fds.push(procs)).collect::<Result<_, _>>()?,
    };
    Ok(Bundle { plan, fds })
}

/// What would be something else than was asked for.
fn refuse(spec: &Spec, pod: &Pod) -> Result<(), RuntimeError> {
    let user = pod.joined.iter().any(|(kind, _)| *kind == NsKind::User);
    for mount in spec.mounts().iter().flatten().filter(|_| user) {
        if mount.options().iter().flatten().any(|option| matches!(option.as_str(), "shared" | "rshared")) {
            return Err(RuntimeError::Unsupported {
                what: format!(
                    "the bidirectional mount {} of a pod with a user namespace: OCI runtimes let nothing out of \
                     one; use a native handler, or another propagation",
                    mount.destination().display()
                ),
            });
        }
    }
    Ok(())
}

/// What an OCI runtime's JSON cannot hold; `None`: nothing.
fn replaced(raw_env: &RawEnv) -> Option<String> {
    const SHOWN: usize = 8;
    let names: Vec<&str> = raw_env.keys().take(SHOWN).map(String::as_str).collect();
    let more = if raw_env.len() > SHOWN { " and others" } else { "" };
    (!names.is_empty()).then(|| {
        format!(
            "the variables {names:?}{more} are not UTF-8, and config.json is: U+FFFD stands for each byte that is \
             not; a native handler passes them on as they are"
        )
    })
}

/// The cgroup is there, with its limits: the runtime joins it. Devices it would deny if they were not said.
fn only_devices(linux: &mut Linux) {
    let devices = linux.resources().as_ref().and_then(|resources| resources.devices().clone());
    let mut resources = LinuxResources::default();
    resources.set_devices(devices);
    linux.set_resources(Some(resources));
}

fn oci_kind(kind: NsKind) -> Option<LinuxNamespaceType> {
    Some(match kind {
        NsKind::User => LinuxNamespaceType::User,
        NsKind::Net => LinuxNamespaceType::Network,
        NsKind::Ipc => LinuxNamespaceType::Ipc,
        NsKind::Uts => LinuxNamespaceType::Uts,
        NsKind::Pid => LinuxNamespaceType::Pid,
        NsKind::Mnt | NsKind::Cgroup | NsKind::Time => return None,
    })
}

/// A directory that nothing of the runtime's is under.
fn stage(line: &Line, dir: &Path) -> Result<PathBuf, RuntimeError> {
    let used = [dir, line.binary.as_path(), line.root.as_path()];
    let free = |stage: &&Path| stage.is_dir() && !used.iter().any(|path| path.starts_with(stage));
    STAGES.iter().map(Path::new).find(free).map(Path::to_owned).ok_or_else(|| RuntimeError::Unsupported {
        what: format!(
            "OCI runtimes need one of the directories {} to put a container together in, with neither sandboxd's \
             state nor the runtime under it: make one",
            STAGES.join(", ")
        ),
    })
}

/// For the user alone: an environment may hold secrets.
fn write(dir: &Path, spec: &Spec) -> Result<(), RuntimeError> {
    let path = dir.join("config.json");
    let failed = |source| RuntimeError::Io { action: format!("writing {}", path.display()), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let json = serde_json::to_vec(spec).map_err(|error| failed(error.into()))?;
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    std::io::Write::write_all(&mut file.map_err(failed)?, &json).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_config_json_cannot_hold_is_named() {
        assert_eq!(replaced(&RawEnv::new()), None);
        let of = |count: u8| (0..count).map(|n| (format!("V{n}\n"), vec![0xff])).collect();
        let said = replaced(&of(2)).unwrap();
        assert!(said.contains(r#"["V0\n", "V1\n"] are"#), "{said}");
        assert!(replaced(&of(9)).unwrap().contains(r#""V7\n"] and others"#));
    }
}
