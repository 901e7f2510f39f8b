//! What the ownership alone tells, where no observer saw the check: the daemon asked NS_GET_USERNS itself.

use super::explain::Explanation;
use super::reason::Reason;
use crate::pod::model::{FlowKind, NsInode, NsKind, Pod};

/// Why a pod with a user namespace may not mount sysfs: its network namespace is older than, and so not
/// owned by, that user namespace. `None` where the ownership does not tell.
#[must_use]
pub fn sysfs_denied(pod: &Pod) -> Option<Explanation> {
    pod.spec.namespaces.user.as_ref()?;
    let netns = pod.namespace(NsKind::Net)?;
    let owner = netns.owner?;
    let own = pod.namespace(NsKind::User).map(|userns| userns.inode);
    if own == Some(owner) {
        return None;
    }
    let reason =
        Reason::NetnsOwnedByOtherUserns { netns: netns.inode, owner, caller: own.unwrap_or(NsInode(0)) };
    let made_by = match pod.flow {
        FlowKind::NetworkFirst => {
            "It was made by sandboxd, before the pod's user namespace (flow network-first)."
        }
        FlowKind::RuntimeFirst => "",
    };
    Some(Explanation {
        code: reason.code(),
        headline: format!(
            "The pod may not mount sysfs: its network namespace {} is owned by user namespace {owner}, not by the pod's own.",
            netns.inode
        ),
        asked: "Mounting sysfs asks for CAP_SYS_ADMIN in the user namespace that owns the caller's network \
                namespace (net_current_may_mount). The check itself was not seen: the observer is not running."
            .to_owned(),
        target: format!("User namespace {owner} owns network namespace {} (NS_GET_USERNS).", netns.inode),
        caller: "The infra container is in the pod's own user namespace.".to_owned(),
        made_by: made_by.to_owned(),
        fix: "Use a handler with flow = \"runtime-first\" (sandboxd's default): it makes the user namespace \
              first, so that it owns the network namespace."
            .to_owned(),
        sources: vec![
            "net/core/net-sysfs.c: net_current_may_mount",
            "ioctl_ns(2)",
            "https://github.com/containerd/containerd/issues/6908",
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::model::{NamespaceInfo, test_pod};

    fn with_owner(owner: u64) -> Pod {
        let mut pod = test_pod("web");
        for (kind, inode, owner) in [(NsKind::User, 7, 1), (NsKind::Net, 8, owner)] {
            let (inode, owner) = (NsInode(inode), Some(NsInode(owner)));
            pod.namespaces.push(NamespaceInfo { kind, inode, owner, host: false, pin: None });
        }
        pod
    }

    #[test]
    fn only_a_foreign_owner_explains() {
        assert_eq!(sysfs_denied(&with_owner(7)), None);
        let told = sysfs_denied(&with_owner(1)).unwrap();
        assert_eq!(told.code, "netns-owned-by-other-userns");
        assert!(
            told.brief().contains("network namespace 8 is owned by user namespace 1"),
            "{}",
            told.brief()
        );
        let mut without = with_owner(1);
        without.spec.namespaces.user = None;
        assert_eq!(sysfs_denied(&without), None);
    }
}
