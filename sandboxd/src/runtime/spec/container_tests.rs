use oci_spec::runtime::{Capability, LinuxDeviceType, LinuxNamespace, Mount as OciMount};
use sandboxd_image::{ImageConfig, ImageId};

use super::super::{POD_SHM, exec_process};
use super::*;
use crate::container::spec::{
    Device, GroupsPolicy, ImageRef, Metadata, Mount, MountSource, Propagation, RunAs, Security,
};
use crate::pod::model::test_pod;

/// A request for nothing in particular.
pub(crate) fn spec() -> ContainerSpec {
    ContainerSpec {
        metadata: Metadata { name: "app".into(), attempt: 0 },
        image: ImageRef {
            image: "busybox:1".into(),
            user_specified_image: String::new(),
            runtime_handler: String::new(),
            annotations: Default::default(),
            image_id: String::new(),
        },
        command: Vec::new(),
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
        log_path: None,
        stdin: false,
        stdin_once: false,
        tty: false,
        stop_signal: None,
        resources: Resources::default(),
        security: Security {
            privileged: false,
            add_capabilities: 0,
            drop_capabilities: 0,
            add_ambient_capabilities: 0,
            pid: PidMode::Pod,
            user: RunAs::Image,
            run_as_group: None,
            supplemental_groups: Vec::new(),
            groups_policy: GroupsPolicy::Merge,
            readonly_rootfs: false,
            no_new_privs: false,
            masked_paths: vec!["/proc/kcore".into()],
            readonly_paths: vec!["/proc/sys".into()],
            seccomp: Seccomp::RuntimeDefault,
            apparmor: None,
            selinux: None,
        },
    }
}

pub(crate) fn image() -> Image {
    Image {
        id: ImageId("sha256:1".into()),
        repo_tags: Vec::new(),
        repo_digests: Vec::new(),
        size: 0,
        pinned: false,
        config: ImageConfig {
            env: vec!["A=image".into(), "PATH=/bin".into(), "broken".into()],
            entrypoint: vec!["/entry".into()],
            cmd: vec!["-c".into()],
            ..ImageConfig::default()
        },
        layers: Vec::new(),
        annotations: Default::default(),
    }
}

pub(crate) fn mount(path: &str, propagation: Propagation) -> Mount {
    Mount {
        container_path: path.into(),
        source: MountSource::Host("/srv".into()),
        read_only: false,
        recursive_read_only: false,
        propagation,
        selinux_relabel: false,
        options: Vec::new(),
        id_mappings: None,
    }
}

struct Case {
    pod: Pod,
    spec: ContainerSpec,
    image: Image,
    user: User,
    volumes: Vec<(String, PathBuf)>,
    cdi: Edits,
}

impl Case {
    fn new() -> Self {
        let user = User { groups: vec![0], home: Some("/root".into()), ..User::default() };
        Self {
            pod: test_pod("web"),
            spec: spec(),
            image: image(),
            user,
            volumes: Vec::new(),
            cdi: Edits::default(),
        }
    }

    fn try_make(&self) -> Result<Made, RuntimeError> {
        container(&ContainerInput {
            id: &ContainerId::from_string("c".into()),
            pod: &self.pod,
            spec: &self.spec,
            image: &self.image,
            user: &self.user,
            hostname: "web-0",
            files: &[("/etc/hosts", "/s/hosts".into()), ("/etc/hostname", "/s/hostname".into())],
            volumes: &self.volumes,
            cgroup: "/kubepods/pod1/c",
            cdi: &self.cdi,
        })
    }

    fn make(&self) -> Spec {
        self.try_make().unwrap().spec
    }

    fn process(&self) -> Process {
        self.make().process().clone().unwrap()
    }
}

fn find<'a>(spec: &'a Spec, destination: &str) -> Option<&'a OciMount> {
    spec.mounts().iter().flatten().find(|m| m.destination().to_str() == Some(destination))
}

fn options(spec: &Spec, destination: &str) -> Vec<String> {
    find(spec, destination).unwrap().options().clone().unwrap()
}

fn has(spec: &Spec, destination: &str, option: &str) -> bool {
    options(spec, destination).iter().any(|o| o == option)
}

// cri: ContainerConfig.args
#[test]
fn what_is_run() {
    let words = |s: &[&str]| s.iter().map(|w| (*w).to_owned()).collect::<Vec<String>>();
    for (command, args, expected) in [
        (&[][..], &[][..], Some(&["/entry", "-c"][..])),
        (&[], &["x"], Some(&["/entry", "x"])),
        (&["sh"], &[], Some(&["sh"])),
        (&["sh"], &["-x"], Some(&["sh", "-x"])),
    ] {
        let mut case = Case::new();
        (case.spec.command, case.spec.args) = (words(command), words(args));
        let args = case.process().args().clone();
        assert_eq!(args, expected.map(words));
    }
    let mut case = Case::new();
    (case.image.config.entrypoint, case.image.config.cmd) = (Vec::new(), Vec::new());
    let error = case.try_make().unwrap_err().to_string();
    assert!(error.contains("busybox:1") && error.contains("config.command"), "{error}");
}

