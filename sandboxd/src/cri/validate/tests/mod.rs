//! Many bad requests: each error names the field and the value.

mod limits;
mod namespaces;
mod properties;
mod security;

use proptest::prelude::*;
use sandboxd_api::cri::{self, NamespaceMode, security_profile::ProfileType};

use super::*;

use crate::apparmor::Support;
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
    let host = Host { hostname: "node-1".into(), apparmor: Support::Off, selinux: false };
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
        (|c| c.metadata.as_mut().unwrap().namespace.clear(), "config.metadata.namespace", "\"\"", "required"),
        (
            |c| c.metadata.as_mut().unwrap().name = "a;IgnoreUnknown=1".into(),
            "config.metadata.name",
            "\"a;IgnoreUnknown=1\"",
            "CNI_ARGS",
        ),
        (|c| c.metadata.as_mut().unwrap().uid = "a\nb".into(), "config.metadata.uid", "\"a\\nb\"", "control"),
        (|c| c.hostname = "-web".into(), "config.hostname", "\"-web\"", "host's name"),
        (|c| c.hostname = "we/b".into(), "config.hostname", "\"we/b\"", "host's name"),
        (|c| c.hostname = "a..b".into(), "config.hostname", "\"a..b\"", "host's name"),
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
        (|c| dns(c).searches = vec!["a".repeat(200); 20], "config.dns_config.searches", "4019 bytes", "2048"),
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

fn mapped(options: cri::UserNamespace) -> Result<PodSpec, Invalid> {
    let mut c = config();
    self::options(&mut c).userns_options = Some(options);
    validate(c)
}
