//! Requests of the CRI all the way down: validated, prepared, made by the native runtime, run.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandboxd::cgroup::{CgroupSettings, Cgroups, Devices};
use sandboxd::container::env;
use sandboxd::container::model::ContainerId;
use sandboxd::container::prepare::{Input, Prepared, prepare};
use sandboxd::container::spec::MountSource;
use sandboxd::cri::validate::{Host, container_spec};
use sandboxd::pod::model::{FlowKind, NsKind, Pod as PodModel, PodState, Sysfs};
use sandboxd::pod::spec::{IpcMode, PidMode};
use sandboxd::runtime::task::{Task, TaskPlan};
use sandboxd::runtime::{Exit, HandlerFeatures, NetworkPlan, namespaces};
use sandboxd_api::cri;
use sandboxd_image::{Image, ImageConfig, ImageId, Layer, LayerId, User};

use super::setup::{Planned, Pod, chain, need_root, runtime, started};

/// A pod, an image on a disk, and a place for containers.
struct Node {
    pod: Pod,
    planned: Planned,
    image: Arc<Image>,
    dir: tempfile::TempDir,
}

impl Node {
    async fn new(user: bool) -> Self {
        Self::of(user, |_| ()).await
    }

    async fn of(user: bool, change: impl FnOnce(&mut Planned)) -> Self {
        let mut planned = if user { Planned::userns() } else { Planned::plain() };
        change(&mut planned);
        Self::planned(planned).await
    }

