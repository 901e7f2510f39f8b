//! The native runtime: one `sandboxd-shim` per pod, spoken to over a seqpacket socket.
//!
//! ```text
//!            spawn, Create            Start                 Kill
//! (nothing) ─────────────▶ created ─────────────▶ running ─────────▶ (nothing)
//!                │            ▲                      ▲
//!                │ failed     └── adopt: a daemon ───┘
//!                ▼                that was restarted
//!            (nothing)
//! ```
//!
//! The shim's standard input is a socket of its own; every other descriptor of the daemon is close-on-exec from
//! the moment it exists, so pods that are made at the same time inherit nothing of each other.

pub mod cgroups;
pub(super) mod container;
mod infra;
pub(super) mod link;
mod mounts;
pub(super) mod plan;
pub(super) mod process;
pub(super) mod spawn;
pub(super) mod task;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sandboxd_shim::proto::{Failure, Reply, Request, SAID, SelfTest};

use super::{HandlerFeatures, Infra, InfraPlan, Runtime, RuntimeError};
use crate::pod::model::PodId;

use infra::{NativeInfra, Parts, remove_socket};
use link::{Link, problem};
use spawn::Shim;

/// For making all of a pod: milliseconds, on a machine that swaps seconds.
const CREATE: Duration = Duration::from_secs(60);
/// For a restarted daemon's first question.
const ADOPT: Duration = Duration::from_secs(5);
/// For the self-test.
const SELF_TEST: Duration = Duration::from_secs(20);

/// Makes infra containers through shims.
#[derive(Debug)]
pub struct NativeRuntime {
    shim: PathBuf,
    features: HandlerFeatures,
    tested: SelfTest,
    /// What the machine cannot give is the same for every pod.
    warned: AtomicBool,
}

impl NativeRuntime {
    /// With the shim at `shim`, or beside the daemon's own executable. Tries out what pods need.
    ///
    /// # Errors
    /// [`RuntimeError::Shim`] where there is no shim or it does not run. What the machine lacks is no error:
    /// [`Runtime::features`] and [`NativeRuntime::self_test`] tell.
    pub async fn new(shim: Option<PathBuf>) -> Result<Self, RuntimeError> {
        let shim = match shim {
            Some(shim) => shim,
            None => spawn::beside_daemon()?,
        };
        let tested = self_test(&shim).await?;
        // So that the first pod need not wait for it.
        plan::warm()?;
        let features = HandlerFeatures {
            recursive_read_only_mounts: tested.recursive_read_only.is_none(),
            user_namespaces: tested.user_namespace.is_none() && tested.idmapped_mount.is_none(),
        };
        for (what, failure) in [
            ("user namespaces", &tested.user_namespace),
            ("idmapped mounts", &tested.idmapped_mount),
            ("recursively read-only mounts", &tested.recursive_read_only),
        ] {
            if let Some(failure) = failure {
                tracing::warn!(what, step = failure.step, error = %errno(failure), "not usable on this machine");
            }
        }
        Ok(Self { shim, features, tested, warned: AtomicBool::new(false) })
    }

    /// Says what a pod does not get: loudly once, then on request.
    fn warn(&self, pod: &PodId, warnings: &[String]) {
        for warning in warnings {
            if self.warned.load(Ordering::Relaxed) {
                tracing::debug!(%pod, "the infra container is not all that was asked for: {warning}");
            } else {
                tracing::warn!(%pod, "the infra container is not all that was asked for (said once): {warning}");
            }
        }
        if !warnings.is_empty() {
            self.warned.store(true, Ordering::Relaxed);
        }
    }

    /// The shim's binary.
    #[must_use]
    pub fn shim(&self) -> &Path {
        &self.shim
    }

    /// What the self-test found: each failure as one line of words.
    #[must_use]
    pub fn self_test(&self) -> Vec<(&'static str, Option<String>)> {
        let words = |failure: &Option<Failure>| failure.as_ref().map(|f| format!("{}: {}", f.step, errno(f)));
        vec![
            ("user namespace with its own sysfs", words(&self.tested.user_namespace)),
            ("idmapped mount", words(&self.tested.idmapped_mount)),
            ("recursively read-only mount", words(&self.tested.recursive_read_only)),
        ]
    }
}

