//! Namespace options and the id mappings of the pod's user namespace (KEP-127).

use sandboxd_api::cri::{self, NamespaceMode};

use super::{Invalid, Why, known};
use crate::pod::spec::{IdMap, IdMappings, IpcMode, Namespaces, NetworkMode, PidMode};

pub(super) const OPTIONS: &str = "config.linux.security_context.namespace_options";

/// Unset options are the CRI's default, mode POD for all and the node's user namespace.
pub(super) fn namespaces(options: Option<&cri::NamespaceOption>) -> Result<Namespaces, Invalid> {
    let default = cri::NamespaceOption::default();
    let o = options.unwrap_or(&default);
    let shared = |name: &str, number: i32| {
        let field = format!("{OPTIONS}.{name}");
        match known(&field, number)? {
            mode @ (NamespaceMode::Pod | NamespaceMode::Node) => Ok(mode == NamespaceMode::Pod),
            NamespaceMode::Container => Err(Invalid::new(field, "CONTAINER", Why::NamespaceContainer)),
            NamespaceMode::Target => Err(Invalid::new(field, "TARGET", Why::NamespaceTarget)),
        }
    };
    let network = if shared("network", o.network)? { NetworkMode::Pod } else { NetworkMode::Node };
    let ipc = if shared("ipc", o.ipc)? { IpcMode::Pod } else { IpcMode::Node };
    let pid_field = format!("{OPTIONS}.pid");
    let pid = match known(&pid_field, o.pid)? {
        NamespaceMode::Pod => PidMode::Pod,
        NamespaceMode::Container => PidMode::Container,
        NamespaceMode::Node => PidMode::Node,
        NamespaceMode::Target => return Err(Invalid::new(pid_field, "TARGET", Why::NamespaceTarget)),
    };
    if !o.target_id.is_empty() {
        return Err(Invalid::new(format!("{OPTIONS}.target_id"), &o.target_id, Why::TargetId));
    }
    let user = o.userns_options.as_ref().map_or(Ok(None), userns)?;
    if user.is_some() {
        let refused = |name: &str, why| Err(Invalid::new(format!("{OPTIONS}.{name}"), "NODE", why));
        if network == NetworkMode::Node {
            return refused("network", Why::UsernsOnNodeNetwork);
        }
        if pid == PidMode::Node {
            return refused("pid", Why::UsernsOnNodePid);
        }
        if ipc == IpcMode::Node {
            return refused("ipc", Why::UsernsOnNodeIpc);
        }
    }
    Ok(Namespaces { network, pid, ipc, user })
}

/// `userns_options`: POD with one mapping each, equal for uids and gids; NODE with none.
pub(super) fn userns(options: &cri::UserNamespace) -> Result<Option<IdMappings>, Invalid> {
    let field = |name: &str| format!("{OPTIONS}.userns_options.{name}");
    match known(&field("mode"), options.mode)? {
        NamespaceMode::Pod => {}
        NamespaceMode::Node => {
            for (name, maps) in [("uids", &options.uids), ("gids", &options.gids)] {
                if !maps.is_empty() {
                    return Err(Invalid::new(field(name), Lines(maps), Why::UsernsNodeWithMappings));
                }
            }
            return Ok(None);
        }
        NamespaceMode::Container => return Err(Invalid::new(field("mode"), "CONTAINER", Why::UsernsMode)),
        NamespaceMode::Target => return Err(Invalid::new(field("mode"), "TARGET", Why::UsernsMode)),
    }
    let uids = mapping(&field("uids"), &options.uids)?;
    let gids = mapping(&field("gids"), &options.gids)?;
    if uids != gids {
        let why = Why::MappingsDiffer { uids: format!("{:?}", Lines(&options.uids)) };
        return Err(Invalid::new(field("gids"), Lines(&options.gids), why));
    }
    Ok(Some(IdMappings { uids: vec![uids], gids: vec![gids] }))
}

/// The one line, as the kernel will take it (`map_write` in kernel/user_namespace.c): its end must not
/// wrap, so that 4294967295, "no id", is never mapped.
fn mapping(field: &str, maps: &[cri::IdMapping]) -> Result<IdMap, Invalid> {
    let refused = |why| Err(Invalid::new(field, Lines(maps), why));
    let [map] = maps else { return refused(Why::MappingCount) };
    if map.container_id != 0 {
        return refused(Why::MappingWithoutRoot);
    }
    if map.length == 0 {
        return refused(Why::MappingEmpty);
    }
    if map.host_id.checked_add(map.length).is_none() {
        return refused(Why::MappingOverflow);
    }
    Ok(IdMap { container_id: 0, host_id: map.host_id, length: map.length })
}

/// Shows mappings as lines of a uid_map: "container host length".
pub(super) struct Lines<'a>(pub(super) &'a [cri::IdMapping]);

impl std::fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let line = |m: &cri::IdMapping| format!("{} {} {}", m.container_id, m.host_id, m.length);
        f.debug_list().entries(self.0.iter().map(line)).finish()
    }
}
