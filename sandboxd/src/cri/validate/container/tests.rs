//! Bad requests: each error names the field and the value. Good ones: what comes of them.

use proptest::prelude::*;
use sandboxd_api::cri::{self, MountPropagation, NamespaceMode, Signal, security_profile::ProfileType};

use super::*;
use crate::apparmor::Support;
use crate::container::spec::{GroupsPolicy, MountSource, PidMode, Propagation, RunAs};
use crate::pod::model::test_pod;
use crate::pod::spec::{self, NetworkMode, Seccomp};
use crate::runtime::capabilities;

fn config() -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "app".into(), attempt: 2 }),
        image: Some(cri::ImageSpec { image: "busybox:1".into(), ..Default::default() }),
        ..Default::default()
    }
}

fn context(c: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    c.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn options(c: &mut cri::ContainerConfig) -> &mut cri::NamespaceOption {
    context(c).namespace_options.get_or_insert_default()
}

fn mount(c: &mut cri::ContainerConfig) -> &mut cri::Mount {
    if c.mounts.is_empty() {
        c.mounts.push(cri::Mount {
            container_path: "/data".into(),
            host_path: "/srv".into(),
            ..Default::default()
        });
    }
    &mut c.mounts[0]
}

fn device(c: &mut cri::ContainerConfig) -> &mut cri::Device {
    if c.devices.is_empty() {
        c.devices.push(cri::Device {
            container_path: "/dev/x".into(),
            host_path: "/dev/null".into(),
            permissions: "rw".into(),
        });
    }
    &mut c.devices[0]
}

fn host() -> Host {
    Host { hostname: "node-1".into(), apparmor: Support::Off, selinux: false }
}

fn valid(config: cri::ContainerConfig) -> ContainerSpec {
    container_spec(config, &test_pod("web"), &host()).expect("valid")
}

/// A change to a good request, the field it breaks, the value shown, and a word of the reason.
type Case = (fn(&mut cri::ContainerConfig), &'static str, &'static str, &'static str);

fn refused_in(pod: &Pod, cases: &[Case]) {
    for (i, (change, field, value, word)) in cases.iter().enumerate() {
        let mut c = config();
        change(&mut c);
        let error = container_spec(c, pod, &host()).expect_err(field);
        assert_eq!((error.field.as_str(), error.value.as_str()), (*field, *value), "case {i}: {error}");
        assert!(error.to_string().contains(word), "case {i}: {error}");
    }
}

fn refused(cases: &[Case]) {
    refused_in(&test_pod("web"), cases);
}

fn value(value: i64) -> Option<cri::Int64Value> {
    Some(cri::Int64Value { value })
}

#[test]
fn the_least_there_is() {
    let spec = valid(config());
    assert_eq!((spec.metadata.name.as_str(), spec.metadata.attempt), ("app", 2));
    assert_eq!(spec.image.image, "busybox:1");
    assert_eq!(spec.security.pid, PidMode::Pod);
    assert_eq!(spec.security.user, RunAs::Image);
    assert_eq!(spec.security.seccomp, Seccomp::Unconfined, "unset is unconfined for a container");
    assert_eq!((spec.stop_signal, spec.log_path), (None, None));
    assert!(spec.security.masked_paths.is_empty());
}

// cri: ContainerMetadata.name
#[test]
fn identity_process_and_log() {
    refused(&[
        (|c| c.metadata = None, "config.metadata", "\"\"", "required"),
        (|c| c.metadata.as_mut().unwrap().name.clear(), "config.metadata.name", "\"\"", "required"),
        (|c| c.image = None, "config.image", "\"\"", "required"),
        (|c| c.image.as_mut().unwrap().image.clear(), "config.image.image", "\"\"", "required"),
        (|c| c.windows = Some(Default::default()), "config.windows", "\"set\"", "Linux"),
        (|c| c.command = vec!["sh".into(), "a\0b".into()], "config.command[1]", "\"a\\0b\"", "NUL"),
        (|c| c.args = vec!["\0".into()], "config.args[0]", "\"\\0\"", "NUL"),
        (|c| c.working_dir = "tmp".into(), "config.working_dir", "\"tmp\"", "absolute"),
        (|c| c.log_path = "../x.log".into(), "config.log_path", "\"../x.log\"", "'..'"),
        (|c| c.stop_signal = 99, "config.stop_signal", "99", "enum"),
    ]);
    let env = |key: &str, value: &[u8]| cri::KeyValue { key: key.into(), value: value.to_vec() };
    for (entry, field, word) in [
        (env("", b""), "config.envs[0].key", "required"),
        (env("A=B", b""), "config.envs[0].key", "'='"),
        (env("A\0", b""), "config.envs[0].key", "NUL"),
        (env("A", b"x\0"), "config.envs[0].value", "NUL"),
        (env("A", b"\xff\0"), "config.envs[0].value", "NUL"),
        (env("A", &[0xff; 131_072]), "config.envs[0].value", "131071"),
    ] {
        let c = cri::ContainerConfig { envs: vec![entry], ..config() };
        let error = container_spec(c, &test_pod("web"), &host()).unwrap_err();
        assert_eq!(error.field, field);
        assert!(error.to_string().contains(word), "{error}");
    }
    let c = cri::ContainerConfig { args: vec!["a".repeat(100_000); 30], ..config() };
    let error = container_spec(c, &test_pod("web"), &host()).unwrap_err();
    assert_eq!(error.field, "config.args");
}

// cri: ContainerConfig.working_dir, ContainerConfig.log_path, ContainerConfig.stop_signal
// cri: ContainerConfig.stdin_once
#[test]
fn what_goes_through_as_it_is() {
    let mut pod = test_pod("web");
    pod.spec.log_directory = Some("/var/log/pods/p".into());
    let mut c = config();
    c.log_path = "app/0.log".into();
    let env = |value: &[u8]| cri::KeyValue { key: "A".into(), value: value.to_vec() };
    c.envs = vec![env(b"line\n=\t"), env(b"\xff\xfe=\x01")];
    c.working_dir = "/a/../b".into();
    c.stop_signal = Signal::Sigrtminplus3.into();
    c.stdin_once = true;
    c.tty = true;
    let spec = container_spec(c, &pod, &host()).expect("valid");
    assert_eq!(spec.log_path.as_deref(), Some(std::path::Path::new("/var/log/pods/p/app/0.log")));
    assert_eq!(
        spec.envs,
        [("A".to_owned(), "line\n=\t".into()), ("A".to_owned(), EnvValue::Bytes(b"\xff\xfe=\x01".to_vec()))]
    );
    assert_eq!(spec.stop_signal, Some(37));
    assert!(spec.tty && !spec.stdin && !spec.stdin_once);
}

#[test]
fn every_signal_of_the_wire_has_a_number() {
    for number in 1..=65 {
        let kept = valid(cri::ContainerConfig { stop_signal: number, ..config() }).stop_signal;
        assert!(kept.is_some_and(|n| (1..=64).contains(&n)), "{number}");
    }
}

// cri: Mount.propagation, Mount.uidMappings, Mount.gidMappings, IDMapping.host_id
// cri: IDMapping.container_id, IDMapping.length
#[test]
fn mounts() {
    refused(&[
        (|c| mount(c).container_path.clear(), "config.mounts[0].container_path", "\"\"", "required"),
        (
            |c| mount(c).container_path = "/a/..".into(),
            "config.mounts[0].container_path",
            "\"/a/..\"",
            "root",
        ),
        (|c| mount(c).host_path.clear(), "config.mounts[0].host_path", "\"\"", "source"),
        (|c| mount(c).host_path = "srv".into(), "config.mounts[0].host_path", "\"srv\"", "absolute"),
        (|c| mount(c).propagation = 7, "config.mounts[0].propagation", "7", "enum"),
        (
            |c| mount(c).recursive_read_only = true,
            "config.mounts[0].recursive_read_only",
            "true",
            "readonly beside",
        ),
        (
            |c| {
                mount(c).recursive_read_only = true;
                mount(c).readonly = true;
                mount(c).propagation = MountPropagation::PropagationHostToContainer.into();
            },
            "config.mounts[0].recursive_read_only",
            "true",
            "PRIVATE",
        ),
        (
            |c| mount(c).mount_options = vec!["noexec".into(), "uid=0".into()],
            "config.mounts[0].mount_options[1]",
            "\"uid=0\"",
            "nosuid",
        ),
        (
            |c| mount(c).image = Some(cri::ImageSpec { image: "x".into(), ..Default::default() }),
            "config.mounts[0].host_path",
            "\"/srv\"",
            "one source",
        ),
        (|c| mount(c).image_sub_path = "x".into(), "config.mounts[0].image_sub_path", "\"x\"", "image"),
        (
            |c| {
                mount(c).host_path.clear();
                mount(c).image = Some(cri::ImageSpec { image: "x".into(), ..Default::default() });
                mount(c).image_sub_path = "a/../..".into();
            },
            "config.mounts[0].image_sub_path",
            "\"a/../..\"",
            "beneath",
        ),
        (
            |c| mount(c).uid_mappings = vec![cri::IdMapping { host_id: 5, container_id: 0, length: 1 }],
            "config.mounts[0].uidMappings",
            "[\"0 5 1\"]",
            "0 100000 65536",
        ),
    ]);
    let mut c = config();
    mount(&mut c).container_path = "data//x/./y/".into();
    let map = vec![cri::IdMapping { host_id: 100_000, container_id: 0, length: 65_536 }];
    (mount(&mut c).uid_mappings, mount(&mut c).gid_mappings) = (map.clone(), map);
    mount(&mut c).propagation = MountPropagation::PropagationBidirectional.into();
    mount(&mut c).selinux_relabel = true;
    mount(&mut c).mount_options = vec!["nosuid".into(), "nodev".into(), "nosuid".into()];
    let kept = valid(c).mounts.remove(0);
    assert_eq!(kept.container_path, "/data/x/y");
    assert_eq!(kept.propagation, Propagation::Bidirectional);
    assert!(kept.id_mappings.is_some() && kept.selinux_relabel);
    assert_eq!(kept.options, ["nodev", "nosuid"]);
    let mut c = config();
    mount(&mut c).host_path.clear();
    mount(&mut c).image = Some(cri::ImageSpec { image: "data:1".into(), ..Default::default() });
    mount(&mut c).image_sub_path = "a/b".into();
    let error = container_spec(c.clone(), &test_pod("web"), &host()).unwrap_err();
    assert_eq!((error.field.as_str(), error.why), ("config.mounts[0].readonly", Why::ImageWritable));
    mount(&mut c).readonly = true;
    let kept = valid(c).mounts.remove(0);
    assert!(kept.read_only);
    assert!(matches!(kept.source, MountSource::Image { sub_path, .. } if sub_path == "a/b"));
}

// cri: CDIDevice.name
#[test]
fn devices() {
    refused(&[
        (|c| device(c).container_path.clear(), "config.devices[0].container_path", "\"\"", "required"),
        (|c| device(c).host_path = "null".into(), "config.devices[0].host_path", "\"null\"", "absolute"),
        (|c| device(c).permissions.clear(), "config.devices[0].permissions", "\"\"", "rwm"),
        (|c| device(c).permissions = "rwx".into(), "config.devices[0].permissions", "\"rwx\"", "rwm"),
        (|c| device(c).permissions = "rr".into(), "config.devices[0].permissions", "\"rr\"", "once"),
    ]);
    for (name, fine) in [
        ("example.com/gpu=0", true),
        ("nvidia.com/gpu=GPU-1:2.a", true),
        ("example.com/gpu", false),
        ("gpu=0", false),
        ("example.com/gpu=", false),
        ("1example.com/gpu=0", false),
        ("example.com/gpu=../0", false),
    ] {
        let c = cri::ContainerConfig { cdi_devices: vec![cri::CdiDevice { name: name.into() }], ..config() };
        let result = container_spec(c, &test_pod("web"), &host());
        assert_eq!(result.is_ok(), fine, "{name}");
        let annotations = [("cdi.k8s.io/plugin_1".to_owned(), format!("a.b/c=d,{name}"))].into();
        let result =
            container_spec(cri::ContainerConfig { annotations, ..config() }, &test_pod("web"), &host());
        assert_eq!(result.is_ok(), fine, "{name}");
    }
    let c = cri::ContainerConfig {
        cdi_devices: vec![cri::CdiDevice { name: "a.b/c=d".into() }],
        annotations: [("cdi.k8s.io/x".into(), "a.b/c=d,a.b/c=e".into()), ("other".into(), "x".into())].into(),
        ..config()
    };
    assert_eq!(valid(c).cdi_devices, ["a.b/c=d", "a.b/c=e"]);
}

#[test]
fn users_and_groups() {
    const S: &str = "config.linux.security_context";
    let cases: [Case; 6] = [
        (|c| context(c).run_as_user = value(65_536), "run_as_user", "65536", "not mapped"),
        (|c| context(c).run_as_user = value(-1), "run_as_user", "-1", "not an id"),
        (|c| context(c).run_as_group = value(5), "run_as_group", "5", "run_as_user"),
        (
            |c| {
                context(c).run_as_user = value(1);
                context(c).run_as_username = "app".into();
            },
            "run_as_username",
            "\"app\"",
            "both",
        ),
        (|c| context(c).run_as_username = "a:b".into(), "run_as_username", "\"a:b\"", "':'"),
        (|c| context(c).supplemental_groups = vec![1, 70_000], "supplemental_groups[1]", "70000", "mapped"),
    ];
    for (change, name, value, word) in cases {
        let mut c = config();
        change(&mut c);
        let error = container_spec(c, &test_pod("web"), &host()).expect_err(name);
        assert_eq!((error.field, error.value.as_str()), (format!("{S}.{name}"), value));
        assert!(error.why.to_string().contains(word), "{}", error.why);
    }
    let mut c = config();
    context(&mut c).run_as_username = "app".into();
    context(&mut c).run_as_group = value(7);
    context(&mut c).supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
    let kept = valid(c).security;
    assert_eq!(
        (kept.user, kept.run_as_group, kept.groups_policy),
        (RunAs::Name("app".into()), Some(7), GroupsPolicy::Strict)
    );
}

// cri: Capability.add_capabilities, Capability.drop_capabilities
#[test]
fn capabilities_and_privilege() {
    fn caps(c: &mut cri::ContainerConfig) -> &mut cri::Capability {
        context(c).capabilities.get_or_insert_default()
    }
    refused(&[
        (
            |c| caps(c).add_capabilities = vec!["NET_ADMIN".into(), "FLY".into()],
            "config.linux.security_context.capabilities.add_capabilities[1]",
            "\"FLY\"",
            "capabilities(7)",
        ),
        (
            |c| context(c).privileged = true,
            "config.linux.security_context.privileged",
            "true",
            "not privileged",
        ),
    ]);
    let mut c = config();
    caps(&mut c).add_capabilities = vec!["cap_net_admin".into()];
    caps(&mut c).drop_capabilities = vec!["all".into()];
    caps(&mut c).add_ambient_capabilities = vec!["NET_BIND_SERVICE".into()];
    let kept = valid(c).security;
    assert_eq!(
        (kept.add_capabilities, kept.drop_capabilities, kept.add_ambient_capabilities),
        (1 << 12, capabilities::all(), 1 << 10)
    );
    let mut pod = test_pod("web");
    pod.spec.security.privileged = true;
    let mut c = config();
    context(&mut c).privileged = true;
    assert!(container_spec(c, &pod, &host()).expect("valid").security.privileged);
}

// cri: LinuxContainerSecurityContext.selinux_options, LinuxContainerSecurityContext.apparmor
// cri: LinuxContainerSecurityContext.apparmor_profile, LinuxContainerSecurityContext.seccomp_profile_path
// cri: SecurityProfile.profile_type, SecurityProfile.localhost_ref
// cri: SELinuxOption.user, SELinuxOption.role, SELinuxOption.type, SELinuxOption.level
#[test]
fn profiles_and_paths() {
    let profile = |kind: ProfileType, file: &str| {
        Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: file.into() })
    };
    refused(&[
        (
            |c| context(c).apparmor_profile = "localhost/x".into(),
            "config.linux.security_context.apparmor_profile",
            "\"x\"",
            "not enabled",
        ),
        (
            |c| context(c).apparmor_profile = "x".into(),
            "config.linux.security_context.apparmor_profile",
            "\"x\"",
            "localhost/",
        ),
        (
            |c| context(c).selinux_options.get_or_insert_default().level = "s0 c1".into(),
            "config.linux.security_context.selinux_options.level",
            "\"s0 c1\"",
            "not part of an SELinux label",
        ),
        (
            |c| context(c).masked_paths = vec!["proc/kcore".into()],
            "config.linux.security_context.masked_paths[0]",
            "\"proc/kcore\"",
            "absolute",
        ),
        (
            |c| context(c).seccomp_profile_path = "localhost/x.json".into(),
            "config.linux.security_context.seccomp_profile_path",
            "\"localhost/x.json\"",
            "absolute path",
        ),
    ]);
    let mut c = config();
    context(&mut c).seccomp = profile(ProfileType::RuntimeDefault, "");
    context(&mut c).apparmor = profile(ProfileType::RuntimeDefault, "");
    context(&mut c).apparmor_profile = "runtime/default".into();
    context(&mut c).readonly_paths = vec!["/proc/sys/".into()];
    // As daemon sets for all kinds of nodes have it.
    context(&mut c).selinux_options.get_or_insert_default().r#type = "spc_t".into();
    let kept = valid(c.clone()).security;
    assert_eq!((kept.seccomp, kept.apparmor, kept.selinux), (Seccomp::RuntimeDefault, None, None));
    assert_eq!(kept.readonly_paths, ["/proc/sys"]);
    let labelled = Host { selinux: true, ..host() };
    context(&mut c).selinux_options = None;
    context(&mut c).selinux_options.get_or_insert_default().level = "s0:c1,c2".into();
    let kept = container_spec(c, &test_pod("web"), &labelled).expect("valid").security;
    assert_eq!(kept.selinux.as_deref(), Some("system_u:system_r:container_t:s0:c1,c2"));
    let [user, role, r#type, level] = ["u", "r", "t", "s1"].map(str::to_owned);
    let mut c = config();
    context(&mut c).selinux_options = Some(cri::SeLinuxOption { user, role, r#type, level });
    let kept = container_spec(c, &test_pod("web"), &labelled).expect("valid").security;
    assert_eq!(kept.selinux.as_deref(), Some("u:r:t:s1"));
}

// cri: NamespaceOption.network, NamespaceOption.ipc, NamespaceOption.pid, NamespaceOption.target_id
// cri: NamespaceOption.userns_options
#[test]
fn namespaces() {
    refused(&[
        (
            |c| options(c).network = NamespaceMode::Node.into(),
            "config.linux.security_context.namespace_options.network",
            "\"NODE\"",
            "POD",
        ),
        (
            |c| options(c).ipc = NamespaceMode::Container.into(),
            "config.linux.security_context.namespace_options.ipc",
            "\"CONTAINER\"",
            "POD",
        ),
        (
            |c| options(c).pid = NamespaceMode::Node.into(),
            "config.linux.security_context.namespace_options.pid",
            "\"NODE\"",
            "NODE for the pod",
        ),
        (
            |c| options(c).pid = NamespaceMode::Target.into(),
            "config.linux.security_context.namespace_options.target_id",
            "\"\"",
            "set it",
        ),
        (
            |c| options(c).target_id = "x".into(),
            "config.linux.security_context.namespace_options.target_id",
            "\"x\"",
            "empty",
        ),
        (
            |c| {
                let node = cri::UserNamespace { mode: NamespaceMode::Node.into(), ..Default::default() };
                options(c).userns_options = Some(node);
            },
            "config.linux.security_context.namespace_options.userns_options",
            "\"NODE\"",
            "pod's mappings",
        ),
    ]);
    let mut c = config();
    options(&mut c).pid = NamespaceMode::Target.into();
    options(&mut c).target_id = "abc".into();
    let map = vec![cri::IdMapping { host_id: 100_000, container_id: 0, length: 65_536 }];
    options(&mut c).userns_options =
        Some(cri::UserNamespace { mode: NamespaceMode::Pod.into(), uids: map.clone(), gids: map });
    assert_eq!(valid(c).security.pid, PidMode::Target("abc".into()));

    let mut node = test_pod("web");
    node.spec.namespaces.user = None;
    node.spec.namespaces.pid = spec::PidMode::Node;
    node.spec.namespaces.network = NetworkMode::Node;
    assert_eq!(container_spec(config(), &node, &host()).expect("valid").security.pid, PidMode::Node);
    let mut c = config();
    options(&mut c).pid = NamespaceMode::Container.into();
    assert_eq!(container_spec(c, &node, &host()).expect("valid").security.pid, PidMode::Container);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever comes: a refusal that names its field, or values that can be carried out.
    #[test]
    fn no_text_gets_through_that_breaks_a_line_or_a_path(
        name in ".{0,40}", path in "[/.a\\PC]{0,30}", env in "\\PC{0,10}", log in "[/.a\n\0]{0,12}", permissions in "[rwmx]{0,4}",
        cap in "[A-Z_]{0,12}", signal in -3i32..70, uid in any::<i64>(), mode in -1i32..5,
    ) {
        let mut c = config();
        c.metadata = Some(cri::ContainerMetadata { name, attempt: 0 });
        mount(&mut c).container_path.clone_from(&path);
        c.envs = vec![cri::KeyValue { key: env, value: Vec::new() }];
        c.log_path = log;
        device(&mut c).permissions = permissions;
        context(&mut c).capabilities.get_or_insert_default().add_capabilities = vec![cap];
        context(&mut c).run_as_user = value(uid);
        options(&mut c).pid = mode;
        c.stop_signal = signal;
        let mut pod = test_pod("web");
        pod.spec.log_directory = Some("/logs".into());
        match container_spec(c, &pod, &host()) {
            Err(error) => prop_assert!(error.field.starts_with("config.")),
            Ok(spec) => {
                prop_assert!(!spec.metadata.name.chars().any(char::is_control));
                let path = &spec.mounts[0].container_path;
                prop_assert!(path.starts_with('/') && path.len() > 1 && !path.contains("//"));
                prop_assert!(!path.split('/').any(|part| part == ".." || part == "."));
                prop_assert!(spec.log_path.is_none_or(|path| path.starts_with("/logs")));
                prop_assert!(!spec.envs[0].0.contains(['=', '\0']));
            }
        }
    }
}
