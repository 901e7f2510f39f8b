//! The security context of a container.

use anyhow::ensure;
use sandboxd_api::cri::security_profile::ProfileType;
use sandboxd_api::cri::{Capability, Int64Value, SecurityProfile, SupplementalGroupsPolicy};
use tonic::Code;

use crate::support::{both, refused, userns};

const CAPS: &str = "grep -E '^Cap(Eff|Bnd|Amb)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '";

// cri: LinuxContainerSecurityContext.capabilities, Capability.add_capabilities, Capability.drop_capabilities
// cri: Capability.add_ambient_capabilities, LinuxContainerConfig.security_context, ContainerConfig.linux
#[test]
fn capabilities_are_added_and_dropped() {
    both(async |stage| {
        let caps = |add: &[&str], drop: &[&str]| Capability {
            add_capabilities: add.iter().map(|s| (*s).to_owned()).collect(),
            drop_capabilities: drop.iter().map(|s| (*s).to_owned()).collect(),
            ..Capability::default()
        };
        let with = |name: &str, caps| stage.container(name).with_security(|s| s.capabilities = Some(caps));
        let text = stage.printed(stage.container("default"), CAPS).await?;
        ensure!(
            text.starts_with("CapEff:00000000a80425fb CapBnd:00000000a80425fb CapAmb:0000000000000000"),
            "{text}"
        );
        let text = stage.printed(with("add", caps(&["NET_ADMIN"], &["CAP_MKNOD", "kill"])), CAPS).await?;
        ensure!(text.starts_with("CapEff:00000000a00435db"), "{text}");
        let text = stage.printed(with("none", caps(&["CHOWN"], &["ALL"])), CAPS).await?;
        ensure!(text.starts_with("CapEff:0000000000000001 CapBnd:0000000000000001"), "{text}");
        let ambient =
            Capability { add_ambient_capabilities: vec!["NET_BIND_SERVICE".into()], ..Capability::default() };
        let text = stage.printed(with("ambient", ambient).run_as(1000, 1000), CAPS).await?;
        ensure!(
            text.contains("CapEff:0000000000000400") && text.contains("CapAmb:0000000000000400"),
            "{text}"
        );
        let refusal = stage.kube.create(&stage.pod, with("bad", caps(&["NO_SUCH"], &[]))).await;
        refused(refusal, Code::InvalidArgument, &["NO_SUCH"])
    });
}

// cri: LinuxContainerSecurityContext.run_as_user, LinuxContainerSecurityContext.run_as_group
// cri: LinuxContainerSecurityContext.run_as_username, LinuxContainerSecurityContext.supplemental_groups
// cri: LinuxContainerSecurityContext.supplemental_groups_policy, ContainerStatus.user, ContainerUser.linux
// cri: LinuxContainerUser.uid, LinuxContainerUser.gid, LinuxContainerUser.supplemental_groups, Int64Value.value
#[test]
fn the_user_and_its_groups() {
    both(async |stage| {
        let ids = "id -u; id -g; id -G; echo $HOME";
        // In the image user 1000 is "app", with group 1000, and in group 2000.
        let printed = async |request| stage.printed(request, ids).await;
        ensure!(printed(stage.container("root")).await? == "0\n0\n0 10\n/root");
        let name = stage.container("name").with_security(|s| s.run_as_username = "app".into());
        ensure!(printed(name).await? == "1000\n1000\n1000 2000\n/home/app");
        let merge =
            stage.container("merge").run_as(1000, 1000).with_security(|s| s.supplemental_groups = vec![3000]);
        let text = printed(merge.clone()).await?;
        ensure!(
            text == "1000\n1000\n1000 2000 3000\n/home/app"
                || text == "1000\n1000\n1000 3000 2000\n/home/app",
            "{text}"
        );
        let strict =
            merge.with(|c| c.metadata.get_or_insert_default().name = "strict".into()).with_security(|s| {
                s.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
            });
        let id = stage.kube.run(&stage.pod, strict.waits()).await?;
        ensure!(stage.kube.asked(&id, &["id", "-G"]).await? == "1000 3000");
        let user = stage.kube.status(&id).await?.user.and_then(|u| u.linux).unwrap_or_default();
        ensure!((user.uid, user.gid) == (1000, 1000), "{user:?}");
        let mut groups = user.supplemental_groups;
        groups.sort_unstable();
        ensure!(groups == [1000, 3000] || groups == [3000], "{groups:?}");
        let nobody = stage.container("nobody").with_security(|s| s.run_as_username = "nosuchuser".into());
        let refusal = stage.kube.create(&stage.pod, nobody).await;
        ensure!(refusal.is_err_and(|status| status.message().contains("nosuchuser")));
        let both = stage.container("both").run_as(1, 1).with_security(|s| s.run_as_username = "app".into());
        refused(stage.kube.create(&stage.pod, both).await, Code::InvalidArgument, &["run_as_user"])?;
        let group =
            stage.container("group").with_security(|s| s.run_as_group = Some(Int64Value { value: 5 }));
        refused(stage.kube.create(&stage.pod, group).await, Code::InvalidArgument, &["run_as_group"])
    });
}

