//! ListCapabilities: what pods and containers were granted, used and were denied.

use std::collections::BTreeMap;

use sandboxd_api::console as api;
use tonic::Status;

use super::Sources;
use crate::container::model::{Container, ContainerState};
use crate::cri::CriError;
use crate::observer::{CapabilityCount, CapabilityCounts, State, names};
use crate::pod::model::{NsKind, Pod};

/// Processes of a pod that are no container's, and what is not known.
const ROLES: [&str; 3] = ["infra", "shim", ""];

/// Blocks while it reads the kernel's counts.
pub(super) fn list(
    sources: &Sources,
    request: &api::ListCapabilitiesRequest,
) -> Result<api::ListCapabilitiesResponse, Status> {
    let pods = match request.pod_id.as_str() {
        "" => sources.pods.list(),
        id => {
            let pod = sources.pods.find(id).map_err(CriError::Pod)?;
            vec![pod.ok_or_else(|| {
                Status::not_found(format!("no pod has the id {id:?}: list the pods for their ids"))
            })?]
        }
    };
    let containers = sources.containers.store().list();
    let seen = Seen::by(sources);
    let mut response = api::ListCapabilitiesResponse::default();
    for pod in pods {
        let own = containers.iter().filter(|container| container.pod == pod.id);
        let of_containers: Vec<_> = own.map(|container| seen.container(sources, &pod, container)).collect();
        response.pods.push(seen.sum(&pod, &of_containers));
        let roles = ROLES.into_iter().filter_map(|role| seen.role(sources, &pod, role));
        response.containers.extend(of_containers.into_iter().chain(roles));
    }
    Ok(response)
}

/// How much is seen.
struct Seen {
    running: bool,
    lost: u64,
    /// The daemon's start: what was before it was not counted.
    since_ns: i64,
}

impl Seen {
    fn by(sources: &Sources) -> Self {
        let status = sources.observer.status();
        let running = matches!(status.state, State::Running(_));
        Self { running, lost: status.kernel.lost, since_ns: sources.node.started_at_ns }
    }

    fn container(&self, sources: &Sources, pod: &Pod, container: &Container) -> api::ContainerCapabilities {
        let recorded = sources.observer.capabilities(&pod.id, &container.id);
        let all = sources.observer.all_capabilities(&container.id);
        let bounding = sources.containers.bounding(&container.id);
        let whole = match &all {
            // Registered before it ran.
            Some(all) => container.started_at_ns.is_none_or(|started| all.since_ns <= started),
            None => self.running && self.lost == 0 && container.created_at_ns >= self.since_ns,
        };
        let since_ns = all.as_ref().map_or(self.since_ns.max(container.created_at_ns), |all| all.since_ns);
        let every = all.is_some();
        let counts = match all {
            Some(all) => with_syscalls(all.counts, &recorded),
            None => recorded,
        };
        let capabilities = uses(bounding.unwrap_or(0), &counts);
        let ran = container.state != ContainerState::Created;
        let suggested_drop = match (every, bounding, ran) {
            (true, Some(_), true) => {
                let unused = capabilities.iter().filter(|c| c.granted && c.used == 0);
                unused.map(|c| c.name.clone()).collect()
            }
            _ => Vec::new(),
        };
        api::ContainerCapabilities {
            container_id: container.id.to_string(),
            container: container.spec.metadata.name.clone(),
            capabilities,
            observed_since_ns: since_ns,
            whole_life: whole,
            suggested_drop,
            caveat: self.caveat(every, whole, ran),
            ..of_pod(pod)
        }
    }

    fn role(&self, sources: &Sources, pod: &Pod, role: &str) -> Option<api::ContainerCapabilities> {
        let counts = sources.observer.capabilities_of_role(&pod.id, role);
        (!counts.is_empty()).then(|| api::ContainerCapabilities {
            container: role.to_owned(),
            capabilities: uses(0, &counts),
            observed_since_ns: self.since_ns.max(pod.created_at_ns),
            whole_life: self.running && self.lost == 0 && pod.created_at_ns >= self.since_ns,
            caveat: "sandboxd itself gives these processes their capabilities: nothing to drop here. Only checks in \
                     syscalls of mounting and of namespaces are counted."
                .to_owned(),
            ..of_pod(pod)
        })
    }

    /// A pod's containers together: what none of them used may be dropped from those that have it.
    fn sum(&self, pod: &Pod, containers: &[api::ContainerCapabilities]) -> api::ContainerCapabilities {
        let mut all: BTreeMap<u32, api::CapabilityUse> = BTreeMap::new();
        for one in containers.iter().flat_map(|container| &container.capabilities) {
            let sum = all.entry(one.capability).or_insert_with(|| api::CapabilityUse {
                capability: one.capability,
                name: one.name.clone(),
                ..api::CapabilityUse::default()
            });
            sum.granted |= one.granted;
            sum.used += one.used;
            sum.denied += one.denied;
            if one.last_ns >= sum.last_ns {
                sum.last_ns = one.last_ns;
                sum.last_syscall.clone_from(&one.last_syscall);
            }
        }
        let suggested = |name: &String| {
            let has = |c: &&api::ContainerCapabilities| {
                c.capabilities.iter().any(|one| one.granted && one.name == *name)
            };
            containers.iter().filter(has).all(|container| container.suggested_drop.contains(name))
        };
        let suggested_drop = all.values().filter(|one| one.granted).map(|one| one.name.clone());
        api::ContainerCapabilities {
            suggested_drop: suggested_drop.filter(suggested).collect(),
            capabilities: all.into_values().collect(),
            observed_since_ns: containers.iter().map(|c| c.observed_since_ns).max().unwrap_or(0),
            whole_life: containers.iter().all(|container| container.whole_life),
            caveat: containers.first().map(|container| container.caveat.clone()).unwrap_or_default(),
            ..of_pod(pod)
        }
    }