    async fn planned(planned: Planned) -> Self {
        let user = planned.plan.spec.namespaces.user.is_some();
        let pod = started(&runtime().await, &planned).await;
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let place = &planned.plan.dir;
        fs::write(place.join("hostname"), "pod-host\n").unwrap();
        fs::write(place.join("resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
        if user {
            fs::create_dir_all(place.join("ns")).unwrap();
            let namespace = pod.infra.namespace(NsKind::User).unwrap();
            namespaces::pin(namespace.as_fd(), &place.join("ns/user")).unwrap();
        }
        let image = Arc::new(image(dir.path()));
        Self { pod, planned, image, dir }
    }

    fn model(&self) -> PodModel {
        PodModel {
            id: self.planned.plan.pod.clone(),
            spec: self.planned.plan.spec.clone(),
            state: PodState::Ready,
            flow: FlowKind::RuntimeFirst,
            created_at_ns: 1,
            shim_pid: None,
            infra_pid: None,
            namespaces: Vec::new(),
            netns_path: None,
            ips: vec!["10.9.8.7".parse().unwrap()],
            sysfs: Sysfs::Mounted,
            cgroup: String::new(),
            steps: Vec::new(),
            error: None,
            explanation: None,
        }
    }

    fn base(&self) -> u32 {
        self.planned.plan.spec.namespaces.user.as_ref().map_or(0, |maps| maps.host_root().0)
    }

    fn prepare(&self, config: cri::ContainerConfig) -> (ContainerId, Prepared) {
        let pod = self.model();
        let mut spec = container_spec(config, &pod, &Host::probe(Default::default()))
            .unwrap_or_else(|error| panic!("{error}"));
        for mount in &mut spec.mounts {
            if let MountSource::Image { image, .. } = &mut mount.source {
                image.image_id = self.image.id.to_string();
            }
        }
        let id = ContainerId::random().unwrap();
        let image = Arc::clone(&self.image);
        let input = Input {
            id: id.clone(),
            pod: Arc::new(pod),
            spec,
            image: Arc::clone(&self.image),
            find_image: Arc::new(move |_| Some(Arc::clone(&image))),
            features: HandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true },
            pod_dir: self.planned.plan.dir.clone(),
            dir: self.upper(&id),
            cgroup: String::new(),
            cancelled: Arc::default(),
        };
        (id, prepare(&input).unwrap_or_else(|error| panic!("{}", chain(&error))))
    }

    fn upper(&self, id: &ContainerId) -> PathBuf {
        self.dir.path().join("containers").join(id.as_str())
    }

    /// Runs a request to its end: its output and its exit.
    async fn run(&self, config: cri::ContainerConfig) -> (Vec<String>, Exit, ContainerId) {
        self.run_in(config, |_, _| Vec::new()).await
    }

    /// With cgroups that are made for it.
    async fn run_in(
        &self,
        config: cri::ContainerConfig,
        cgroup: impl FnOnce(&ContainerId, &Prepared) -> Vec<OwnedFd>,
    ) -> (Vec<String>, Exit, ContainerId) {
        let (stdin, tty) = (config.stdin, config.tty);
        let asked = container_spec(config.clone(), &self.model(), &Host::probe(Default::default())).unwrap();
        let (id, prepared) = self.prepare(config);
        let cgroup = cgroup(&id, &prepared);
        let log = self.dir.path().join(format!("{id}.log"));
        let plan = TaskPlan {
            host_root: None,
            id: id.clone(),
            spec: prepared.spec,
            raw_env: env::raw(&asked.envs),
            pid: asked.security.pid,
            rootfs: prepared.rootfs,
            sources: prepared.sources,
            stdin,
            stdin_once: false,
            tty,
            log: Some(fs::File::create(&log).unwrap().into()),
            cgroup,
        };
        let task = self.pod.infra.create_container(plan).await;
        let task: Arc<dyn Task> = task.unwrap_or_else(|error| panic!("{}", chain(&error)));
        task.start().await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let exit = task.wait().await.exit;
        task.remove().await.unwrap();
        let text = fs::read_to_string(log).unwrap();
        let line = |line: &str| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
        (text.lines().map(line).collect(), exit, id)
    }

    /// What a script says.
    async fn says(&self, script: &str, change: impl FnOnce(&mut cri::ContainerConfig)) -> Vec<String> {
        let mut config = config(script);
        change(&mut config);
        let (lines, exit, _) = self.run(config).await;
        assert_eq!(exit, Exit::Code(0), "{lines:#?}");
        lines
    }

    async fn end(self) {
        self.pod.infra.kill().await.unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = namespaces::unpin(&self.planned.plan.dir.join("ns/user"));
    }
}

/// Two layers with a busybox, a user, a volume.
fn image(dir: &Path) -> Image {
    let layer = |name: &str| {
        let path = dir.join("layers").join(name);
        fs::create_dir_all(path.join("etc")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Layer { id: LayerId(name.into()), path, max_uid: 1000, max_gid: 1001 }
    };
    let (one, two) = (layer("one"), layer("two"));
    for name in ["bin", "data", "tmp", "home/app"] {
        fs::create_dir_all(one.path.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", one.path.join("bin/busybox")).expect("busybox-static is needed");
    for name in [
        "sh", "cat", "id", "stat", "ls", "touch", "mount", "grep", "sort", "env", "pwd", "echo", "mkdir",
        "ps", "dd", "readlink", "sleep", "test",
    ] {
        symlink("busybox", one.path.join("bin").join(name)).unwrap();
    }
    fs::write(one.path.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
        .unwrap();
    fs::write(two.path.join("etc/group"), "root:x:0:\napp:x:1001:\nwheel:x:10:app\n").unwrap();
    fs::write(one.path.join("etc/secret"), "secret").unwrap();
    fs::write(one.path.join("data/f"), "volume").unwrap();
    std::os::unix::fs::chown(one.path.join("data/f"), Some(1000), Some(1001)).unwrap();
    std::os::unix::fs::chown(one.path.join("home/app"), Some(1000), Some(1001)).unwrap();
    Image {
        id: ImageId("sha256:1".into()),
        repo_tags: vec!["box:1".into()],
        repo_digests: Vec::new(),
        size: 0,
        pinned: false,
        config: ImageConfig {
            user: User(String::new()),
            env: vec!["PATH=/bin".into(), "FROM=image".into()],
            cmd: vec!["sh".into()],
            volumes: vec!["/data".into()],
            ..ImageConfig::default()
        },
        layers: vec![one, two],
        annotations: Default::default(),
    }
}

fn config(script: &str) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: "c".into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: "box:1".into(), ..Default::default() }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        ..Default::default()
    }
}

fn context(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn mount(container_path: &str, host_path: &Path) -> cri::Mount {
    cri::Mount {
        container_path: container_path.into(),
        host_path: host_path.to_str().unwrap().into(),
        ..Default::default()
    }
}

// cri: ContainerConfig.metadata, ContainerConfig.image, ContainerConfig.command, ContainerConfig.envs
// cri: KeyValue.key, KeyValue.value
#[tokio::test]
async fn a_container_of_an_image() {
    need_root!();
    for user in [true, false] {
        let node = Node::new(user).await;
        let script = "pwd; echo $FROM $HOSTNAME $HOME $X; id -u; touch /new; \
                      stat -c '%u:%g %a' /new /etc/hosts /etc/resolv.conf /data /data/f /; \
                      cat /etc/hostname /etc/resolv.conf; grep pod-host /etc/hosts; cat /data/f; echo";
        let mut asked = config(script);
        asked.envs = vec![cri::KeyValue { key: "X".into(), value: b"y z".to_vec() }];
        let (lines, exit, id) = node.run(asked).await;
        assert_eq!(exit, Exit::Code(0), "{lines:#?}");
        let wanted = [
            "/",
            "image pod-host /root y z",
            "0",
            "0:0 644",
            "0:0 644",
            "0:0 644",
            "0:0 755",
            "1000:1001 644",
            "0:0 755",
            "pod-host",
            "nameserver 192.0.2.1",
            "10.9.8.7\tpod-host",
            "volume",
        ];
        assert_eq!(lines, wanted);
        // The upper directory is free of any mapping, the volume has the host's ids.
        assert_eq!(fs::metadata(node.upper(&id).join("upper/new")).unwrap().uid(), 0);
        let volume = fs::metadata(node.upper(&id).join("volumes/0/f")).unwrap();
        assert_eq!(volume.uid(), node.base() + 1000);
        node.end().await;
    }
}

// cri: LinuxContainerSecurityContext.run_as_user, LinuxContainerSecurityContext.run_as_group
// cri: LinuxContainerSecurityContext.run_as_username, LinuxContainerSecurityContext.supplemental_groups
// cri: LinuxContainerSecurityContext.supplemental_groups_policy, LinuxContainerSecurityContext.capabilities
// cri: Capability.add_ambient_capabilities
#[tokio::test]
async fn users_and_their_groups() {
    need_root!();
    for user in [true, false] {
        let node = Node::new(user).await;
        let script = "id -u; id -g; id -G; echo $HOME; touch $HOME/mine; stat -c %u:%g $HOME/mine; grep Cap /proc/self/status";
        let lines = node.says(script, |c| context(c).run_as_username = "app".into()).await;
        assert_eq!(lines[..5], ["1000", "1001", "1001 10", "/home/app", "1000:1001"]);
        let caps: Vec<&str> = lines[5..].iter().filter_map(|line| line.split('\t').nth(1)).collect();
        let none = "0000000000000000";
        assert_eq!(caps, [none, none, none, "00000000a80425fb", none]);
        let lines = node
            .says("id -u; id -G; grep CapAmb /proc/self/status", |c| {
                let context = context(c);
                context.run_as_user = Some(cri::Int64Value { value: 7 });
                context.run_as_group = Some(cri::Int64Value { value: 8 });
                context.supplemental_groups = vec![99];
                context.supplemental_groups_policy = cri::SupplementalGroupsPolicy::Strict.into();
                context.capabilities.get_or_insert_default().add_ambient_capabilities =
                    vec!["NET_BIND_SERVICE".into()];
            })
            .await;
        assert_eq!(lines, ["7", "8 99", "CapAmb:\t0000000000000400"]);
        node.end().await;
    }
}

// cri: LinuxContainerSecurityContext.readonly_rootfs, LinuxContainerSecurityContext.no_new_privs
// cri: LinuxContainerSecurityContext.masked_paths, LinuxContainerSecurityContext.readonly_paths
// cri: LinuxContainerSecurityContext.seccomp, LinuxContainerConfig.security_context, ContainerConfig.linux
#[tokio::test]
async fn what_confines_a_container() {
    need_root!();
    for user in [true, false] {
        let node = Node::new(user).await;
        let script = "touch /x 2>/dev/null || echo read-only; touch /proc/sys/kernel/hostname 2>/dev/null || echo ro-path; \
                      stat -Lc '%F %t:%T' /etc/secret; ls /sys/firmware; \
                      touch /etc/hosts 2>/dev/null || echo ro-hosts; \
                      grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status; touch /data/ok && echo volume; \
                      mount -t tmpfs t /tmp 2>/dev/null || echo no-mount";
        let lines = node
            .says(script, |c| {
                let context = context(c);
                context.readonly_rootfs = true;
                context.no_new_privs = true;
                context.masked_paths = vec!["/etc/secret".into(), "/sys/firmware".into()];
                context.readonly_paths = vec!["/proc/sys".into()];
                context.seccomp = Some(cri::SecurityProfile::default());
            })
            .await;
        let wanted = [
            "read-only",
            "ro-path",
            "character special file 1:3",
            "ro-hosts",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "volume",
            "no-mount",
        ];
        assert_eq!(lines, wanted);
        node.end().await;
    }
}

// cri: ContainerConfig.mounts, Mount.container_path, Mount.host_path, Mount.readonly
// cri: Mount.recursive_read_only, Mount.image, Mount.image_sub_path, Mount.mount_options
#[tokio::test]
async fn mounts_of_a_request() {
    need_root!();
    for user in [true, false] {
        let node = Node::new(user).await;
        // Nobody but root may enter it.
        let secret = node.dir.path().join("secret");
        fs::create_dir_all(secret.join("volume/sub")).unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(secret.join("volume/f"), "host").unwrap();
        symlink("volume", secret.join("link")).unwrap();
        let script = "cat /vol/f; echo; touch /vol/new; stat -c %u /vol/f /vol/new; touch /ro/x 2>/dev/null || echo ro; \
                      touch /rro/x 2>/dev/null || echo rro; ls /made; cat /image/f; echo; \
                      touch /image/x 2>/dev/null || echo image-ro; grep -E ' /vol ' /proc/self/mountinfo | grep -c noexec; \
                      cat /etc/hosts";
        let hosts = node.dir.path().join("hosts");
        fs::write(&hosts, "kubelet's\n").unwrap();
        let lines = node
            .says(script, |c| {
                let ro = cri::Mount { readonly: true, ..mount("/ro", &secret.join("volume")) };
                let rro =
                    cri::Mount { container_path: "/rro".into(), recursive_read_only: true, ..ro.clone() };
                let image = cri::Mount {
                    container_path: "image".into(),
                    image: Some(cri::ImageSpec { image: "box:1".into(), ..Default::default() }),
                    image_sub_path: "data".into(),
                    readonly: true,
                    ..Default::default()
                };
                c.mounts = vec![
                    cri::Mount {
                        mount_options: vec!["noexec".into()],
                        ..mount("/vol", &secret.join("link"))
                    },
                    ro,
                    rro,
                    mount("/made", &node.dir.path().join("not/yet/there")),
                    image,
                    mount("/etc/hosts", &hosts),
                ];
            })
            .await;
        assert_eq!(lines, ["host", "0", "0", "ro", "rro", "volume", "image-ro", "1", "kubelet's"]);
        assert_eq!(fs::metadata(secret.join("volume/new")).unwrap().uid(), 0);
        assert!(node.dir.path().join("not/yet/there").is_dir());
        node.end().await;
    }
}

// cri: ContainerConfig.devices, Device.container_path, Device.host_path, Device.permissions
// cri: ContainerConfig.tty, LinuxContainerSecurityContext.namespace_options
#[tokio::test]
async fn devices_terminals_and_pid_namespaces() {
    need_root!();
    for user in [true, false] {
        let node = Node::new(user).await;
        let lines = node
            .says("ls -l /dev/mine | grep -c ' 1, *5 '; dd if=/dev/mine bs=4 count=1 2>/dev/null | grep -c .; ls /proc/1/exe >/dev/null && echo $$", |c| {
                c.devices = vec![cri::Device {
                    container_path: "/dev/mine".into(),
                    host_path: "/dev/zero".into(),
                    permissions: "rw".into(),
                }];
                context(c).namespace_options = Some(cri::NamespaceOption {
                    pid: cri::NamespaceMode::Container.into(),
                    ..Default::default()
                });
            })
            .await;
        assert_eq!(lines.first().map(String::as_str), Some("1"), "{lines:?}");
        assert_eq!(lines.last().map(String::as_str), Some("1"), "{lines:?}");
        let lines = node.says("test -t 0 && echo terminal $TERM", |c| c.tty = true).await;
        assert_eq!(lines, ["terminal xterm"]);
        node.end().await;
    }
}

// cri: LinuxContainerSecurityContext.privileged
#[tokio::test]
async fn a_privileged_container() {
    need_root!();
    for user in [true, false] {
        let node = Node::of(user, |planned| planned.plan.spec.security.privileged = true).await;
        let script = "grep -E '^(Seccomp|CapEff):' /proc/self/status; mount -t tmpfs t /tmp && echo mounted; \
                      touch /sys/fs/cgroup/x 2>/dev/null; grep ' /sys ' /proc/self/mountinfo | grep -c rw,";
        let lines = node.says(script, |c| context(c).privileged = true).await;
        assert_eq!(lines[1..], ["Seccomp:\t0", "mounted", "1"], "{lines:?}");
        let all = lines[0].ends_with("000001ffffffffff");
        assert_eq!(all, user, "a new user namespace has all of them: {lines:?}");
        node.end().await;
    }
}

/// What many a system pod is.
#[tokio::test]
async fn a_pod_that_shares_the_nodes_namespaces() {
    need_root!();
    let mut planned = Planned::with(None, NetworkPlan::Host);
    planned.plan.spec.namespaces.pid = PidMode::Node;
    planned.plan.spec.namespaces.ipc = IpcMode::Node;
    let node = Node::planned(planned).await;
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    let wanted: Vec<String> =
        ["net", "pid", "ipc", "uts", "user"].map(|kind| own(kind).to_str().unwrap().to_owned()).into();
    let script = "for n in net pid ipc uts user; do readlink /proc/self/ns/$n; done; ls -d /sys/class/net/lo; \
                  touch /sys/x 2>/dev/null || echo ro; test -d /proc/$PPID && echo host-proc; \
                  ls -d /dev/shm /dev/mqueue; touch /etc/hosts && echo hosts";
    let lines = node
        .says(script, |c| {
            context(c).namespace_options = Some(cri::NamespaceOption {
                network: cri::NamespaceMode::Node.into(),
                pid: cri::NamespaceMode::Node.into(),
                ipc: cri::NamespaceMode::Node.into(),
                ..Default::default()
            });
        })
        .await;
    assert_eq!(lines[..5], wanted);
    assert_eq!(lines[5..], ["/sys/class/net/lo", "ro", "host-proc", "/dev/mqueue", "/dev/shm", "hosts"]);
    node.end().await;
}

#[tokio::test]
async fn mounts_that_come_later_get_through_as_asked() {
    need_root!();
    use rustix::mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount as mount_at, mount_change, unmount,
    };
    for user in [true, false] {
        let node = Node::new(user).await;
        let place = node.dir.path().join("shared");
        fs::create_dir(&place).unwrap();
        mount_at("tmpfs", &place, "tmpfs", MountFlags::empty(), None).unwrap();
        mount_change(&place, MountPropagationFlags::SHARED).unwrap();
        fs::create_dir(place.join("later")).unwrap();
        let mut asked = config("while ! test -e /slave/later/here; do sleep 0.05; done; ls /private/later");
        asked.mounts = vec![
            cri::Mount {
                propagation: cri::MountPropagation::PropagationHostToContainer.into(),
                ..mount("/slave", &place)
            },
            mount("/private", &place),
        ];
        let later = place.join("later");
        let comes = async {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            mount_at("tmpfs", &later, "tmpfs", MountFlags::empty(), None).unwrap();
            fs::write(later.join("here"), "").unwrap();
        };
        let ran = tokio::time::timeout(std::time::Duration::from_secs(20), async {
            tokio::join!(node.run(asked), comes).0
        })
        .await;
        let _ = unmount(&later, UnmountFlags::DETACH);
        unmount(&place, UnmountFlags::DETACH).unwrap();
        let (lines, exit, _) = ran.expect("the mount did not get through");
        assert_eq!((exit, lines), (Exit::Code(0), Vec::new()));
        node.end().await;
    }
}

#[tokio::test]
async fn cgroups_are_seen_and_devices_kept_in() {
    need_root!();
    let cgroups = match Cgroups::detect(&CgroupSettings::default()) {
        Ok(cgroups) => cgroups,
        Err(error) => {
            println!("SKIPPED: no cgroups: {}", chain(&error));
            return;
        }
    };
    // One that is not among those that every container has.
    if !Path::new("/dev/fuse").exists() {
        println!("SKIPPED: no /dev/fuse");
        return;
    }
    for user in [true, false] {
        let node = Node::new(user).await;
        let mut asked = config(
            "ls /sys/fs/cgroup | grep -cE '^(memory|cgroup.procs)$'; \
             for f in /sys/fs/cgroup/memory/tasks /sys/fs/cgroup/cgroup.procs; do echo 1 >> $f; done 2>/dev/null || echo ro; \
             grep -vc ':/$' /proc/self/cgroup; (: < /dev/readable) && echo readable; \
             echo x 2>/dev/null > /dev/readable || echo not-writable; echo x > /dev/null && echo null",
        );
        asked.devices = vec![cri::Device {
            container_path: "/dev/readable".into(),
            host_path: "/dev/fuse".into(),
            permissions: "r".into(),
        }];
        let wanted = ["1", "ro", "0", "readable", "not-writable", "null"].map(String::from).to_vec();
        let mut made = None;
        let (lines, exit, _) = node
            .run_in(asked, |id, prepared| {
                let planned = cgroups
                    .plan_container("", &sandboxd::pod::model::PodId::from_string("prepared".into()), id)
                    .unwrap();
                let resources = prepared.spec.linux().as_ref().unwrap().resources().clone().unwrap();
                let devices = Devices::of(resources.devices().as_ref().unwrap()).unwrap();
                let container =
                    cgroups.create_container(&planned, &Default::default(), &devices, None).unwrap();
                let procs = container.procs().unwrap();
                made = Some((container, planned));
                procs
            })
            .await;
        let (_, planned) = made.unwrap();
        cgroups.remove(&planned).unwrap();
        assert_eq!((exit, lines), (Exit::Code(0), wanted));
        node.end().await;
    }
}
