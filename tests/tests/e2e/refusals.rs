//! What cannot be done is refused by name: the code, the field, the value.

use anyhow::{Result, ensure};
use sandboxd_api::cri::{
    IdMapping, Int64Value, LinuxContainerResources, NamespaceMode, PodSandboxConfig, PortMapping,
    SecurityProfile, UserNamespace, WindowsPodSandboxConfig, runtime_service_client::RuntimeServiceClient,
    security_profile::ProfileType,
};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::pod::{Pod, USERNS_BASE, USERNS_LENGTH};
use tonic::Code;

use crate::support::refused;

/// A pod request and the words its refusal must have.
type Bad = (PodSandboxConfig, &'static [&'static str]);

fn mapped(
    pod: Pod,
    uids: &[(u32, u32, u32)],
    gids: &[(u32, u32, u32)],
    mode: NamespaceMode,
) -> PodSandboxConfig {
    let lines = |list: &[(u32, u32, u32)]| {
        let line = |&(container_id, host_id, length): &_| IdMapping { host_id, container_id, length };
        list.iter().map(line).collect()
    };
    pod.with_security(|security| {
        security.namespace_options.get_or_insert_default().userns_options =
            Some(UserNamespace { mode: mode.into(), uids: lines(uids), gids: lines(gids) });
    })
    .build()
}

fn bad_mappings(pod: &dyn Fn() -> Pod) -> Vec<Bad> {
    let good = (0, USERNS_BASE, USERNS_LENGTH);
    let own = NamespaceMode::Pod;
    vec![
        (mapped(pod(), &[good, (65_536, 1, 1)], &[good], own), &["uids", "2"]),
        (mapped(pod(), &[(1, USERNS_BASE, 10)], &[(1, USERNS_BASE, 10)], own), &["container_id", "1"]),
        (mapped(pod(), &[(0, USERNS_BASE, 0)], &[(0, USERNS_BASE, 0)], own), &["length"]),
        (mapped(pod(), &[(0, u32::MAX - 9, 20)], &[(0, u32::MAX - 9, 20)], own), &["4294967286", "20"]),
        (mapped(pod(), &[good], &[(0, USERNS_BASE + 1, USERNS_LENGTH)], own), &["uids", "gids"]),
        (mapped(pod(), &[], &[], own), &["uids"]),
        (mapped(pod(), &[good], &[good], NamespaceMode::Node), &["userns"]),
        (mapped(pod(), &[good], &[good], NamespaceMode::Container), &["userns", "container"]),
        (mapped(pod(), &[good], &[good], NamespaceMode::Target), &["userns", "target"]),
    ]
}

fn bad_namespaces(pod: &dyn Fn() -> Pod) -> Vec<Bad> {
    vec![
        (pod().userns().network(NamespaceMode::Node).build(), &["network", "user namespace"]),
        (pod().userns().pid(NamespaceMode::Node).build(), &["pid", "user namespace"]),
        (pod().userns().ipc(NamespaceMode::Node).build(), &["ipc", "user namespace"]),
        (pod().network(NamespaceMode::Container).build(), &["network", "container"]),
        (pod().ipc(NamespaceMode::Target).build(), &["ipc", "target"]),
        (pod().pid(NamespaceMode::Target).build(), &["pid", "target"]),
    ]
}

fn bad_values(pod: &dyn Fn() -> Pod) -> Vec<Bad> {
    let port = |protocol, container_port, host_port, host_ip: &str| {
        let mapping = PortMapping { protocol, container_port, host_port, host_ip: host_ip.to_owned() };
        pod().with(|c| c.port_mappings.push(mapping)).build()
    };
    let seccomp = |kind: i32, reference: &str| {
        let profile = SecurityProfile { profile_type: kind, localhost_ref: reference.to_owned() };
        pod().with_security(|s| s.seccomp = Some(profile)).build()
    };
    let local = ProfileType::Localhost.into();
    vec![
        (pod().hostname(&"h".repeat(65)).build(), &["hostname", "64"]),
        (pod().hostname("bad\nname").build(), &["hostname"]),
        (pod().dns(&["not-an-ip"], &[], &[]).build(), &["dns", "not-an-ip"]),
        (pod().dns(&[], &["evil.test\nnameserver 6.6.6.6"], &[]).build(), &["search"]),
        (
            pod().with(|c| c.log_directory = "relative/logs".into()).build(),
            &["log_directory", "relative/logs"],
        ),
        (pod().sysctl("vm.swappiness", "1").build(), &["vm.swappiness"]),
        (pod().sysctl("net.../../kernel.panic", "1").build(), &["sysctl"]),
        (
            pod().hostname("").network(NamespaceMode::Node).sysctl("net.core.somaxconn", "9").build(),
            &["net.core.somaxconn"],
        ),
        (pod().with_linux(|l| l.cgroup_parent = "/../../etc".into()).build(), &["cgroup", ".."]),
        (port(0, 80, 70_000, ""), &["host_port", "70000"]),
        (port(0, 0, 80, ""), &["container_port"]),
        (port(9, 80, 8080, ""), &["protocol", "9"]),
        (port(0, 80, 8080, "300.1.1.1"), &["host_ip", "300.1.1.1"]),
        (pod().userns().run_as(70_000, 0).build(), &["run_as_user", "70000"]),
        (pod().run_as(-1, 0).build(), &["run_as_user", "-1"]),
        (pod().with_security(|s| s.run_as_group = Some(Int64Value { value: 5 })).build(), &["run_as_group"]),
        (pod().with_security(|s| s.supplemental_groups = vec![-7]).build(), &["supplemental_groups", "-7"]),
        (seccomp(7, ""), &["seccomp", "7"]),
        (seccomp(local, "relative.json"), &["seccomp", "relative.json"]),
        (pod().with(|c| c.windows = Some(WindowsPodSandboxConfig::default())).build(), &["windows"]),
        (
            pod()
                .with_linux(|l| {
                    l.resources = Some(LinuxContainerResources { cpu_quota: -5, ..Default::default() });
                })
                .build(),
            &["cpu_quota", "-5"],
        ),
    ]
}

