use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::pod::model::PodId;
use crate::pod::spec::{
    Dns, IdMap, IdMappings, Metadata, Namespaces, NetworkMode, PodSpec, Resources, Security,
};

fn plan(user: Option<IdMappings>, network: NetworkPlan) -> InfraPlan {
    let spec = PodSpec {
        metadata: Metadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 0 },
        hostname: "web-0".into(),
        log_directory: None,
        dns: Dns::default(),
        port_mappings: Vec::new(),
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
        handler: "native".into(),
        runtime_handler: String::new(),
        cgroup_parent: String::new(),
        sysctls: BTreeMap::new(),
        resources: Resources::default(),
        overhead: Resources::default(),
        namespaces: Namespaces { network: NetworkMode::Pod, pid: PidMode::Pod, ipc: IpcMode::Pod, user },
        security: Security::default(),
    };
    InfraPlan {
        pod: PodId::from_string("p".into()),
        spec,
        dir: "/run/p".into(),
        network,
        resolv_conf: Vec::new(),
        hostname: "web-0".into(),
    }
}

fn mapped() -> Option<IdMappings> {
    let map = vec![IdMap { container_id: 0, host_id: 4_221_435_904, length: 65536 }];
    Some(IdMappings { uids: map.clone(), gids: map })
}

fn kinds(spec: &Spec) -> Vec<LinuxNamespaceType> {
    spec.linux().as_ref().unwrap().namespaces().iter().flatten().map(LinuxNamespace::typ).collect()
}

fn options(spec: &Spec, destination: &str) -> (String, Vec<String>) {
    let mounts = spec.mounts().as_ref().unwrap();
    let mount = mounts.iter().find(|mount| mount.destination() == Path::new(destination)).unwrap();
    (mount.typ().clone().unwrap(), mount.options().clone().unwrap())
}

#[test]
fn a_userns_pod_has_all_namespaces_user_first() {
    let spec = infra(&plan(mapped(), NetworkPlan::New)).unwrap();
    assert_eq!(kinds(&spec).first(), Some(&LinuxNamespaceType::User));
    assert_eq!(kinds(&spec).len(), 7);
    assert_eq!(spec.hostname().as_deref(), Some("web-0"));
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 4_221_435_904);
    assert!(linux.seccomp().is_some());
    assert!(linux.masked_paths().as_ref().unwrap().iter().any(|path| path == "/proc/kcore"));
    let (typ, sys) = options(&spec, "/sys");
    assert_eq!(typ, "sysfs");
    assert!(sys.iter().any(|option| option == "ro"));
    assert_eq!(spec.process().as_ref().unwrap().oom_score_adj(), Some(-998));
}

#[test]
fn the_nodes_network_brings_its_name_and_its_sys() {
    for user in [None, mapped()] {
        let plan = plan(user, NetworkPlan::Host);
        let spec = infra(&plan).unwrap();
        assert!(!kinds(&spec).contains(&LinuxNamespaceType::Network));
        assert!(!kinds(&spec).contains(&LinuxNamespaceType::Uts));
        assert_eq!(spec.hostname(), &None);
        let (typ, sys) = options(&spec, "/sys");
        assert_eq!(typ, "bind");
        assert!(sys.iter().any(|option| option == "rro"));
        assert!(binds_sysfs(&plan));
    }
}

#[test]
fn an_older_netns_is_a_path_in_the_spec() {
    let netns: OwnedFd = File::open("/proc/self/ns/net").unwrap().into();
    let spec = infra(&plan(mapped(), NetworkPlan::Join(Arc::new(netns)))).unwrap();
    let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
    let net = namespaces.iter().find(|namespace| namespace.typ() == LinuxNamespaceType::Network).unwrap();
    assert!(net.path().as_ref().unwrap().starts_with("/proc/self/fd"));
}

#[test]
fn what_is_shared_with_the_node_is_bound() {
    let mut plan = plan(None, NetworkPlan::New);
    plan.spec.namespaces.pid = PidMode::Node;
    plan.spec.namespaces.ipc = IpcMode::Node;
    let spec = infra(&plan).unwrap();
    assert!(
        !kinds(&spec).contains(&LinuxNamespaceType::Pid) && !kinds(&spec).contains(&LinuxNamespaceType::Ipc)
    );
    assert_eq!(options(&spec, "/proc").0, "bind");
    assert_eq!(options(&spec, "/dev/shm").0, "bind");
}

#[test]
fn privileged_is_unmasked_and_unfiltered() {
    let mut plan = plan(None, NetworkPlan::New);
    plan.spec.security.privileged = true;
    let spec = infra(&plan).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert!(linux.seccomp().is_none());
    assert_eq!(linux.masked_paths().as_ref().map(Vec::len), Some(0));
    assert_eq!(linux.readonly_paths().as_ref().map(Vec::len), Some(0));
    assert!(!options(&spec, "/sys").1.iter().any(|option| option == "ro"));
}

#[test]
fn ids_outside_the_mapping_are_refused_by_number() {
    for (user, group, groups, word) in [
        (Some(65536), None, vec![], "run_as_user 65536"),
        (Some(1), Some(70000), vec![], "group 70000"),
        (None, None, vec![5, 99999], "group 99999"),
    ] {
        let mut plan = plan(mapped(), NetworkPlan::New);
        plan.spec.security = Security {
            run_as_user: user,
            run_as_group: group,
            supplemental_groups: groups,
            ..Security::default()
        };
        let error = infra(&plan).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        plan.spec.namespaces.user = None;
        infra(&plan).unwrap();
    }
}

#[test]
fn an_unprivileged_user_holds_no_capability() {
    let mut plan = plan(None, NetworkPlan::New);
    plan.spec.security.run_as_user = Some(1000);
    let spec = infra(&plan).unwrap();
    let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
    assert_eq!(sets.bounding().as_ref().unwrap().len(), 14);
    assert!(sets.permitted().as_ref().unwrap().is_empty() && sets.effective().as_ref().unwrap().is_empty());
}

#[test]
fn a_terminals_group_must_be_mapped() {
    let few = vec![IdMap { container_id: 0, host_id: 100_000, length: 5 }];
    let user = Some(IdMappings { uids: few.clone(), gids: few });
    let spec = infra(&plan(user, NetworkPlan::New)).unwrap();
    assert!(!options(&spec, "/dev/pts").1.iter().any(|option| option.starts_with("gid")));
    let spec = infra(&plan(mapped(), NetworkPlan::New)).unwrap();
    assert!(options(&spec, "/dev/pts").1.iter().any(|option| option == "gid=5"));
}
