//! Namespaces of a container: all are the pod's but that of pids.

use sandboxd_api::cri::{self, NamespaceMode};

use super::super::namespaces::{OPTIONS, userns};
use super::super::{Invalid, Why, known, text};
use crate::container::spec::PidMode;
use crate::pod::model::Pod;
use crate::pod::spec::{self, IpcMode, NetworkMode};

/// Longer than any id.
const ID_MAX: usize = 256;

/// Compares with the pod what must be the pod's, and tells the pid namespace. Unset options are the pod's.
pub(super) fn pid(options: Option<&cri::NamespaceOption>, pod: &Pod) -> Result<PidMode, Invalid> {
    let pods = &pod.spec.namespaces;
    let of_pod = match pods.pid {
        spec::PidMode::Pod => PidMode::Pod,
        spec::PidMode::Container => PidMode::Container,
        spec::PidMode::Node => PidMode::Node,
    };
    let Some(o) = options else { return Ok(of_pod) };
    shared("network", o.network, pods.network == NetworkMode::Node)?;
    shared("ipc", o.ipc, pods.ipc == IpcMode::Node)?;
    if let Some(asked) = &o.userns_options {
        let field = format!("{OPTIONS}.userns_options");
        if userns(asked)? != pods.user {
            let pod = pods.user.as_ref().map_or("NODE", |_| "POD with the pod's mappings");
            return Err(Invalid::new(field, mode_name(asked.mode), Why::NotThePods { pod }));
        }
    }
    let field = format!("{OPTIONS}.pid");
    let mode = known(&field, o.pid)?;
    if mode != NamespaceMode::Target && !o.target_id.is_empty() {
        return Err(Invalid::new(format!("{OPTIONS}.target_id"), &o.target_id, Why::TargetUnused));
    }
    Ok(match mode {
        // The pod's own: the node's, where the pod shares that.
        NamespaceMode::Pod if pods.pid == spec::PidMode::Node => PidMode::Node,
        NamespaceMode::Pod => PidMode::Pod,
        NamespaceMode::Container => PidMode::Container,
        NamespaceMode::Node if pods.pid == spec::PidMode::Node => PidMode::Node,
        NamespaceMode::Node => return Err(Invalid::new(field, "NODE", Why::PidNode)),
        NamespaceMode::Target => {
            let at = format!("{OPTIONS}.target_id");
            if o.target_id.is_empty() {
                return Err(Invalid::new(at, &o.target_id, Why::TargetMissing));
            }
            text(&at, &o.target_id, ID_MAX)?;
            PidMode::Target(o.target_id.clone())
        }
    })
}

fn shared(name: &str, number: i32, node: bool) -> Result<(), Invalid> {
    let field = format!("{OPTIONS}.{name}");
    let pod = if node { "NODE" } else { "POD" };
    match known(&field, number)? {
        // The pod's own, whatever that is; and what a message says that leaves the field out.
        NamespaceMode::Pod => Ok(()),
        NamespaceMode::Node if node => Ok(()),
        _ => Err(Invalid::new(field, mode_name(number), Why::NotThePods { pod })),
    }
}

fn mode_name(number: i32) -> &'static str {
    NamespaceMode::try_from(number).map_or("?", |mode| mode.as_str_name())
}
