//! AppArmor, where it is enabled: which profile containers run in, and what the default one denies.

use anyhow::ensure;
use sandboxd_api::cri::security_profile::ProfileType;
use sandboxd_api::cri::{LinuxContainerSecurityContext, SecurityProfile};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::image::BUSYBOX;
use sandboxd_tests::skip::Need;
use sandboxd_tests::workload::{Kube, Request};
use tonic::Code;

use crate::support::refused;

const LABEL: &str = "cat /proc/self/attr/current";

fn request(name: &str) -> Request {
    Request::new(name, BUSYBOX)
}

/// A container that may mount and write sysctls, as far as its capabilities go.
fn mounts(name: &str, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Request {
    request(name).with_security(|security| {
        security.capabilities.get_or_insert_default().add_capabilities =
            ["SYS_ADMIN", "NET_ADMIN"].map(str::to_owned).into();
        change(security);
    })
}

fn profile(kind: ProfileType, name: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() })
}

#[test]
fn the_default_profile_denies_what_is_the_machines() {
    E2e::default().needs(Need::AppArmor).run(async |node| {
        node.load_busybox()?;
        let kube = Kube::connect(node).await?;
        let pod = kube.pod(node.pod("host")).await?;
        let tries = format!(
            "{LABEL}; mount -t tmpfs x /mnt || echo no mount; \
             (echo 1 >/proc/sys/vm/stat_interval) || echo no sysctl; \
             (echo h >/proc/sysrq-trigger) || echo no sysrq; head -c1 /proc/kcore || echo no kcore; \
             (echo 0 >/proc/self/oom_score_adj) && echo own process; sleep 60 & kill $! && echo own child"
        );
        let text = kube.printed(&pod, mounts("unset", |_| {}).sh(&tries)).await?;
        ensure!(
            text == "sandboxd-default (enforce)\nno mount\nno sysctl\nno sysrq\nno kcore\nown process\nown child",
            "{text}"
        );
        let script = format!("{LABEL}; mount -t tmpfs x /mnt && echo mounted");
        let free = mounts("unconfined", |s| {
            s.apparmor = profile(ProfileType::Unconfined, "");
            // Not looked at beside it.
            s.apparmor_profile = "localhost/not-loaded".into();
        });
        let text = kube.printed(&pod, free.sh(&script)).await?;
        ensure!(text == "unconfined\nmounted", "{text}");
        let default = mounts("default", |s| s.apparmor = profile(ProfileType::RuntimeDefault, "")).waits();
        let id = kube.run(&pod, default).await?;
        let said = kube.asked(&id, &["sh", "-c", LABEL]).await?;
        ensure!(said == "sandboxd-default (enforce)", "an exec: {said}");
        kube.stop(&id, 10).await?;
        ensure!(kube.status(&id).await?.exit_code == 0, "the shim's signal did not arrive");

        let pod = kube.pod(node.pod("privileged").with_security(|s| s.privileged = true)).await?;
        let all = request("privileged").with_security(|s| s.privileged = true);
        let text = kube.printed(&pod, all.sh(LABEL)).await?;
        ensure!(text == "unconfined", "{text}");
        Ok(())
    });
}

#[test]
fn a_pod_with_a_user_namespace_mounts_in_the_default_profile() {
    E2e::default().needs(Need::AppArmor).run(async |node| {
        node.load_busybox()?;
        let kube = Kube::connect(node).await?;
        let pod = kube.pod(node.pod("userns").userns()).await?;
        let script = format!(
            "{LABEL}; mount -t tmpfs x /mnt && mount -t sysfs s /mnt && mount -t proc p /mnt && echo mounted; \
             (echo 1 >/proc/sys/net/ipv4/ip_forward) && echo own sysctl; \
             (echo 1 >/proc/sys/vm/stat_interval) 2>/dev/null || echo no sysctl"
        );
        let text = kube.printed(&pod, mounts("c", |_| {}).sh(&script)).await?;
        ensure!(text == "sandboxd-default-userns (enforce)\nmounted\nown sysctl\nno sysctl", "{text}");
        Ok(())
    });
}

// cri: LinuxContainerSecurityContext.apparmor, LinuxContainerSecurityContext.apparmor_profile
#[test]
fn a_profile_that_is_not_loaded_is_refused_when_the_container_is_made() {
    E2e::alone().needs(Need::AppArmor).run(async |node| {
        node.load_busybox()?;
        let kube = Kube::connect(node).await?;
        let pod = kube.pod(node.pod("pod")).await?;
        let words = ["apparmor profile not found not-loaded"];
        let newer =
            request("newer").with_security(|s| s.apparmor = profile(ProfileType::Localhost, "not-loaded"));
        refused(kube.create(&pod, newer.sh("true")).await, Code::FailedPrecondition, &words)?;
        let older = request("older").with_security(|s| s.apparmor_profile = "localhost/not-loaded".into());
        refused(kube.create(&pod, older.sh("true")).await, Code::FailedPrecondition, &words)?;
        let named = request("named")
            .with_security(|s| s.apparmor = profile(ProfileType::Localhost, "sandboxd-default"));
        ensure!(kube.printed(&pod, named.sh(LABEL)).await? == "sandboxd-default (enforce)");

        // As `aa-remove-unknown` does, which knows only the profiles in /etc/apparmor.d.
        std::fs::write("/sys/kernel/security/apparmor/.remove", "sandboxd-default")?;
        let text = kube.printed(&pod, request("again").sh(LABEL)).await?;
        ensure!(text == "sandboxd-default (enforce)", "{text}");
        Ok(())
    });
}
