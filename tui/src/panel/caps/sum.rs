//! What the processes of one pod may do and did, added up.

use std::collections::BTreeMap;

use sandboxd_api::console::{CapabilityUse, ContainerCapabilities};

/// Who may have a capability, by what is known. The later ones win where several processes are added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grant {
    /// Of processes that are no container's and not sandboxd's own.
    #[default]
    Unknown,
    /// The infra container and the shim have what sandboxd gives them; no specification asks for it.
    Sandboxd,
    No,
    Yes,
}

impl Grant {
    pub fn of(one: &ContainerCapabilities, usage: &CapabilityUse) -> Self {
        match (usage.granted, one.container_id.as_str(), one.container.as_str()) {
            (true, ..) => Self::Yes,
            (false, "", "") => Self::Unknown,
            (false, "", _) => Self::Sandboxd,
            (false, ..) => Self::No,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Yes => "granted",
            Self::No => "not granted",
            Self::Sandboxd => "by sandboxd",
            Self::Unknown => "",
        }
    }
}

/// The containers of one pod, added up.
#[derive(Debug, Default)]
pub struct Sum {
    pub name: String,
    /// By number.
    pub uses: BTreeMap<u32, (CapabilityUse, Grant)>,
    pub unused: usize,
    pub userns: bool,
}

impl Sum {
    pub fn of(containers: &[&ContainerCapabilities]) -> Self {
        let mut sum = Self { userns: true, ..Self::default() };
        for one in containers {
            sum.name.clone_from(&one.pod_name);
            sum.userns &= one.userns;
            for usage in &one.capabilities {
                let (all, grant) = sum.uses.entry(usage.capability).or_insert_with(|| {
                    let (capability, name) = (usage.capability, usage.name.clone());
                    (CapabilityUse { capability, name, ..CapabilityUse::default() }, Grant::default())
                });
                *grant = Grant::of(one, usage).max(*grant);
                all.granted |= usage.granted;
                all.used += usage.used;
                all.denied += usage.denied;
                if usage.last_ns > all.last_ns {
                    all.last_ns = usage.last_ns;
                    all.last_syscall.clone_from(&usage.last_syscall);
                }
            }
        }
        sum.unused = sum.count(|usage| usage.granted && usage.used == 0);
        sum
    }

    pub fn denied(&self) -> u64 {
        self.uses.values().map(|(usage, _)| usage.denied).sum()
    }

    pub fn count(&self, which: impl Fn(&CapabilityUse) -> bool) -> usize {
        self.uses.values().filter(|(usage, _)| which(usage)).count()
    }
}

pub fn by_pod(containers: &[ContainerCapabilities]) -> BTreeMap<String, Sum> {
    let mut of: BTreeMap<&str, Vec<&ContainerCapabilities>> = BTreeMap::new();
    for one in containers {
        of.entry(&one.pod_id).or_default().push(one);
    }
    of.into_iter().map(|(id, containers)| (id.to_owned(), Sum::of(&containers))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(container: &str, id: &str, capability: u32, granted: bool) -> ContainerCapabilities {
        ContainerCapabilities {
            container: container.to_owned(),
            container_id: id.to_owned(),
            capabilities: vec![CapabilityUse { capability, granted, denied: 1, ..CapabilityUse::default() }],
            ..ContainerCapabilities::default()
        }
    }

    #[test]
    fn only_a_container_is_granted_or_refused_something() {
        let all = [
            asked("infra", "", 21, false),
            asked("", "", 21, false),
            asked("infra", "", 12, false),
            asked("web", "a", 12, false),
            asked("infra", "", 7, false),
            asked("web", "a", 7, false),
            asked("proxy", "b", 7, true),
            asked("", "", 1, false),
        ];
        let sum = Sum::of(&all.iter().collect::<Vec<_>>());
        let words: Vec<_> =
            sum.uses.values().map(|(usage, grant)| (usage.capability, grant.word())).collect();
        assert_eq!(words, [(1, ""), (7, "granted"), (12, "not granted"), (21, "by sandboxd")]);
        assert_eq!((sum.denied(), sum.unused), (8, 1));
    }
}
