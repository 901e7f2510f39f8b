//! Run, status, list, stop, remove.

use anyhow::{Context, Result, ensure};
use sandboxd_api::cri::{
    PodSandboxFilter, PodSandboxState, PodSandboxStateValue, RuntimeConfigRequest, StatusRequest,
    StreamPodSandboxesRequest, VersionRequest,
};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::proc;
use tonic::Code;

use crate::support::refused;

// cri: RunPodSandbox, RunPodSandboxRequest.config, RunPodSandboxResponse.pod_sandbox_id, StopPodSandbox
// cri: StopPodSandboxRequest.pod_sandbox_id, RemovePodSandbox, RemovePodSandboxRequest.pod_sandbox_id
// cri: PodSandboxStatus, PodSandboxStatusRequest.pod_sandbox_id, PodSandboxStatusResponse.status
// cri: PodSandboxStatus.metadata, PodSandboxStatus.state, PodSandboxStatus.labels
// cri: PodSandboxStatus.annotations, PodSandboxStatus.created_at, PodSandboxStatus.network
// cri: PodSandboxNetworkStatus.ip, PodSandboxConfig.metadata, PodSandboxMetadata.name, PodSandboxMetadata.uid
// cri: PodSandboxMetadata.namespace
#[test]
fn a_pod_is_ready_with_what_was_asked_then_not_ready_then_gone() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let config = node
            .pod("web")
            .userns()
            .label("app", "web")
            .annotation("example.org/note", "kept \u{1f512} byte for byte\n")
            .build();
        let id = cri.run(config.clone()).await?;
        ensure!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "id {id}");

        let response = cri.status(&id).await?;
        let status = response.status.context("no status")?;
        ensure!(status.state() == PodSandboxState::SandboxReady, "{status:?}");
        ensure!(status.metadata == config.metadata, "{:?}", status.metadata);
        ensure!(status.labels == config.labels && status.annotations == config.annotations);
        ensure!(status.created_at > 1_600_000_000_000_000_000, "created_at {}", status.created_at);
        let ip = status.network.context("no network")?.ip;
        ensure!(node.scope.subnet.contains(&ip), "{ip} is not of {}", node.scope.subnet.cidr());
        let pid = cri.pid(&id).await?;
        ensure!(proc::alive(pid), "pid {pid} is not there");

        cri.stop(&id).await?;
        let status = cri.status(&id).await?.status.context("no status")?;
        ensure!(status.state() == PodSandboxState::SandboxNotready, "{status:?}");
        ensure!(!proc::alive(pid), "pid {pid} still runs after StopPodSandbox");
        cri.stop(&id).await.context("a second stop")?;

        cri.remove(&id).await?;
        refused(cri.status(&id).await, Code::NotFound, &[&id[..13]])?;
        cri.remove(&id).await.context("a second remove")?;
        cri.stop(&id).await.context("stopping what is gone")?;
        ensure!(cri.list(None).await?.is_empty());
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn removing_a_running_pod_stops_it_first() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("forced").userns().build()).await?;
        let pid = cri.pid(&id).await?;
        cri.remove(&id).await?;
        ensure!(!proc::alive(pid), "pid {pid} still runs");
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

// cri: PodSandboxMetadata.attempt
#[test]
fn a_name_is_taken_until_its_pod_is_removed() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let config = node.pod("one").userns().build();
        let id = cri.run(config.clone()).await?;
        refused(cri.run(config.clone()).await, Code::AlreadyExists, &["one", &id[..13]])?;
        // Another attempt of the same pod is another name.
        let second = cri.run(node.pod("one").userns().attempt(1).build()).await?;
        cri.remove(&id).await?;
        let again = cri.run(config).await?;
        ensure!(again != id && again != second);
        Ok(())
    });
}