#[test]
fn inside_and_outside_ids_match_the_mappings() {
    both(async |stage| {
        let id = stage.kube.run(&stage.pod, stage.container("ids").run_as(1000, 1000).waits()).await?;
        let info = stage.kube.verbose(&id, true).await?.info;
        let info: serde_json::Value = serde_json::from_str(&info["info"])?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", info["pid"]))?;
        let uid = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap_or_default();
        ensure!(uid.split_whitespace().all(|n| n == stage.host_id(1000).to_string()), "{uid}");
        Ok(())
    });
}

// cri: LinuxContainerSecurityContext.readonly_rootfs
#[test]
fn a_read_only_root() {
    both(async |stage| {
        let request = stage.container("ro").with_security(|s| s.readonly_rootfs = true);
        let text =
            stage.printed(request, "touch /x 2>/dev/null || echo ro; touch /dev/shm/y && echo shm").await?;
        ensure!(text == "ro\nshm", "{text}");
        ensure!(stage.printed(stage.container("rw"), "touch /x && echo rw").await? == "rw");
        Ok(())
    });
}

// cri: LinuxContainerSecurityContext.masked_paths, LinuxContainerSecurityContext.readonly_paths
#[test]
fn masked_and_read_only_paths() {
    both(async |stage| {
        let request = stage.container("paths").with_security(|s| {
            s.masked_paths = ["/etc/passwd", "/proc/kcore", "/work", "/no/such"].map(str::to_owned).into();
            s.readonly_paths = ["/proc/sys", "/home"].map(str::to_owned).into();
        });
        let script = "cat /etc/passwd | wc -c; ls /work | wc -l; touch /home/x 2>/dev/null || echo ro; \
                      echo 1 2>/dev/null > /proc/sys/kernel/domainname || echo ro";
        let text = stage.printed(request, script).await?;
        ensure!(text == "0\n0\nro\nro", "{text}");
        Ok(())
    });
}

// cri: LinuxContainerSecurityContext.no_new_privs
#[test]
fn no_new_privs() {
    both(async |stage| {
        let nnp = "grep NoNewPrivs /proc/self/status | cut -f2";
        ensure!(stage.printed(stage.container("off"), nnp).await? == "0");
        let request = stage.container("on").with_security(|s| s.no_new_privs = true);
        ensure!(stage.printed(request, nnp).await? == "1");
        Ok(())
    });
}

