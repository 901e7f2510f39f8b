//! Every field of a PodSandboxConfig takes effect.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, ensure};
use sandboxd_api::cri::{
    LinuxContainerResources, NamespaceMode, PodSandboxState, SecurityProfile, security_profile::ProfileType,
};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::leftovers;
use sandboxd_tests::pod::USERNS_BASE;
use sandboxd_tests::proc::{self, list_inside, read_inside, status_field};

// cri: PodSandboxConfig.hostname, PodSandboxConfig.dns_config, DNSConfig.servers, DNSConfig.searches
// cri: DNSConfig.options
#[test]
fn hostname_and_dns() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let servers = ["10.9.8.7", "fd00::53"];
        let pod =
            node.pod("names").userns().hostname("chosen").dns(&servers, &["a.test", "b.test"], &["ndots:5"]);
        let pid = cri.pid(&cri.run(pod.build()).await?).await?;
        let resolv = read_inside(pid, "/etc/resolv.conf")?;
        let lines: Vec<_> = resolv.lines().map(str::trim).collect();
        for line in ["nameserver 10.9.8.7", "nameserver fd00::53", "search a.test b.test", "options ndots:5"]
        {
            ensure!(lines.contains(&line), "no {line:?} in {resolv:?}");
        }
        ensure!(read_inside(pid, "/etc/hostname")?.trim() == "chosen");
        ensure!(uts_name(pid)? == "chosen");

        let pid = cri.pid(&cri.run(node.pod("hostdns").userns().build()).await?).await?;
        let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        ensure!(read_inside(pid, "/etc/resolv.conf")? == host, "without dns_config it is the host's file");
        Ok(())
    });
}

/// The hostname in a process's UTS namespace, read by a child that joins it.
fn uts_name(pid: i32) -> anyhow::Result<String> {
    let target = pid.to_string();
    let text = sandboxd_tests::cni::tool("nsenter", &["-t", &target, "-u", "uname", "-n"])?;
    Ok(text.trim().to_owned())
}

/// A sysctl as the pod sees it: those of the network namespace are read by a child that joins it.
fn net_sysctl(pid: i32, name: &str) -> anyhow::Result<String> {
    let (target, path) = (pid.to_string(), format!("/proc/sys/{}", name.replace('.', "/")));
    Ok(sandboxd_tests::cni::tool("nsenter", &["-t", &target, "-n", "cat", &path])?.trim().to_owned())
}

// cri: LinuxPodSandboxConfig.sysctls
#[test]
fn sysctls() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let pod = node
            .pod("sysctls")
            .userns()
            .sysctl("net.ipv4.ip_local_port_range", "20000 20999")
            .sysctl("net/core/somaxconn", "321")
            .sysctl("kernel.shm_rmid_forced", "1");
        let pid = cri.pid(&cri.run(pod.build()).await?).await?;
        ensure!(net_sysctl(pid, "net.ipv4.ip_local_port_range")?.split_whitespace().eq(["20000", "20999"]));
        ensure!(net_sysctl(pid, "net.core.somaxconn")? == "321");
        let target = pid.to_string();
        let path = "/proc/sys/kernel/shm_rmid_forced";
        let forced = sandboxd_tests::cni::tool("nsenter", &["-t", &target, "-i", "cat", path])?;
        ensure!(forced.trim() == "1", "kernel.shm_rmid_forced is {forced:?}");
        // What containers rely on without asking: low ports, and ping within the mapped gids.
        ensure!(net_sysctl(pid, "net.ipv4.ip_unprivileged_port_start")? == "0");
        Ok(())
    });
}

// cri: PodSandboxConfig.log_directory
#[test]
fn the_log_directory_is_made() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let dir = node.path("logs/default_web_uid");
        let path = dir.to_string_lossy().into_owned();
        let id = cri.run(node.pod("logs").userns().with(|c| c.log_directory = path).build()).await?;
        ensure!(dir.is_dir(), "{} is not there", dir.display());
        cri.remove(&id).await?;
        // Kubelet keeps a pod's logs for longer than the pod.
        ensure!(dir.is_dir(), "{} went with the pod", dir.display());
        Ok(())
    });
}