#[test]
fn its_environment() {
    let mut case = Case::new();
    case.spec.tty = true;
    case.spec.envs =
        vec![("A".into(), "request".into()), ("B".into(), "a=b".into()), ("A".into(), "x".into())];
    case.cdi.env = vec!["GPU=0".into(), "B=device's".into()];
    let process = case.process();
    assert_eq!(
        process.env().clone().unwrap(),
        ["PATH=/bin", "HOSTNAME=web-0", "HOME=/root", "TERM=xterm", "A=x", "B=device's", "GPU=0"]
    );
    assert_eq!(process.terminal(), Some(true));
    case.image.config.env.clear();
    case.spec.tty = false;
    case.spec.envs = vec![("PATH".into(), b"/\xff".to_vec().into())];
    assert_eq!(case.process().env().clone().unwrap()[0], "PATH=/\u{fffd}");
    case.spec.envs.clear();
    let env = case.process().env().clone().unwrap();
    assert!(env[0].starts_with("PATH=/usr/local/sbin:"), "{env:?}");
    assert!(!env.iter().any(|e| e.starts_with("TERM=")));
}

#[test]
fn its_directory_and_user() {
    let mut case = Case::new();
    for (asked, image, expected) in
        [("", "", "/"), ("", "srv", "/srv"), ("", "/srv", "/srv"), ("/tmp", "/srv", "/tmp")]
    {
        (case.spec.working_dir, case.image.config.working_dir) = (asked.into(), image.into());
        assert_eq!(case.process().cwd().to_str(), Some(expected));
    }
    case.user = User { uid: 1000, gid: 1001, groups: vec![1001, 5], home: None };
    case.cdi.gids = vec![44];
    let process = case.process();
    let user = process.user();
    assert_eq!((user.uid(), user.gid()), (1000, 1001));
    assert_eq!(user.additional_gids().clone().unwrap(), [1001, 5, 44]);
    assert_eq!(process.rlimits(), &None);
    assert_eq!(process.oom_score_adj(), Some(0));
}

#[test]
fn capabilities_of_root_and_of_others() {
    let bits = |set: &Option<oci_spec::runtime::Capabilities>| set.as_ref().map_or(0, capabilities::bits);
    let of = |case: &Case| {
        let sets = case.process().capabilities().clone().unwrap();
        [sets.bounding(), sets.permitted(), sets.effective(), sets.inheritable(), sets.ambient()].map(bits)
    };
    const DEFAULT: u64 = 0xa804_25fb;
    let all = capabilities::all();
    let mut case = Case::new();
    assert_eq!(of(&case), [DEFAULT, DEFAULT, DEFAULT, 0, 0]);
    case.user.uid = 1;
    assert_eq!(of(&case), [DEFAULT, 0, 0, 0, 0]);
    case.spec.security.add_ambient_capabilities = 1 << 12;
    let ambient = 1 << 12;
    assert_eq!(of(&case), [DEFAULT | ambient, ambient, ambient, ambient, ambient]);
    let mut case = Case::new();
    for (add, drop, expected) in [
        (1 << 12, 1, (DEFAULT | 1 << 12) & !1),
        (all, 1, all & !1),
        (1 << 12, all, 1 << 12),
        (0, all, 0),
        (all, 0, all),
        (all, all, 0),
    ] {
        (case.spec.security.add_capabilities, case.spec.security.drop_capabilities) = (add, drop);
        assert_eq!(of(&case)[0], expected, "add {add:x} drop {drop:x}");
    }
    case.pod.spec.namespaces.user = None;
    case.spec.security.privileged = true;
    let made = case.try_make().unwrap();
    let own = capabilities::own().unwrap();
    assert_eq!(of(&case)[0], capabilities::bits(&own));
    let missing = !own.contains(&Capability::SysResource);
    assert_eq!(made.warnings.iter().any(|w| w.contains("SYS_RESOURCE")), missing, "{:?}", made.warnings);
}

