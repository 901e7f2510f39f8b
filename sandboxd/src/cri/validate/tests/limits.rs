//! Sysctls, resources and the cgroup.

use super::*;

#[test]
fn sysctls() {
    let allowed = [
        ("net.ipv4.ip_forward", "net.ipv4.ip_forward"),
        ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "net.ipv4.conf.eth0/1.forwarding"),
        ("net.ipv4.conf.eth0/1.forwarding", "net.ipv4.conf.eth0/1.forwarding"),
        ("kernel.shm_rmid_forced", "kernel.shm_rmid_forced"),
        ("fs.mqueue.msg_max", "fs.mqueue.msg_max"),
        ("kernel.domainname", "kernel.domainname"),
    ];
    for (name, canonical) in allowed {
        let mut c = config();
        linux(&mut c).sysctls.insert(name.into(), "1\t2".into());
        let kept = validate(c).expect(name).sysctls;
        assert_eq!(kept.into_iter().collect::<Vec<_>>(), [(canonical.to_owned(), "1\t2".to_owned())]);
    }
    for (name, why) in [
        ("kernel.panic", Why::SysctlNotNamespaced),
        ("vm.swappiness", Why::SysctlNotNamespaced),
        ("kernel.shmmax_evil", Why::SysctlNotNamespaced),
        ("fs.mqueue", Why::SysctlNotNamespaced),
        ("netx.y", Why::SysctlNotNamespaced),
        ("kernel.hostname", Why::SysctlHostname),
        ("net/../kernel/panic", Why::SysctlName),
        ("net.//.kernel.panic", Why::SysctlName),
        ("net..ipv4", Why::SysctlName),
        ("net", Why::SysctlName),
        ("", Why::SysctlName),
        ("net.ipv4.ip forward", Why::SysctlName),
    ] {
        let mut c = config();
        linux(&mut c).sysctls.insert(name.into(), "1".into());
        let error = validate(c).expect_err(name);
        assert_eq!((error.field, error.why), (format!("config.linux.sysctls[{name:?}]"), why));
    }
    refused(&[
        (
            |c| drop(linux(c).sysctls.insert("net.a".into(), "1\n2".into())),
            "config.linux.sysctls[\"net.a\"]",
            "\"1\\n2\"",
            "control",
        ),
        (
            |c| drop(linux(c).sysctls.insert("net.a".into(), String::new())),
            "config.linux.sysctls[\"net.a\"]",
            "\"\"",
            "required",
        ),
        (
            |c| {
                linux(c).sysctls.insert("net.a".into(), "1".into());
                linux(c).sysctls.insert("net/a".into(), "2".into());
            },
            "config.linux.sysctls[\"net/a\"]",
            "\"2\"",
            "twice",
        ),
        (
            |c| {
                options(c).userns_options = None;
                options(c).ipc = NamespaceMode::Node.into();
                linux(c).sysctls.insert("kernel.sem".into(), "1".into());
            },
            "config.linux.sysctls[\"kernel.sem\"]",
            "\"1\"",
            "ipc POD",
        ),
    ]);
}

#[test]
fn resources() {
    let cases: &[Change<cri::LinuxContainerResources, &str>] = &[
        (|r| r.cpu_period = 999, "cpu_period", "999", "1000"),
        (|r| r.cpu_period = 1_000_001, "cpu_period", "1000001", "1000000"),
        (|r| r.cpu_quota = -2, "cpu_quota", "-2", "-1"),
        (|r| r.cpu_quota = 999, "cpu_quota", "999", "1000"),
        (|r| r.cpu_shares = 1, "cpu_shares", "1", "262144"),
        (|r| r.memory_limit_in_bytes = -1, "memory_limit_in_bytes", "-1", "positive"),
        (|r| r.memory_swap_limit_in_bytes = 5, "memory_swap_limit_in_bytes", "5", "memory_limit_in_bytes"),
        (|r| r.oom_score_adj = 1001, "oom_score_adj", "1001", "1000"),
        (|r| r.cpuset_cpus = "3-1".into(), "cpuset_cpus", "\"3-1\"", "0-3,8"),
        (|r| r.cpuset_mems = "0,".into(), "cpuset_mems", "\"0,\"", "0-3,8"),
        (
            |r| r.hugepage_limits = vec![cri::HugepageLimit { page_size: "2M".into(), limit: 1 }],
            "hugepage_limits[0].page_size",
            "\"2M\"",
            "2MB",
        ),
        (
            |r| drop(r.unified.insert("../memory.max".into(), "1".into())),
            "unified[\"../memory.max\"]",
            "\"1\"",
            "cgroup file",
        ),
        (
            |r| drop(r.unified.insert("cgroup.procs".into(), "1".into())),
            "unified[\"cgroup.procs\"]",
            "\"1\"",
            "cgroup file",
        ),
    ];
    for (change, name, value, word) in cases {
        for overhead in [false, true] {
            let mut r = cri::LinuxContainerResources::default();
            change(&mut r);
            let mut c = config();
            let slot = if overhead { &mut linux(&mut c).overhead } else { &mut linux(&mut c).resources };
            *slot = Some(r);
            let error = validate(c).expect_err(name);
            let of = if overhead { "overhead" } else { "resources" };
            assert_eq!(
                (error.field.clone(), error.value.as_str()),
                (format!("config.linux.{of}.{name}"), *value)
            );
            assert!(error.to_string().contains(word), "{error}");
        }
    }
    let mut c = config();
    linux(&mut c).resources = Some(cri::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: -1,
        cpu_shares: 2,
        memory_limit_in_bytes: 1 << 30,
        memory_swap_limit_in_bytes: 1 << 30,
        cpuset_cpus: "0-1,3".into(),
        ..Default::default()
    });
    let r = validate(c).expect("valid").resources;
    assert_eq!((r.cpu_quota, r.memory_limit, r.oom_score_adj), (Some(-1), Some(1 << 30), None));
}

#[test]
fn cgroup_parent() {
    refused(&[
        (|c| linux(c).cgroup_parent = "/a/../b".into(), "config.linux.cgroup_parent", "\"/a/../b\"", "'..'"),
        (|c| linux(c).cgroup_parent = "/a\0".into(), "config.linux.cgroup_parent", "\"/a\\0\"", "control"),
    ]);
}