// cri: LinuxContainerSecurityContext.seccomp, SecurityProfile.profile_type, SecurityProfile.localhost_ref
// cri: LinuxContainerSecurityContext.seccomp_profile_path
#[test]
fn seccomp_profiles() {
    both(async |stage| {
        let mode =
            "grep Seccomp: /proc/self/status | cut -f2; mkdir /dir 2>/dev/null && echo made || echo denied";
        let with = |name: &str, profile_type: ProfileType, reference: &str| {
            let profile =
                SecurityProfile { profile_type: profile_type.into(), localhost_ref: reference.into() };
            stage.container(name).with_security(|s| s.seccomp = Some(profile))
        };
        ensure!(stage.printed(with("default", ProfileType::RuntimeDefault, ""), mode).await? == "2\nmade");
        ensure!(stage.printed(with("unconfined", ProfileType::Unconfined, ""), mode).await? == "0\nmade");
        let path = stage.node.path("profile.json");
        std::fs::write(
            &path,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}"#,
        )?;
        let path = path.to_string_lossy();
        ensure!(stage.printed(with("localhost", ProfileType::Localhost, &path), mode).await? == "2\ndenied");
        let missing = with("missing", ProfileType::Localhost, "/no/such.json");
        let refusal = stage.kube.create(&stage.pod, missing).await;
        ensure!(refusal.is_err_and(|status| status.message().contains("/no/such.json")));
        let old =
            stage.container("old").with_security(|s| s.seccomp_profile_path = format!("localhost/{path}"));
        ensure!(stage.printed(old, mode).await? == "2\ndenied", "the older field");
        Ok(())
    });
}

// cri: LinuxContainerSecurityContext.privileged
#[test]
fn privileged_needs_a_privileged_pod_and_has_everything() {
    both(async |stage| {
        let request = |name: &str| stage.container(name).with_security(|s| s.privileged = true);
        let refusal = stage.kube.create(&stage.pod, request("bad")).await;
        refused(refusal, Code::InvalidArgument, &["privileged"])?;
        let pod = stage.node.pod("privileged").with_security(|s| s.privileged = true);
        let pod = stage.kube.pod(if stage.userns { pod.userns() } else { pod }).await?;
        let script = "grep Seccomp: /proc/self/status | cut -f2; mount -t tmpfs x /mnt && echo mounted; \
                      grep -q ' /sys .*rw' /proc/self/mountinfo && echo rw";
        let text = stage.kube.printed(&pod, request("all").sh(script)).await?;
        ensure!(text == "0\nmounted\nrw", "{text}");
        Ok(())
    });
}

// cri: LinuxContainerSecurityContext.apparmor, LinuxContainerSecurityContext.apparmor_profile
#[test]
fn profiles_of_modules_that_are_not_there_are_refused_by_name() {
    userns(async |stage| {
        if std::path::Path::new("/sys/kernel/security/apparmor").exists() {
            return Ok(());
        }
        let localhost =
            SecurityProfile { profile_type: ProfileType::Localhost.into(), localhost_ref: "mine".into() };
        let request = stage.container("a").with_security(|s| s.apparmor = Some(localhost));
        refused(stage.kube.create(&stage.pod, request.waits()).await, Code::InvalidArgument, &["apparmor"])?;
        let request = stage.container("b").with_security(|s| s.apparmor_profile = "localhost/mine".into());
        refused(stage.kube.create(&stage.pod, request.waits()).await, Code::InvalidArgument, &["apparmor"])?;
        Ok(())
    });
}

// cri: LinuxSandboxSecurityContext.selinux_options, LinuxContainerSecurityContext.selinux_options
#[test]
fn selinux_labels_are_taken_where_there_is_no_selinux() {
    userns(async |stage| {
        if std::path::Path::new("/sys/fs/selinux/enforce").exists() {
            return Ok(());
        }
        // As the daemon sets that run on all kinds of nodes have it.
        let options = sandboxd_api::cri::SeLinuxOption { r#type: "spc_t".into(), ..Default::default() };
        let request = stage.container("c").with_security(|s| s.selinux_options = Some(options.clone()));
        stage.kube.run(&stage.pod, request.waits()).await?;
        let mut pod = stage.node.pod("labelled").build();
        let linux = pod.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().selinux_options = Some(options);
        let id = stage.kube.cri.run(pod).await?;
        stage.kube.cri.remove(&id).await?;
        Ok(())
    });
}

#[test]
fn the_callers_groups_and_files_do_not_leak_in() {
    both(async |stage| {
        let text =
            stage.printed(stage.container("leak"), "ls /proc/self/fd | wc -l; ulimit -n; umask").await?;
        let lines: Vec<_> = text.lines().collect();
        // 0, 1, 2 and the directory that ls reads.
        ensure!(lines[0] == "4" && lines[2] == "0022", "{text}");
        Ok(())
    });
}
