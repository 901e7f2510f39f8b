//! The inventory as the console's messages.

use sandboxd_api::console as api;

use super::{Found, Hold, Inventory, Missing, Process, State};
use crate::pod::model::NsKind;

/// The answer with the namespaces that are asked for.
#[must_use]
pub fn response(
    inventory: &Inventory,
    kind: Option<NsKind>,
    leaked_only: bool,
) -> api::ListNamespacesResponse {
    let wanted = |found: &&Found| {
        kind.is_none_or(|kind| found.kind == kind) && (!leaked_only || found.state == State::Leaked)
    };
    api::ListNamespacesResponse {
        namespaces: inventory.namespaces.iter().filter(wanted).map(Into::into).collect(),
        read_at_ns: inventory.read_at_ns,
        took_ns: u64::try_from(inventory.took.as_nanos()).unwrap_or(u64::MAX),
        degradations: inventory.missing.iter().map(Into::into).collect(),
    }
}

impl From<&Found> for api::HostNamespace {
    fn from(found: &Found) -> Self {
        let state = match found.state {
            State::InUse => api::host_namespace::State::InUse,
            State::Pinned => api::host_namespace::State::Pinned,
            State::Held => api::host_namespace::State::Held,
            State::Leaked => api::host_namespace::State::Leaked,
        };
        let range = |&(container_id, host_id, length)| api::IdRange { container_id, host_id, length };
        Self {
            kind: found.kind.name().to_owned(),
            inode: found.inode.0,
            owner_inode: found.owner.map_or(0, |owner| owner.0),
            owner_uid: found.owner_uid.unwrap_or_default(),
            state: state.into(),
            process_count: u32::try_from(found.process_count).unwrap_or(u32::MAX),
            processes: found.processes.iter().map(Into::into).collect(),
            holds: found.holds.iter().map(Into::into).collect(),
            pod_id: found.pod_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            pod_name: found.pod_name.clone(),
            wrong_owner: found.wrong_owner,
            message: found.message.clone(),
            uid_map: found.uid_map.iter().map(range).collect(),
            host: found.host,
        }
    }
}

impl From<&Process> for api::Process {
    fn from(process: &Process) -> Self {
        Self { pid: process.pid, comm: process.comm.clone(), role: process.role.clone() }
    }
}

impl From<&Hold> for api::Hold {
    fn from(hold: &Hold) -> Self {
        let of = |kind: &str, what: String, process: Option<&Process>| Self {
            kind: kind.to_owned(),
            what,
            pid: process.map_or(0, |process| process.pid),
            comm: process.map(|process| process.comm.clone()).unwrap_or_default(),
        };
        match hold {
            Hold::Pin(pin) => of("pin", pin.path.display().to_string(), Some(&pin.witness)),
            Hold::Descriptor { holder, fd } => {
                of("fd", format!("/proc/{}/fd/{fd}", holder.pid), Some(holder))
            }
            Hold::ForChildren { holder } => of("for-children", format!("/proc/{}", holder.pid), Some(holder)),
            Hold::Child { inode, .. } => of("child", inode.to_string(), None),
        }
    }
}

impl From<&Missing> for api::Degradation {
    fn from(missing: &Missing) -> Self {
        Self { name: missing.name(), message: missing.message() }
    }
}
