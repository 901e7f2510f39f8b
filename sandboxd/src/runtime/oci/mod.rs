//! OCI runtimes by their command line (`runc`, `crun`).
//!
//! The pod itself is made as by the native runtime: same flow, same shim, same owners. Its application containers
//! are the OCI runtime's, each under a shim of its own (`sandboxd_shim::plan::oci`), which is spoken to as to a
//! pod's: logs, attach, exits and adoption are the same.
//!
//! ```text
//! <state>/pods/<pod>/oci/<container>/   config.json, the shim's socket; gone when the container is removed
//! <state>/oci/<handler>/<container>/    the runtime's own state (`--root`)
//! ```

mod bundle;
mod infra;
mod leftovers;
mod oom;
mod probe;
mod task;
mod words;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::native::NativeRuntime;
use super::{HandlerFeatures, Infra, InfraPlan, Runtime, RuntimeError};
use crate::pod::model::PodId;

use infra::OciInfra;

/// Makes pods whose containers an OCI runtime carries out.
#[derive(Debug)]
pub struct OciRuntime {
    native: Arc<NativeRuntime>,
    line: Arc<Line>,
    features: HandlerFeatures,
}

/// The command line of a runtime.
#[derive(Debug)]
struct Line {
    /// The handler's name.
    name: String,
    /// Empty where the handler left the configuration: then its containers' shims alone know it.
    binary: PathBuf,
    /// Where it keeps its state.
    root: PathBuf,
    /// The shim's binary.
    shim: PathBuf,
    sub_cgroups: SubCgroups,
}

/// Where a runtime can put an exec into a cgroup of its own, by which all that it started is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum SubCgroups {
    #[default]
    None,
    /// On cgroup v2 alone.
    Unified,
    All,
}

impl OciRuntime {
    /// Asks the runtime what it is. What it lacks is no error but a feature that is not reported, and said in the
    /// log.
    pub async fn new(native: Arc<NativeRuntime>, name: &str, binary: &Path, state: &Path) -> Self {
        let found = probe::probe(binary).await;
        let line = Line {
            name: name.to_owned(),
            binary: binary.to_owned(),
            root: state.join("oci").join(name),
            shim: native.shim().to_owned(),
            sub_cgroups: found.sub_cgroups,
        };
        for lacking in &found.lacking {
            tracing::warn!(handler = name, binary = %binary.display(), "not all works with this handler: {lacking}");
        }
        let of_machine = native.features();
        let features = HandlerFeatures {
            recursive_read_only_mounts: found.recursive_read_only && of_machine.recursive_read_only_mounts,
            user_namespaces: found.user_namespaces && of_machine.user_namespaces,
        };
        tracing::info!(handler = name, version = found.version, ?features, "OCI runtime");
        Self { native, line: Arc::new(line), features }
    }

    /// A handler that left the configuration: its containers' shims know its command line and carry on. It makes
    /// no pods.
    pub fn former(native: Arc<NativeRuntime>, name: &str, state: &Path) -> Self {
        let line = Line {
            name: name.to_owned(),
            binary: PathBuf::new(),
            root: state.join("oci").join(name),
            shim: native.shim().to_owned(),
            sub_cgroups: SubCgroups::None,
        };
        Self { native, line: Arc::new(line), features: HandlerFeatures::default() }
    }

    /// The names of handlers that have containers, by what they keep.
    pub fn kept(state: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(state.join("oci")).into_iter().flatten().flatten();
        let used = |dir: &Path| std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
        entries.filter(|entry| used(&entry.path())).filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    fn wrap(&self, infra: Arc<dyn Infra>, dir: &Path) -> Arc<dyn Infra> {
        Arc::new(OciInfra::new(infra, Arc::clone(&self.line), dir))
    }
}

#[tonic::async_trait]
impl Runtime for OciRuntime {
    async fn create(
        &self,
        plan: &InfraPlan,
        born: &(dyn Fn(i32) + Send + Sync),
    ) -> Result<Arc<dyn Infra>, RuntimeError> {
        Ok(self.wrap(self.native.create(plan, born).await?, &plan.dir))
    }

    async fn adopt(&self, pod: &PodId, dir: &Path) -> Result<Arc<dyn Infra>, RuntimeError> {
        match self.native.adopt(pod, dir).await {
            Ok(infra) => Ok(self.wrap(infra, dir)),
            Err(error) => {
                // They do not die with the pod's shim.
                leftovers::remove_all(&self.line, dir).await;
                Err(error)
            }
        }
    }

    fn features(&self) -> HandlerFeatures {
        self.features
    }
}
