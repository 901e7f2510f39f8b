//! Many bad requests: each error names the field and the value.

use proptest::prelude::*;
use sandboxd_api::cri::{self, NamespaceMode, security_profile::ProfileType};

use super::*;
use crate::pod::spec::{IdMap, NetworkMode, Protocol, Seccomp};

fn config() -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 1,
        }),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(cri::NamespaceOption {
                    userns_options: Some(userns(vec![map(0, 65_536, 65_536)])),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn map(container_id: u32, host_id: u32, length: u32) -> cri::IdMapping {
    cri::IdMapping { host_id, container_id, length }
}

fn userns(maps: Vec<cri::IdMapping>) -> cri::UserNamespace {
    cri::UserNamespace { mode: NamespaceMode::Pod.into(), uids: maps.clone(), gids: maps }
}

fn validate(config: cri::PodSandboxConfig) -> Result<PodSpec, Invalid> {
    let host = Host { hostname: "node-1".into(), apparmor: false, selinux: false };
    pod_spec(config, "native".into(), String::new(), &host)
}

fn linux(c: &mut cri::PodSandboxConfig) -> &mut cri::LinuxPodSandboxConfig {
    c.linux.as_mut().expect("set")
}

fn context(c: &mut cri::PodSandboxConfig) -> &mut cri::LinuxSandboxSecurityContext {
    linux(c).security_context.as_mut().expect("set")
}

fn options(c: &mut cri::PodSandboxConfig) -> &mut cri::NamespaceOption {
    context(c).namespace_options.as_mut().expect("set")
}

/// A change to a good request, the field it breaks, the value shown, and a word of the reason.
type Change<T, W> = (fn(&mut T), &'static str, &'static str, W);
type Case = Change<cri::PodSandboxConfig, &'static str>;

fn refused(cases: &[Case]) {
    for (i, (change, field, value, word)) in cases.iter().enumerate() {
        let mut c = config();
        change(&mut c);
        let error = validate(c).expect_err(field);
        assert_eq!((error.field.as_str(), error.value.as_str()), (*field, *value), "case {i}: {error}");
        assert!(error.to_string().contains(word), "case {i}: {error}");
    }
}

#[test]
fn a_kubelet_request_passes() {
    let spec = validate(config()).expect("valid");
    let user = spec.namespaces.user.expect("userns");
    assert_eq!(user.uids, [IdMap { container_id: 0, host_id: 65_536, length: 65_536 }]);
    assert_eq!(user.uids, user.gids);
    assert_eq!(spec.namespaces.network, NetworkMode::Pod);
}

#[test]
fn without_linux_the_defaults_hold() {
    let spec = validate(cri::PodSandboxConfig { linux: None, ..config() }).expect("valid");
    assert_eq!(spec.namespaces.user, None);
    assert_eq!(spec.security.seccomp, Seccomp::RuntimeDefault);
}

#[test]
fn identity() {
    refused(&[
        (|c| c.metadata = None, "config.metadata", "\"\"", "required"),
        (|c| c.metadata.as_mut().unwrap().name.clear(), "config.metadata.name", "\"\"", "required"),
        (|c| c.metadata.as_mut().unwrap().uid.clear(), "config.metadata.uid", "\"\"", "required"),
        (|c| c.metadata.as_mut().unwrap().namespace.clear(), "config.metadata.namespace", "\"\"", "required"),
        (
            |c| c.metadata.as_mut().unwrap().name = "a;IgnoreUnknown=1".into(),
            "config.metadata.name",
            "\"a;IgnoreUnknown=1\"",
            "CNI_ARGS",
        ),
        (|c| c.metadata.as_mut().unwrap().uid = "a\nb".into(), "config.metadata.uid", "\"a\\nb\"", "control"),
        (|c| c.hostname = "-web".into(), "config.hostname", "\"-web\"", "RFC 1123"),
        (|c| c.hostname = "we_b".into(), "config.hostname", "\"we_b\"", "RFC 1123"),
        (|c| c.hostname = "a..b".into(), "config.hostname", "\"a..b\"", "RFC 1123"),
        (|c| c.log_directory = "var/log".into(), "config.log_directory", "\"var/log\"", "absolute"),
        (|c| c.log_directory = "/var/log/../x".into(), "config.log_directory", "\"/var/log/../x\"", "'..'"),
        (|c| c.windows = Some(Default::default()), "config.windows", "\"set\"", "Linux"),
    ]);
    let mut c = config();
    c.hostname = format!("{}.{}", "a".repeat(32), "b".repeat(32));
    let error = validate(c).expect_err("65 bytes");
    assert_eq!((error.field.as_str(), &error.why), ("config.hostname", &Why::HostnameLength));
}

#[test]
fn labels_and_annotations_are_kept_byte_for_byte() {
    let mut c = config();
    c.annotations.insert("k".into(), "{\"a\": \"ü\\n\"}\n\t ".into());
    c.labels.insert("io.kubernetes.pod.name".into(), String::new());
    let spec = validate(c.clone()).expect("valid");
    assert_eq!(spec.annotations.into_iter().collect::<std::collections::HashMap<_, _>>(), c.annotations);
    assert_eq!(spec.labels.into_iter().collect::<std::collections::HashMap<_, _>>(), c.labels);
}

#[test]
fn dns() {
    fn dns(c: &mut cri::PodSandboxConfig) -> &mut cri::DnsConfig {
        c.dns_config.get_or_insert_default()
    }
    refused(&[
        (
            |c| dns(c).servers = vec!["1.1.1.1".into(), "dns.example".into()],
            "config.dns_config.servers[1]",
            "\"dns.example\"",
            "address",
        ),
        (
            |c| dns(c).servers = vec!["1.1.1.1\nnameserver 6.6.6.6".into()],
            "config.dns_config.servers[0]",
            "\"1.1.1.1\\nnameserver 6.6.6.6\"",
            "address",
        ),
        (
            |c| dns(c).searches = vec!["a\nnameserver 6.6.6.6".into()],
            "config.dns_config.searches[0]",
            "\"a\\nnameserver 6.6.6.6\"",
            "resolv.conf",
        ),
        (
            |c| dns(c).options = vec!["ndots:5".into(), "a b".into()],
            "config.dns_config.options[1]",
            "\"a b\"",
            "resolv.conf",
        ),
        (|c| dns(c).searches = vec![String::new()], "config.dns_config.searches[0]", "\"\"", "required"),
        (|c| dns(c).searches = vec!["a".into(); 33], "config.dns_config.searches", "33 entries", "32"),
        (|c| dns(c).searches = vec!["a".repeat(200); 20], "config.dns_config.searches", "4020 bytes", "2048"),
    ]);
    let mut c = config();
    dns(&mut c).servers = vec!["fd00::a".into(), "fe80::1%eth0".into(), "10.96.0.10".into()];
    dns(&mut c).searches = vec![".".into(), "svc.cluster.local".into()];
    assert_eq!(validate(c).expect("valid").dns.servers.len(), 3);
}

fn port(host_port: i32, container_port: i32) -> cri::PortMapping {
    cri::PortMapping { host_port, container_port, ..Default::default() }
}

#[test]
fn ports() {
    refused(&[
        (|c| c.port_mappings = vec![port(80, 0)], "config.port_mappings[0].container_port", "0", "65535"),
        (|c| c.port_mappings = vec![port(0, -1)], "config.port_mappings[0].container_port", "-1", "65535"),
        (|c| c.port_mappings = vec![port(65_536, 80)], "config.port_mappings[0].host_port", "65536", "65535"),
        (|c| c.port_mappings = vec![port(-1, 80)], "config.port_mappings[0].host_port", "-1", "65535"),
        (
            |c| c.port_mappings = vec![port(80, 80), port(80, 81)],
            "config.port_mappings[1].host_port",
            "80",
            "container port 80",
        ),
        (
            |c| c.port_mappings = vec![cri::PortMapping { host_ip: "local".into(), ..port(80, 80) }],
            "config.port_mappings[0].host_ip",
            "\"local\"",
            "IP",
        ),
        (
            |c| c.port_mappings = vec![cri::PortMapping { protocol: 3, ..port(80, 80) }],
            "config.port_mappings[0].protocol",
            "3",
            "enum",
        ),
    ]);
    let mut c = config();
    let udp = cri::PortMapping { protocol: cri::Protocol::Udp.into(), host_ip: "::1".into(), ..port(53, 53) };
    c.port_mappings = vec![port(0, 8080), port(80, 8080), port(80, 8080), udp];
    let kept = validate(c).expect("valid").port_mappings;
    assert_eq!(kept.len(), 2, "0 asks for nothing, equal ones are one");
    assert_eq!((kept[1].protocol, kept[1].host_ip), (Protocol::Udp, Some("::1".parse().unwrap())));
}

#[test]
fn on_the_nodes_network() {
    fn node(c: &mut cri::PodSandboxConfig) {
        options(c).userns_options = None;
        options(c).network = NamespaceMode::Node.into();
    }
    let mut c = config();
    node(&mut c);
    c.port_mappings = vec![port(80, 80)];
    c.hostname = "node-1".into();
    assert_eq!(validate(c).expect("valid").port_mappings, []);
    refused(&[
        (
            |c| {
                node(c);
                c.port_mappings = vec![port(80, 81)];
            },
            "config.port_mappings[0].host_port",
            "80",
            "node's",
        ),
        (
            |c| {
                node(c);
                c.hostname = "web".into();
            },
            "config.hostname",
            "\"web\"",
            "rename the node",
        ),
        (
            |c| {
                node(c);
                linux(c).sysctls.insert("net.core.somaxconn".into(), "9".into());
            },
            "config.linux.sysctls[\"net.core.somaxconn\"]",
            "\"9\"",
            "network POD",
        ),
        (
            |c| {
                node(c);
                linux(c).sysctls.insert("kernel.domainname".into(), "d".into());
            },
            "config.linux.sysctls[\"kernel.domainname\"]",
            "\"d\"",
            "UTS",
        ),
    ]);
}

#[test]
fn namespaces() {
    const O: &str = "config.linux.security_context.namespace_options";
    let cases: &[Change<cri::NamespaceOption, Why>] = &[
        (
            |o| o.network = NamespaceMode::Container.into(),
            "network",
            "\"CONTAINER\"",
            Why::NamespaceContainer,
        ),
        (|o| o.network = NamespaceMode::Target.into(), "network", "\"TARGET\"", Why::NamespaceTarget),
        (|o| o.ipc = NamespaceMode::Container.into(), "ipc", "\"CONTAINER\"", Why::NamespaceContainer),
        (|o| o.pid = NamespaceMode::Target.into(), "pid", "\"TARGET\"", Why::NamespaceTarget),
        (|o| o.pid = 7, "pid", "7", Why::UnknownEnum),
        (|o| o.target_id = "abc".into(), "target_id", "\"abc\"", Why::TargetId),
        (|o| o.network = NamespaceMode::Node.into(), "network", "\"NODE\"", Why::UsernsOnNodeNetwork),
        (|o| o.pid = NamespaceMode::Node.into(), "pid", "\"NODE\"", Why::UsernsOnNodePid),
        (|o| o.ipc = NamespaceMode::Node.into(), "ipc", "\"NODE\"", Why::UsernsOnNodeIpc),
    ];
    for (change, name, value, why) in cases {
        let mut c = config();
        change(options(&mut c));
        let error = validate(c).expect_err(name);
        assert_eq!(error, Invalid { field: format!("{O}.{name}"), value: (*value).into(), why: why.clone() });
    }
    let mut c = config();
    options(&mut c).pid = NamespaceMode::Container.into();
    assert!(validate(c).is_ok());
}

fn mapped(options: cri::UserNamespace) -> Result<PodSpec, Invalid> {
    let mut c = config();
    self::options(&mut c).userns_options = Some(options);
    validate(c)
}

#[test]
fn mappings() {
    let gids = |gids: Vec<_>| cri::UserNamespace { gids, ..userns(vec![map(0, 1000, 10)]) };
    let mode = |mode: i32| cri::UserNamespace { mode, ..userns(vec![map(0, 1000, 10)]) };
    for (options, name, value, word) in [
        (userns(vec![]), "uids", "[]", "exactly one"),
        (userns(vec![map(0, 1, 1), map(1, 2, 1)]), "uids", "[\"0 1 1\", \"1 2 1\"]", "exactly one"),
        (userns(vec![map(1, 1000, 10)]), "uids", "[\"1 1000 10\"]", "id 0"),
        (userns(vec![map(0, 1000, 0)]), "uids", "[\"0 1000 0\"]", "nothing"),
        (userns(vec![map(0, u32::MAX, 1)]), "uids", "[\"0 4294967295 1\"]", "beyond"),
        (userns(vec![map(0, 4_294_901_760, 65_536)]), "uids", "[\"0 4294901760 65536\"]", "beyond"),
        (gids(vec![map(0, 1000, 11)]), "gids", "[\"0 1000 11\"]", "[\"0 1000 10\"]"),
        (gids(vec![map(0, 1001, 10)]), "gids", "[\"0 1001 10\"]", "equal"),
        (gids(vec![]), "gids", "[]", "exactly one"),
        (mode(NamespaceMode::Node.into()), "uids", "[\"0 1000 10\"]", "maps nothing"),
        (mode(NamespaceMode::Container.into()), "mode", "\"CONTAINER\"", "POD"),
        (mode(NamespaceMode::Target.into()), "mode", "\"TARGET\"", "POD"),
        (mode(9), "mode", "9", "enum"),
    ] {
        let error = mapped(options).expect_err(name);
        let field = format!("config.linux.security_context.namespace_options.userns_options.{name}");
        assert_eq!((error.field, error.value.as_str()), (field, value));
        assert!(error.why.to_string().contains(word), "{}", error.why);
    }
    let node = cri::UserNamespace { mode: NamespaceMode::Node.into(), ..Default::default() };
    assert_eq!(mapped(node).expect("valid").namespaces.user, None);
    // kubelet without a subuid file picked this base; and the highest range there is.
    for (host, length) in
        [(4_221_435_904, 65_536), (4_294_901_760, 65_535), (4_294_967_294, 1), (0, u32::MAX)]
    {
        assert!(mapped(userns(vec![map(0, host, length)])).is_ok(), "{host} {length}");
    }
}

proptest! {
    /// Taken exactly when the kernel takes it: the line's end does not wrap.
    #[test]
    fn any_single_line(host: u32, length: u32) {
        let fits = length > 0 && u64::from(host) + u64::from(length) <= u64::from(u32::MAX);
        let result = mapped(userns(vec![map(0, host, length)]));
        prop_assert_eq!(result.is_ok(), fits);
        if let Ok(spec) = result {
            let user = spec.namespaces.user.expect("userns");
            prop_assert_eq!(user.host_root(), (host, host));
            prop_assert_eq!(user.host_uid(length - 1), Some(host + (length - 1)));
            prop_assert_eq!(user.host_gid(length), None);
        }
    }

    /// An id passes exactly when the pod maps it.
    #[test]
    fn ids_must_be_mapped(length in 1u32..200_000, id in 0i64..400_000) {
        let mut c = config();
        options(&mut c).userns_options = Some(userns(vec![map(0, 100_000, length)]));
        context(&mut c).run_as_user = Some(cri::Int64Value { value: id });
        prop_assert_eq!(validate(c).is_ok(), id < i64::from(length));
    }

    /// No sysctl outside the pod's namespaces passes, however it is spelled.
    #[test]
    fn only_namespaced_sysctls(words in prop::collection::vec("(net|kernel|vm|user|fs|sem|shmmax|\\.\\.|\\.|ipv4|x/y|)", 1..5), slash: bool) {
        let name = words.join(if slash { "/" } else { "." });
        let mut c = config();
        linux(&mut c).sysctls.insert(name, "1".into());
        if let Ok(spec) = validate(c) {
            for name in spec.sysctls.keys() {
                // '.' joins directories, '/' stands for a '.' in a name.
                let path: String = name.chars().map(|c| match c { '.' => '/', '/' => '.', c => c }).collect();
                prop_assert!(path.split('/').all(|p| !p.is_empty() && p != "." && p != ".."), "{}", path);
                prop_assert!(path.starts_with("net/") || path == "kernel/sem" || path == "kernel/shmmax", "{}", path);
            }
        }
    }

    /// Whatever is refused, the words stay readable.
    #[test]
    fn errors_are_bounded(hostname in ".{0,3000}") {
        let mut c = config();
        c.hostname = hostname;
        if let Err(error) = validate(c) {
            prop_assert!(error.to_string().len() < 600);
        }
    }
}

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

fn profile(kind: ProfileType, localhost_ref: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: localhost_ref.into() })
}