    fn caveat(&self, every: bool, whole: bool, ran: bool) -> String {
        let mut words = Vec::new();
        if !self.running {
            words.push("The observer does not run: nothing is counted.");
        } else if every {
            words.push(
                "Every check of the container's processes is counted, in any syscall. What was not asked for so far \
                 may still be needed in a case that has not come up: an error path, a restart, another load. A check \
                 that passes counts as use also where the program would get along without.",
            );
        } else {
            words.push(
                "Only checks in syscalls of mounting and of namespaces are counted: that a capability was not used \
                 there says nothing, so none is suggested to be dropped. observer.all_capabilities = true counts \
                 those of all syscalls.",
            );
        }
        if self.running && !whole {
            words.push("Not all of its life was observed.");
        }
        if self.running && !ran {
            words.push("It has not been started.");
        }
        if !every && self.lost > 0 {
            words.push("Some checks of this node were lost.");
        }
        words.join(" ")
    }
}

fn of_pod(pod: &Pod) -> api::ContainerCapabilities {
    let metadata = &pod.spec.metadata;
    api::ContainerCapabilities {
        pod_id: pod.id.to_string(),
        pod_name: format!("{}/{}", metadata.namespace, metadata.name),
        // One that failed before it had its namespaces is known by what it asked for.
        userns: match pod.namespace(NsKind::User) {
            Some(userns) => !userns.host,
            None => pod.spec.namespaces.user.is_some(),
        },
        ..api::ContainerCapabilities::default()
    }
}

/// The kernel's counts know no syscall; the recorded checks do.
fn with_syscalls(mut all: CapabilityCounts, recorded: &CapabilityCounts) -> CapabilityCounts {
    for (capability, count) in &mut all {
        count.last_syscall = recorded.get(capability).and_then(|recorded| recorded.last_syscall);
    }
    all
}

/// What was granted or asked for, by number.
fn uses(bounding: u64, counts: &CapabilityCounts) -> Vec<api::CapabilityUse> {
    let granted = |capability: u32| bounding.checked_shr(capability).is_some_and(|bits| bits & 1 == 1);
    let of = |capability: u32| {
        let count: Option<&CapabilityCount> = counts.get(&capability);
        (granted(capability) || count.is_some()).then(|| api::CapabilityUse {
            capability,
            name: names::capability(capability),
            granted: granted(capability),
            used: count.map_or(0, |count| count.used),
            denied: count.map_or(0, |count| count.denied),
            last_ns: count.map_or(0, |count| count.last_ns),
            last_syscall: count
                .and_then(|count| count.last_syscall)
                .map(|syscall| syscall.name().to_owned())
                .unwrap_or_default(),
        })
    };
    (0..=names::CAPABILITY_LAST).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::model::test_pod;

    const SEEN: Seen = Seen { running: true, lost: 0, since_ns: 1 };

    fn counts(used: &[(u32, u64, u64)]) -> CapabilityCounts {
        used.iter()
            .map(|&(capability, used, denied)| {
                (capability, CapabilityCount { used, denied, last_ns: 9, last_syscall: None })
            })
            .collect()
    }

    #[test]
    fn granted_and_asked_for_are_listed_together() {
        let listed = uses(1 << 21 | 1 << 13, &counts(&[(21, 3, 0), (25, 0, 2)]));
        let told: Vec<_> = listed.iter().map(|c| (c.name.as_str(), c.granted, c.used, c.denied)).collect();
        let expected =
            [("CAP_NET_RAW", true, 0, 0), ("CAP_SYS_ADMIN", true, 3, 0), ("CAP_SYS_TIME", false, 0, 2)];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_pod_may_drop_what_none_of_those_that_have_it_used() {
        let one = |bounding, used: &[(u32, u64, u64)], drop: &[&str]| api::ContainerCapabilities {
            capabilities: uses(bounding, &counts(used)),
            suggested_drop: drop.iter().map(|name| (*name).to_owned()).collect(),
            ..of_pod(&test_pod("web"))
        };
        let (a, b) = (
            one(1 << 13 | 1 << 21, &[(21, 1, 0)], &["CAP_NET_RAW"]),
            one(1 << 21 | 1 << 25, &[(25, 1, 0)], &["CAP_SYS_ADMIN"]),
        );
        let sum = SEEN.sum(&test_pod("web"), &[a, b]);
        assert_eq!(sum.suggested_drop, ["CAP_NET_RAW"], "{sum:?}");
        assert_eq!((sum.container.as_str(), sum.capabilities.len()), ("", 3));
    }

    #[test]
    fn what_is_not_seen_is_said() {
        assert!(SEEN.caveat(false, true, true).contains("observer.all_capabilities"));
        assert!(SEEN.caveat(true, false, true).contains("Not all of its life"));
        assert!(SEEN.caveat(true, true, true).contains("another load"));
        let blind = Seen { running: false, ..SEEN };
        assert!(blind.caveat(false, false, true).contains("nothing is counted"));
    }
}