#[test]
fn the_usual_mounts() {
    let case = Case::new();
    let spec = case.make();
    let all: Vec<&str> = spec.mounts().iter().flatten().filter_map(|m| m.destination().to_str()).collect();
    assert_eq!(
        all,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/mqueue",
            "/sys",
            "/sys/fs/cgroup",
            "/dev/shm",
            "/etc/hosts",
            "/etc/hostname"
        ]
    );
    assert!(has(&spec, "/sys", "ro") && has(&spec, "/sys/fs/cgroup", "ro"));
    let shm = find(&spec, "/dev/shm").unwrap();
    assert_eq!(shm.source().as_ref().and_then(|s| s.to_str()), Some(POD_SHM));
    assert!(has(&spec, "/etc/hosts", "rw"));
    let mut case = Case::new();
    case.spec.security.readonly_rootfs = true;
    case.spec.security.privileged = true;
    let spec = case.make();
    assert!(has(&spec, "/sys", "rw") && has(&spec, "/sys/fs/cgroup", "rw") && has(&spec, "/etc/hosts", "ro"));
    assert_eq!(spec.root().as_ref().and_then(Root::readonly), Some(true));
}

#[test]
fn a_requests_mounts_come_last_and_take_the_place_of_usual_ones() {
    let mut case = Case::new();
    case.spec.mounts = vec![
        mount("/a/b/c", Propagation::HostToContainer),
        mount("/a", Propagation::Bidirectional),
        mount("/etc/hosts", Propagation::Private),
        mount("/sys/fs/cgroup", Propagation::Private),
        mount("/vol", Propagation::Private),
    ];
    case.spec.mounts[0].read_only = true;
    case.spec.mounts[1].options = vec!["nodev".into(), "noexec".into()];
    (case.spec.mounts[2].read_only, case.spec.mounts[2].recursive_read_only) = (true, true);
    case.volumes = vec![("/vol".into(), "/v/0".into()), ("/data/vol".into(), "/v/1".into())];
    let made = case.try_make().unwrap();
    let spec = &made.spec;
    let all: Vec<&str> =
        spec.mounts().iter().flatten().filter_map(|m| m.destination().to_str()).skip(5).collect();
    assert_eq!(
        all,
        ["/a", "/vol", "/dev/shm", "/etc/hostname", "/data/vol", "/etc/hosts", "/a/b/c", "/sys/fs/cgroup"]
    );
    assert!(has(spec, "/a/b/c", "rslave") && has(spec, "/a/b/c", "ro"));
    assert_eq!(options(spec, "/a"), ["rbind", "rshared", "rw", "nodev", "noexec"]);
    assert!(has(spec, "/etc/hosts", "rro"));
    assert_eq!(find(spec, "/sys/fs/cgroup").unwrap().typ().as_deref(), Some("bind"));
    assert_eq!(made.origins.len(), spec.mounts().as_ref().unwrap().len());
    assert_eq!(made.origins[5], Origin::Request(1));
    assert_eq!(made.origins[9], Origin::Volume);
    assert_eq!(spec.linux().as_ref().unwrap().rootfs_propagation().as_deref(), Some("rshared"));
    let mut case = Case::new();
    case.spec.mounts = vec![mount("/dev", Propagation::Private)];
    let spec = case.make();
    assert!(find(&spec, "/dev/pts").is_none() && find(&spec, "/dev/shm").is_some());
}

#[test]
fn namespaces_are_the_pods_but_for_what_is_new() {
    let kinds = |case: &Case| -> Vec<LinuxNamespaceType> {
        let spec = case.make();
        let linux = spec.linux().as_ref().unwrap();
        linux.namespaces().iter().flatten().map(LinuxNamespace::typ).collect()
    };
    use LinuxNamespaceType::{Cgroup, Mount, Pid};
    let mut case = Case::new();
    assert_eq!(kinds(&case), [Mount, Cgroup]);
    case.spec.security.pid = PidMode::Container;
    assert_eq!(kinds(&case), [Mount, Pid, Cgroup]);
    case.pod.spec.namespaces.user = None;
    case.spec.security.privileged = true;
    assert_eq!(kinds(&case), [Mount, Pid]);
}