#[test]
fn bad_input_is_refused_by_field_and_value() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let pod = || node.pod("bad");
        let mut all = bad_mappings(&pod);
        all.extend(bad_namespaces(&pod));
        all.extend(bad_values(&pod));
        for name in ["name", "namespace"] {
            let config = pod()
                .with(|c| {
                    let metadata = c.metadata.get_or_insert_default();
                    match name {
                        "name" => metadata.name.clear(),
                        _ => metadata.namespace.clear(),
                    }
                })
                .build();
            all.push((config, &["metadata"]));
        }
        all.push((pod().with(|c| c.metadata = None).build(), &["metadata"]));

        // All are tried, so that one run shows every gap.
        let mut gaps = Vec::new();
        for (config, words) in all {
            let result = cri.run(config).await;
            if let Ok(id) = &result {
                cri.remove(id).await?;
            }
            if let Err(error) = refused(result, Code::InvalidArgument, words) {
                gaps.push(format!("{words:?}: {error}"));
            }
        }
        ensure!(gaps.is_empty(), "{}", gaps.join("\n"));
        ensure!(cri.list(None).await?.is_empty());
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn a_missing_seccomp_profile_is_named() {
    E2e::default().run(async |node| {
        let path = "/nonexistent/profile.json";
        let seccomp =
            SecurityProfile { profile_type: ProfileType::Localhost.into(), localhost_ref: path.to_owned() };
        let pod = node.pod("noprofile").userns().with_security(|s| s.seccomp = Some(seccomp));
        let status = node.cri().await?.run(pod.build()).await.err();
        let status = status.ok_or_else(|| anyhow::anyhow!("a pod without its seccomp profile"))?;
        ensure!(status.message().contains(path), "{status:?}");
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn an_unknown_handler_is_named_with_the_known_ones() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let result = cri.run_with(node.pod("x").userns().build(), "gvisor").await;
        let status = result.err().ok_or_else(|| anyhow::anyhow!("an unknown handler was accepted"))?;
        let message = status.message();
        ensure!(message.contains("gvisor") && message.contains("network-first"), "{message}");
        Ok(())
    });
}

#[test]
fn what_follows_later_is_unimplemented_and_names_its_rpc() {
    use sandboxd_api::cri::{CheckpointContainerRequest, CheckpointPodRequest, RestorePodRequest};
    E2e::default().run(async |node| {
        let mut runtime = node.cri().await?.runtime;
        let code = Code::Unimplemented;
        let answer = runtime.checkpoint_container(CheckpointContainerRequest::default()).await;
        refused(answer, code, &["CheckpointContainer"])?;
        let answer = runtime.checkpoint_pod(CheckpointPodRequest::default()).await;
        refused(answer, code, &["CheckpointPod"])?;
        refused(runtime.restore_pod(RestorePodRequest::default()).await, code, &["RestorePod"])
    });
}

#[test]
fn a_message_beyond_the_limit_does_not_end_the_daemon() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let channel = sandboxd_tests::cri::channel(&node.cri_socket()).await?;
        let mut unbounded = RuntimeServiceClient::new(channel).max_encoding_message_size(usize::MAX);
        let huge = node.pod("huge").annotation("a", &"x".repeat(17 << 20)).build();
        let request =
            sandboxd_api::cri::RunPodSandboxRequest { config: Some(huge), runtime_handler: String::new() };
        let result: Result<_> = unbounded.run_pod_sandbox(request).await.map_err(Into::into);
        ensure!(result.is_err(), "17 MiB were accepted");
        ensure!(cri.list(None).await?.is_empty());
        Ok(())
    });
}