// cri: PodSandboxConfig.linux, LinuxPodSandboxConfig.cgroup_parent, LinuxPodSandboxConfig.resources
// cri: LinuxPodSandboxConfig.overhead
#[test]
fn the_cgroup_parent_and_the_resources() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let memory = |bytes| LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() };
        let pod = node.pod("limits").userns().with_linux(|linux| {
            linux.resources = Some(LinuxContainerResources { cpu_shares: 512, ..memory(64 << 20) });
            linux.overhead = Some(memory(16 << 20));
        });
        let id = cri.run(pod.build()).await?;
        let pid = cri.pid(&id).await?;
        let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let parent = node.scope.cgroup_parent();
        ensure!(cgroups.contains(&format!(":{parent}/")), "pid {pid} is not below {parent}: {cgroups}");
        let files = ["memory.limit_in_bytes", "memory.max"];
        let limit = leftovers::cgroup_dirs(&format!("{}/{id}", node.scope.name))
            .into_iter()
            .flat_map(|dir| files.map(|file| dir.join(file)))
            .find_map(|file| std::fs::read_to_string(file).ok())
            .context("no memory limit in the pod's cgroup")?;
        // Resources and overhead together.
        ensure!(limit.trim() == (80u64 << 20).to_string(), "the limit is {limit}");
        Ok(())
    });
}

#[test]
fn the_default_cgroup_parent_goes_with_its_last_pod() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let pod = node.pod("noparent").userns().with_linux(|linux| linux.cgroup_parent.clear());
        let id = cri.run(pod.build()).await?;
        let path = format!("sandboxd/{id}");
        ensure!(!leftovers::cgroup_dirs(&path).is_empty(), "no cgroup /{path}");
        cri.remove(&id).await?;
        ensure!(leftovers::cgroup_dirs(&path).is_empty(), "cgroup /{path} is left");
        Ok(())
    });
}

// cri: LinuxPodSandboxConfig.security_context, LinuxSandboxSecurityContext.run_as_user
// cri: LinuxSandboxSecurityContext.run_as_group, LinuxSandboxSecurityContext.supplemental_groups
// cri: Int64Value.value
#[test]
fn user_group_and_supplementary_groups() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let pod = node
            .pod("user")
            .userns()
            .run_as(1000, 2000)
            .with_security(|security| security.supplemental_groups = vec![3000, 4000]);
        let pid = cri.pid(&cri.run(pod.build()).await?).await?;
        let four = |id: u32| [id.to_string(), id.to_string(), id.to_string(), id.to_string()].join(" ");
        ensure!(status_field(pid, "Uid")? == four(USERNS_BASE + 1000));
        ensure!(status_field(pid, "Gid")? == four(USERNS_BASE + 2000));
        let groups = status_field(pid, "Groups")?;
        let mut groups: Vec<u32> = groups.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        groups.sort_unstable();
        let extra: Vec<_> = groups.into_iter().filter(|g| *g != USERNS_BASE + 2000).collect();
        ensure!(extra == [USERNS_BASE + 3000, USERNS_BASE + 4000], "the groups are {extra:?}");
        // Not root: no capabilities.
        for set in ["CapEff", "CapPrm", "CapAmb"] {
            ensure!(u64::from_str_radix(&status_field(pid, set)?, 16)? == 0, "{set} is not empty");
        }
        Ok(())
    });
}

#[test]
fn the_callers_groups_never_leak_in() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let pid = cri.pid(&cri.run(node.pod("groups").build()).await?).await?;
        let groups = status_field(pid, "Groups")?;
        ensure!(groups.is_empty() || groups == "0", "the infra container has the groups {groups}");
        Ok(())
    });
}

// cri: LinuxSandboxSecurityContext.seccomp, SecurityProfile.profile_type, SecurityProfile.localhost_ref
#[test]
fn seccomp_and_no_new_privileges() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let profile = node.path("profile.json");
        std::fs::write(
            &profile,
            r#"{"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}"#,
        )?;
        let local = profile.to_string_lossy().into_owned();
        let profiles = [
            ("default", ProfileType::RuntimeDefault, String::new(), "2"),
            ("local", ProfileType::Localhost, local, "2"),
            ("unconfined", ProfileType::Unconfined, String::new(), "0"),
        ];
        for (name, kind, localhost_ref, mode) in profiles {
            let seccomp = SecurityProfile { profile_type: kind.into(), localhost_ref };
            let pod = node.pod(name).userns().with_security(|s| s.seccomp = Some(seccomp));
            let pid = cri.pid(&cri.run(pod.build()).await?).await?;
            let seen = status_field(pid, "Seccomp")?;
            ensure!(seen == mode, "{name}: seccomp mode {seen}, should be {mode}");
            ensure!(status_field(pid, "NoNewPrivs")? == "1", "{name}: no_new_privs is off");
        }
        Ok(())
    });
}

#[test]
fn the_default_profile_filters_without_being_asked() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let pid = cri.pid(&cri.run(node.pod("quiet").userns().build()).await?).await?;
        ensure!(status_field(pid, "Seccomp")? == "2");
        Ok(())
    });
}