#[test]
fn what_confines_it() {
    let mut case = Case::new();
    let spec = case.make();
    let linux = spec.linux().clone().unwrap();
    assert_eq!(linux.masked_paths().clone().unwrap(), ["/proc/kcore"]);
    assert_eq!(linux.readonly_paths().clone().unwrap(), ["/proc/sys"]);
    assert_eq!(linux.seccomp(), &Some(seccomp::default::profile()));
    assert_eq!(linux.cgroups_path().as_deref(), Some(std::path::Path::new("/kubepods/pod1/c")));
    assert_eq!(linux.uid_mappings().as_ref().map(Vec::len), Some(1));
    let rules = linux.resources().clone().unwrap().devices().clone().unwrap();
    assert!(!rules[0].allow() && rules.iter().skip(1).all(|rule| rule.allow()));
    assert_ne!(crate::cgroup::Devices::of(&rules).unwrap(), crate::cgroup::Devices::all());
    case.spec.security.privileged = true;
    let linux = case.make().linux().clone().unwrap();
    assert_eq!(linux.masked_paths().as_ref().map(Vec::len), Some(0));
    assert_eq!(linux.seccomp(), &None);
    let rules = linux.resources().clone().unwrap().devices().clone().unwrap();
    assert_eq!((rules.len(), rules[0].allow(), rules[0].typ()), (1, true, Some(LinuxDeviceType::A)));
    assert_eq!(crate::cgroup::Devices::of(&rules).unwrap(), crate::cgroup::Devices::all());
    // In a user namespace, not the host's devices.
    assert_eq!(linux.devices().as_ref().map(Vec::len), Some(0));
    case.pod.spec.namespaces.user = None;
    let devices = case.make().linux().clone().unwrap().devices().clone().unwrap();
    assert!(devices.iter().any(|d| d.path().to_str() == Some("/dev/null")));
    assert!(!devices.iter().any(|d| d.path().starts_with("/dev/pts")));
}

#[test]
fn devices_of_a_request() {
    let mut case = Case::new();
    let device = |inside: &str, host: &str| Device {
        container_path: inside.into(),
        host_path: host.into(),
        permissions: "r".into(),
    };
    case.spec.devices = vec![device("/dev/mine", "/dev/zero"), device("/devices", "/dev")];
    let linux = case.make().linux().clone().unwrap();
    let devices = linux.devices().clone().unwrap();
    let mine = devices.iter().find(|d| d.path().to_str() == Some("/dev/mine")).unwrap();
    assert_eq!((mine.typ(), mine.major(), mine.minor()), (LinuxDeviceType::C, 1, 5));
    assert_eq!((mine.uid(), mine.gid()), (Some(0), Some(0)));
    assert!(devices.iter().any(|d| d.path().to_str() == Some("/devices/full")));
    let rules = linux.resources().clone().unwrap().devices().clone().unwrap();
    assert!(
        rules
            .iter()
            .any(|r| (r.major(), r.minor()) == (Some(1), Some(5)) && r.access().as_deref() == Some("r"))
    );
    case.spec.devices = vec![device("/dev/x", "/etc/passwd")];
    assert!(case.try_make().unwrap_err().to_string().contains("/etc/passwd"));
    case.spec.devices = vec![device("/dev/x", "/dev/no-such")];
    assert!(case.try_make().unwrap_err().to_string().contains("/dev/no-such"));
}

// cri: LinuxContainerConfig.resources, ImageSpec.user_specified_image
#[test]
fn annotations_and_limits() {
    let mut case = Case::new();
    case.spec.resources.memory_limit = Some(1 << 30);
    case.spec.resources.cpu_shares = Some(512);
    case.spec.resources.oom_score_adj = Some(-997);
    case.spec.resources.hugepage_limits = [("2MB".to_owned(), 4 << 20)].into();
    let spec = case.make();
    let annotations = spec.annotations().clone().unwrap();
    assert_eq!(annotations["io.kubernetes.cri.container-type"], "container");
    assert_eq!(annotations["io.kubernetes.cri.sandbox-name"], "web");
    assert_eq!(annotations["io.kubernetes.cri.image-name"], "busybox:1");
    let resources = spec.linux().clone().unwrap().resources().clone().unwrap();
    assert_eq!(resources.memory().as_ref().and_then(LinuxMemory::limit), Some(1 << 30));
    assert_eq!(resources.cpu().as_ref().and_then(LinuxCpu::shares), Some(512));
    assert_eq!(resources.hugepage_limits().as_ref().map(Vec::len), Some(1));
    assert_eq!(spec.process().as_ref().and_then(Process::oom_score_adj), Some(-997));
}

#[test]
fn an_exec_is_as_the_container() {
    let mut case = Case::new();
    case.spec.security.no_new_privs = true;
    case.user = User { uid: 5, gid: 6, groups: vec![6], home: None };
    let first = case.process();
    let exec = exec_process(&first, &["ls".into(), "-l".into()], true);
    assert_eq!(exec.args().clone().unwrap(), ["ls", "-l"]);
    assert_eq!(exec.terminal(), Some(true));
    assert_eq!((exec.user(), exec.capabilities()), (first.user(), first.capabilities()));
    assert_eq!(exec.no_new_privileges(), Some(true));
    assert!(exec.env().as_ref().unwrap().contains(&"TERM=xterm".to_owned()));
    let exec = exec_process(&first, &["ls".into()], false);
    assert_eq!(exec.env(), first.env());
}