#[test]
fn security() {
    const S: &str = "config.linux.security_context";
    fn value(value: i64) -> Option<cri::Int64Value> {
        Some(cri::Int64Value { value })
    }
    let cases: Vec<Change<cri::LinuxSandboxSecurityContext, Why>> = vec![
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.run_as_user = value(-1)),
            "run_as_user",
            "-1",
            Why::IdRange,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.run_as_user = value(4_294_967_295)),
            "run_as_user",
            "4294967295",
            Why::IdRange,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.run_as_user = value(65_536)),
            "run_as_user",
            "65536",
            Why::IdUnmapped { length: 65_536 },
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.run_as_group = value(5)),
            "run_as_group",
            "5",
            Why::GroupWithoutUser,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.supplemental_groups = vec![1, 70_000]),
            "supplemental_groups[1]",
            "70000",
            Why::IdUnmapped { length: 65_536 },
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.supplemental_groups_policy = 2),
            "supplemental_groups_policy",
            "2",
            Why::UnknownEnum,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| {
                s.seccomp = profile(ProfileType::Localhost, "x.json");
            }),
            "seccomp.localhost_ref",
            "\"x.json\"",
            Why::NotAbsolute,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.seccomp = profile(ProfileType::Unconfined, "/x")),
            "seccomp.localhost_ref",
            "\"/x\"",
            Why::RefWithoutLocalhost,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.seccomp_profile_path = "localhost/x".into()),
            "seccomp_profile_path",
            "\"localhost/x\"",
            Why::SeccompPath,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.seccomp_profile_path = "default".into()),
            "seccomp_profile_path",
            "\"default\"",
            Why::SeccompPath,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| {
                s.seccomp = profile(ProfileType::RuntimeDefault, "");
                s.seccomp_profile_path = "unconfined".into();
            }),
            "seccomp_profile_path",
            "\"unconfined\"",
            Why::SeccompContradiction,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| s.apparmor = profile(ProfileType::Localhost, "web")),
            "apparmor.localhost_ref",
            "\"web\"",
            Why::AppArmorOff,
        ),
        (
            (|s: &mut cri::LinuxSandboxSecurityContext| {
                s.selinux_options = Some(cri::SeLinuxOption { level: "s0".into(), ..Default::default() });
            }),
            "selinux_options.level",
            "\"s0\"",
            Why::SelinuxOff,
        ),
    ];
    for (change, name, value, why) in cases {
        let mut c = config();
        change(context(&mut c));
        assert_eq!(
            validate(c).expect_err(name),
            Invalid { field: format!("{S}.{name}"), value: value.into(), why }
        );
    }
}

#[test]
fn what_security_may_ask() {
    let mut c = config();
    let s = context(&mut c);
    s.run_as_user = Some(cri::Int64Value { value: 65_535 });
    s.run_as_group = Some(cri::Int64Value { value: 0 });
    s.seccomp_profile_path = "localhost//var/lib/kubelet/seccomp/a.json".into();
    s.seccomp = profile(ProfileType::Localhost, "/var/lib/kubelet/seccomp/a.json");
    s.apparmor = profile(ProfileType::RuntimeDefault, "");
    s.selinux_options = Some(cri::SeLinuxOption::default());
    s.privileged = true;
    let security = validate(c).expect("valid").security;
    assert_eq!(security.seccomp, Seccomp::Localhost("/var/lib/kubelet/seccomp/a.json".into()));
    assert!(security.privileged);
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
