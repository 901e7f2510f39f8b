//! What the rpcs on pods say of them.

use anyhow::{Context, Result, ensure};
use sandboxd_api::cri::{
    LinuxContainerResources, PodSandbox, PodSandboxFilter, PodSandboxState, PodSandboxStateValue,
    StreamPodSandboxesRequest, UpdatePodSandboxResourcesRequest,
};
use sandboxd_tests::cri::Cri;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::leftovers::cgroup_dirs;
use sandboxd_tests::node::Node;

/// What both rpcs list, which is the same.
async fn listed(cri: &Cri, filter: PodSandboxFilter) -> Result<Vec<PodSandbox>> {
    let listed = cri.list(Some(filter.clone())).await?;
    let request = StreamPodSandboxesRequest { filter: Some(filter) };
    let mut stream = cri.runtime.clone().stream_pod_sandboxes(request).await?.into_inner();
    let mut streamed = Vec::new();
    while let Some(batch) = stream.message().await? {
        ensure!(!batch.pod_sandboxes.is_empty(), "an empty message");
        streamed.extend(batch.pod_sandboxes);
    }
    ensure!(listed == streamed, "{listed:?} and {streamed:?}");
    Ok(listed)
}

// cri: PodSandbox.id, PodSandbox.metadata, PodSandbox.state, PodSandbox.created_at, PodSandbox.labels
// cri: PodSandbox.annotations, PodSandbox.runtime_handler, PodSandboxStatus.id, PodSandboxStatus.created_at
// cri: PodSandboxMetadata.attempt
#[test]
fn a_list_has_what_the_status_has() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let config = node.pod("listed").attempt(3).label("app", "x").annotation("note", "\u{fc}\n").build();
        let id = cri.run_with(config.clone(), "network-first").await?;
        for state in [PodSandboxState::SandboxReady, PodSandboxState::SandboxNotready] {
            let all = listed(&cri, PodSandboxFilter::default()).await?;
            let [one] = &all[..] else { anyhow::bail!("{all:?}") };
            ensure!(one.id == id && one.state() == state, "{one:?}");
            ensure!(one.metadata == config.metadata, "{one:?}");
            ensure!(one.metadata.as_ref().is_some_and(|m| m.attempt == 3), "{one:?}");
            ensure!(one.labels == config.labels && one.annotations == config.annotations, "{one:?}");
            ensure!(one.runtime_handler == "network-first", "{one:?}");
            let status = cri.status(&id).await?.status.context("no status")?;
            ensure!(status.id == id && status.state() == state, "{status:?}");
            ensure!(status.created_at == one.created_at && status.metadata == one.metadata, "{status:?}");
            ensure!(one.created_at > 1_600_000_000_000_000_000, "{one:?}");
            cri.stop(&id).await?;
        }
        Ok(())
    });
}

// cri: StreamPodSandboxesRequest.filter, StreamPodSandboxes, StreamPodSandboxesResponse.pod_sandboxes
// cri: PodSandboxFilter.id, PodSandboxFilter.state, PodSandboxFilter.label_selector, PodSandboxStateValue.state
#[test]
fn a_stream_takes_the_lists_filters() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let a = cri.run(node.pod("a").label("app", "x").label("tier", "1").build()).await?;
        let b = cri.run(node.pod("b").label("app", "x").label("tier", "2").build()).await?;
        cri.stop(&b).await?;
        let ids = async |id: &str, labels: &[(&str, &str)], state: Option<PodSandboxState>| {
            let filter = PodSandboxFilter {
                id: id.to_owned(),
                state: state.map(|state| PodSandboxStateValue { state: state.into() }),
                label_selector: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            };
            let mut ids: Vec<_> = listed(&cri, filter).await?.into_iter().map(|pod| pod.id).collect();
            ids.sort();
            anyhow::Ok(ids)
        };
        let mut both = vec![a.clone(), b.clone()];
        both.sort();
        let (ready, ended) = (PodSandboxState::SandboxReady, PodSandboxState::SandboxNotready);
        ensure!(ids("", &[], None).await? == both);
        ensure!(ids("", &[("app", "x")], None).await? == both);
        ensure!(ids("", &[("app", "x"), ("tier", "2")], None).await? == std::slice::from_ref(&b));
        ensure!(ids("", &[("app", "x")], Some(ready)).await? == std::slice::from_ref(&a));
        ensure!(ids("", &[], Some(ended)).await? == std::slice::from_ref(&b));
        ensure!(ids(&a[..13], &[], None).await? == std::slice::from_ref(&a), "a prefix");
        ensure!(ids(&a, &[("tier", "2")], None).await?.is_empty(), "all must hold");
        ensure!(ids("nosuch", &[], None).await?.is_empty());
        Ok(())
    });
}

/// The limit of memory of a pod's cgroup.
fn limit(node: &Node, id: &str) -> Result<String> {
    let dirs = cgroup_dirs(&format!("{}/{id}", node.scope.name));
    let files = dirs.iter().flat_map(|d| ["memory.limit_in_bytes", "memory.max"].map(|name| d.join(name)));
    let found = files.map(std::fs::read_to_string).find_map(Result::ok);
    Ok(found.with_context(|| format!("no limit in {dirs:?}"))?.trim().to_owned())
}

// cri: UpdatePodSandboxResources, UpdatePodSandboxResourcesRequest.pod_sandbox_id
// cri: UpdatePodSandboxResourcesRequest.resources, UpdatePodSandboxResourcesRequest.overhead
#[test]
fn an_update_adds_the_overhead() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let memory = |bytes| LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() };
        let id =
            cri.run(node.pod("sized").with_linux(|l| l.resources = Some(memory(64 << 20))).build()).await?;
        let other =
            cri.run(node.pod("other").with_linux(|l| l.resources = Some(memory(64 << 20))).build()).await?;
        ensure!(limit(node, &id)? == (64u64 << 20).to_string());
        let request = UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.clone(),
            resources: Some(memory(96 << 20)),
            overhead: Some(memory(16 << 20)),
        };
        cri.runtime.clone().update_pod_sandbox_resources(request).await?;
        ensure!(limit(node, &id)? == (112u64 << 20).to_string(), "{}", limit(node, &id)?);
        ensure!(limit(node, &other)? == (64u64 << 20).to_string(), "of another pod");
        Ok(())
    });
}