async fn self_test(path: &Path) -> Result<SelfTest, RuntimeError> {
    let (link, theirs) = Link::pair()?;
    let shim = Shim::spawn(path, theirs)?;
    let tested = match link.call(&Request::SelfTest, &[], SELF_TEST).await {
        Ok(answer) => match answer.reply {
            Reply::SelfTest(tested) => Ok(tested),
            other => Err(problem(format!("answered SelfTest with {other:?}"))),
        },
        Err(error) => Err(error),
    };
    shim.end().await;
    tested
}

#[tonic::async_trait]
impl Runtime for NativeRuntime {
    async fn create(
        &self,
        plan: &InfraPlan,
        born: &(dyn Fn(i32) + Send + Sync),
    ) -> Result<Arc<dyn Infra>, RuntimeError> {
        let prepared = plan::prepare(plan)?;
        self.warn(&plan.pod, &prepared.warnings);
        let (link, theirs) = Link::pair()?;
        let shim = Shim::spawn(&self.shim, theirs)?;
        born(shim.pid());
        let fds: Vec<BorrowedFd<'_>> = prepared.fds.iter().map(AsFd::as_fd).collect();
        let sysfs = prepared.plan.sysfs;
        let request = Request::Create(Box::new(prepared.plan));
        let answer = link.call(&request, &fds, CREATE).await;
        let made = match answer {
            Ok(mut answer) => match (answer.reply, answer.fds.pop()) {
                (Reply::Created { pid, warnings }, Some(pidfd)) => Ok((pid, warnings, pidfd)),
                (Reply::Failed(failed), _) => Err(failure(failed)),
                (other, _) => Err(problem(format!("answered Create with {other:?}"))),
            },
            Err(error) => Err(error),
        };
        let made = made.and_then(|(pid, warnings, pidfd)| {
            self.warn(&plan.pod, &warnings);
            let parts = Parts {
                link,
                shim_pid: shim.pid(),
                shim: shim.pidfd()?,
                infra_pid: pid,
                infra: pidfd,
                sysfs,
                dir: plan.dir.clone(),
            };
            NativeInfra::new(parts)
        });
        match made {
            Ok(infra) => {
                shim.keep();
                Ok(Arc::new(infra))
            }
            Err(error) => {
                shim.end().await;
                remove_socket(&plan.dir)?;
                Err(error)
            }
        }
    }

    async fn adopt(&self, pod: &PodId, dir: &Path) -> Result<Arc<dyn Infra>, RuntimeError> {
        let (link, shim, shim_pid) = Link::connect(dir)?;
        let mut answer = link.call(&Request::State, &[], ADOPT).await?;
        match (answer.reply, answer.fds.pop()) {
            (Reply::State { pod: theirs, pid, sysfs, .. }, Some(infra)) => {
                if theirs != pod.as_str() {
                    return Err(problem(format!("in {} belongs to pod {theirs}", dir.display())));
                }
                let parts = Parts { link, shim_pid, shim, infra_pid: pid, infra, sysfs, dir: dir.to_owned() };
                Ok(Arc::new(NativeInfra::new(parts)?))
            }
            (other, _) => Err(problem(format!("answered State with {other:?}"))),
        }
    }

    fn features(&self) -> HandlerFeatures {
        self.features
    }
}

fn errno(failure: &Failure) -> std::io::Error {
    std::io::Error::from_raw_os_error(failure.errno)
}

/// A failure in a container, or in the shim on its behalf.
pub(super) fn container_failure(failure: Failure) -> RuntimeError {
    if failure.errno == SAID {
        return RuntimeError::Command { message: failure.step };
    }
    let source = errno(&failure);
    match failure.pid {
        Some(pid) => RuntimeError::InContainer { step: failure.step, pid, source },
        None => RuntimeError::Io { action: format!("{} (in the pod's shim)", failure.step), source },
    }
}

/// A shim's failure in the daemon's words.
fn failure(failure: Failure) -> RuntimeError {
    let source = errno(&failure);
    match failure.pid {
        Some(pid) => RuntimeError::InPod { step: failure.step, pid, source },
        None => RuntimeError::Io { action: format!("{} (in the pod's shim)", failure.step), source },
    }
}