// cri: ListPodSandbox, ListPodSandboxRequest.filter, ListPodSandboxResponse.items, PodSandboxFilter.id
// cri: PodSandboxFilter.state, PodSandboxFilter.label_selector, PodSandboxStateValue.state
#[test]
fn lists_take_filters_that_all_must_hold() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let a = cri.run(node.pod("a").userns().label("tier", "front").build()).await?;
        let b = cri.run(node.pod("b").userns().label("tier", "back").build()).await?;
        cri.stop(&b).await?;
        let ids = async |filter: PodSandboxFilter, wanted: &[&String]| -> Result<bool> {
            let mut ids: Vec<_> = cri.list(Some(filter)).await?.into_iter().map(|p| p.id).collect();
            ids.sort();
            Ok(ids.iter().eq(wanted.iter().copied()))
        };
        let state = |state: PodSandboxState| Some(PodSandboxStateValue { state: state.into() });
        let by = |id: &str, tier: &str, s| PodSandboxFilter {
            id: id.to_owned(),
            label_selector: (!tier.is_empty())
                .then(|| ("tier".to_owned(), tier.to_owned()))
                .into_iter()
                .collect(),
            state: s,
        };
        ensure!(ids(by(&a[..20], "", None), &[&a]).await?);
        ensure!(ids(by("", "back", None), &[&b]).await?);
        ensure!(ids(by("", "", state(PodSandboxState::SandboxReady)), &[&a]).await?);
        ensure!(ids(by("", "", state(PodSandboxState::SandboxNotready)), &[&b]).await?);
        ensure!(ids(by(&a[..20], "back", None), &[]).await?);
        let mut both = vec![a, b];
        both.sort();
        ensure!(ids(PodSandboxFilter::default(), &[&both[0], &both[1]]).await?);

        let request = StreamPodSandboxesRequest { filter: None };
        let mut stream = cri.runtime.clone().stream_pod_sandboxes(request).await?.into_inner();
        let mut streamed = Vec::new();
        while let Some(batch) = stream.message().await? {
            streamed.extend(batch.pod_sandboxes.into_iter().map(|p| p.id));
        }
        streamed.sort();
        ensure!(streamed == both);
        Ok(())
    });
}

// cri: PodSandboxStatusRequest.verbose, PodSandboxStatusResponse.info
#[test]
fn verbose_info_has_what_tools_read() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("info").userns().build()).await?;
        let info = cri.info(&id).await?;
        for key in ["pid", "namespaces", "netnsPath", "handler", "flow", "steps"] {
            ensure!(info.get(key).is_some(), "no {key} in {info}");
        }
        ensure!(info["flow"] == "runtime-first", "{info}");
        let path = info["netnsPath"].as_str().context("netnsPath is no string")?;
        ensure!(std::path::Path::new(path).exists(), "{path} is not there");
        Ok(())
    });
}

#[test]
fn version_status_and_config_say_what_kubelet_asks() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let version = cri.runtime.clone().version(VersionRequest::default()).await?.into_inner();
        ensure!(version.runtime_name == "sandboxd" && version.runtime_api_version == "v1", "{version:?}");
        ensure!(!version.version.is_empty() && !version.runtime_version.is_empty(), "{version:?}");

        let status = cri.runtime.clone().status(StatusRequest { verbose: true }).await?.into_inner();
        let conditions = status.status.context("no status")?.conditions;
        for kind in ["RuntimeReady", "NetworkReady"] {
            let found = conditions.iter().find(|c| c.r#type == kind).with_context(|| format!("no {kind}"))?;
            ensure!(found.status, "{found:?}");
        }
        for name in ["", "network-first"] {
            let handler = status.runtime_handlers.iter().find(|h| h.name == name);
            let features = handler.and_then(|h| h.features.as_ref()).context("no features")?;
            // Kubelet is to know of them only where its volumes on tmpfs can be idmapped.
            ensure!(features.user_namespaces == tmpfs_is_idmapped()?, "handler {name:?}: {features:?}");
        }
        ensure!(!status.info.is_empty(), "a verbose Status without info");

        let config = cri.runtime.clone().runtime_config(RuntimeConfigRequest {}).await?.into_inner();
        ensure!(config.linux.is_some(), "{config:?}");
        Ok(())
    });
}

/// Whether this kernel's tmpfs can be idmapped: upstream since Linux 6.3. Not probed, which is what the daemon does.
fn tmpfs_is_idmapped() -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor) >= (6, 3)),
        _ => anyhow::bail!("no version in {release:?}"),
    }
}

// cri: Status, RuntimeStatus.conditions, RuntimeCondition.type, RuntimeCondition.status
#[test]
fn the_network_is_ready_when_its_configuration_is_there() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let ready = async || -> Result<bool> {
            let status = cri.runtime.clone().status(StatusRequest::default()).await?.into_inner();
            let conditions = status.status.context("no status")?.conditions;
            Ok(conditions.iter().any(|c| c.r#type == "NetworkReady" && c.status))
        };
        ensure!(ready().await?);
        std::fs::remove_file(node.path("net.d/10-test.conflist"))?;
        crate::support::eventually("NetworkReady turns false", async || Ok(!ready().await?)).await?;
        let refusal = cri.run(node.pod("early").userns().build()).await;
        ensure!(refusal.is_err(), "a pod without a network");
        node.write_conflist(None)?;
        crate::support::eventually("NetworkReady turns true", async || ready().await).await?;
        cri.run(node.pod("late").userns().build()).await?;
        Ok(())
    });
}