// cri: LinuxSandboxSecurityContext.readonly_rootfs
#[test]
fn a_read_only_root_is_read_only() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        for (name, wanted) in [("writable", false), ("readonly", true)] {
            let pod = node.pod(name).userns().with_security(|s| s.readonly_rootfs = wanted);
            let pid = cri.pid(&cri.run(pod.build()).await?).await?;
            let mounts = proc::mounts_of(pid)?;
            let root = mounts.iter().find(|m| m.point == "/").context("no root mount")?;
            let read_only = root.options.split(',').any(|o| o == "ro");
            ensure!(read_only == wanted, "{name}: {root:?}");
        }
        Ok(())
    });
}

// cri: LinuxSandboxSecurityContext.privileged
#[test]
fn privileged_has_all_a_daemon_can_give() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let pod = node.pod("privileged").with_security(|s| s.privileged = true);
        let pid = cri.pid(&cri.run(pod.build()).await?).await?;
        ensure!(status_field(pid, "Seccomp")? == "0");
        let own = i32::try_from(std::process::id())?;
        let caps =
            |pid, set| -> anyhow::Result<u64> { Ok(u64::from_str_radix(&status_field(pid, set)?, 16)?) };
        ensure!(caps(pid, "CapBnd")? == caps(own, "CapBnd")?, "not all capabilities of the daemon");
        let mounts = proc::mounts_of(pid)?;
        let sys = mounts.iter().find(|m| m.point == "/sys").context("no mount on /sys")?;
        ensure!(sys.options.split(',').any(|o| o == "rw"), "{sys:?}");
        Ok(())
    });
}

#[test]
fn without_privilege_paths_are_masked_and_capabilities_few() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let pid = cri.pid(&cri.run(node.pod("masked").build()).await?).await?;
        // CAP_SYS_ADMIN is bit 21, CAP_SYS_MODULE 16, CAP_SYS_PTRACE 19 (linux/capability.h).
        let bounding = u64::from_str_radix(&status_field(pid, "CapBnd")?, 16)?;
        ensure!(bounding & (1 << 21 | 1 << 16 | 1 << 19) == 0, "CapBnd is {bounding:x}");
        for path in ["/proc/kcore", "/proc/keys", "/proc/timer_list"] {
            let text = read_inside(pid, path).unwrap_or_default();
            ensure!(text.is_empty(), "{path} can be read");
        }
        let mounts = proc::mounts_of(pid)?;
        for path in ["/proc/sys", "/proc/sysrq-trigger"] {
            // Kernels without CONFIG_MAGIC_SYSRQ have none.
            if !Path::new(path).exists() {
                continue;
            }
            let mount =
                mounts.iter().find(|m| m.point == path).with_context(|| format!("no mount on {path}"))?;
            ensure!(mount.options.split(',').any(|o| o == "ro"), "{mount:?}");
        }
        Ok(())
    });
}

// cri: NamespaceOption.pid
#[test]
fn a_shared_pid_namespace_has_the_infra_container_as_its_first_process() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let pod = node.pod("shared").userns().pid(NamespaceMode::Pod);
        let pid = cri.pid(&cri.run(pod.build()).await?).await?;
        let inside = status_field(pid, "NSpid")?;
        ensure!(inside.split(' ').next_back() == Some("1"), "NSpid is {inside}");
        ensure!(list_inside(pid, "/proc")?.contains(&"1".to_owned()));
        Ok(())
    });
}

#[test]
fn devices_are_the_few_of_a_container() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let pid = cri.pid(&cri.run(node.pod("dev").userns().build()).await?).await?;
        let names = list_inside(pid, "/dev")?;
        for name in ["null", "zero", "full", "random", "urandom", "tty", "pts", "shm"] {
            ensure!(names.contains(&name.to_owned()), "no /dev/{name} among {names:?}");
        }
        ensure!(
            !names.iter().any(|n| n.starts_with("sd") || n.starts_with("vd") || n == "kmsg" || n == "mem")
        );
        Ok(())
    });
}

// cri: PodSandboxConfig.labels, PodSandboxConfig.annotations, PodSandboxStatus.labels
// cri: PodSandboxStatus.annotations
#[test]
fn labels_and_annotations_come_back_as_they_are() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let pairs: HashMap<String, String> = (0..50)
            .map(|i| (format!("key-{i}/x"), format!("\u{0}\n\t\"{i}\" \u{fffd} {}", "v".repeat(i))))
            .collect();
        let wanted = pairs.clone();
        let pod = node.pod("words").userns().with(|c| {
            c.annotations.clone_from(&wanted);
            c.labels = wanted;
        });
        let id = cri.run(pod.build()).await?;
        let status = cri.status(&id).await?.status.context("no status")?;
        ensure!(status.annotations == pairs && status.labels == pairs);
        ensure!(status.state() == PodSandboxState::SandboxReady);
        Ok(())
    });
}
