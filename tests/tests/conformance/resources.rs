//! Limits of a container, at its start and while it runs.

use anyhow::{Context, Result, ensure};
use sandboxd_api::cri::{HugepageLimit, LinuxContainerResources, UpdateContainerResourcesRequest};
use sandboxd_tests::leftovers::cgroup_dirs;
use tonic::Code;

use crate::support::{Stage, both, refused, userns};

/// A file of a container's cgroup, by its v1 or v2 name.
fn file(stage: &Stage<'_>, id: &str, names: &[&str]) -> Result<String> {
    let dirs = cgroup_dirs(&format!("{}/{id}", stage.node.scope.name));
    let files = dirs.iter().flat_map(|dir| names.iter().map(|name| dir.join(name)));
    let found = files.map(std::fs::read_to_string).find_map(Result::ok);
    Ok(found.with_context(|| format!("none of {names:?} in {dirs:?}"))?.trim().to_owned())
}

fn v2(stage: &Stage<'_>, id: &str) -> bool {
    file(stage, id, &["memory.max"]).is_ok()
}

// cri: LinuxContainerConfig.resources, LinuxContainerResources.cpu_period, LinuxContainerResources.cpu_quota
// cri: LinuxContainerResources.cpu_shares, LinuxContainerResources.memory_limit_in_bytes
// cri: LinuxContainerResources.oom_score_adj, LinuxContainerResources.cpuset_cpus
// cri: LinuxContainerResources.cpuset_mems
// cri: ContainerStatus.resources, ContainerResources.linux
#[test]
fn limits_are_set_and_shown() {
    both(async |stage| {
        let request = stage.container("limits").waits().with_resources(|r| {
            r.cpu_period = 50_000;
            r.cpu_quota = 25_000;
            r.cpu_shares = 512;
            r.memory_limit_in_bytes = 64 << 20;
            r.memory_swap_limit_in_bytes = 64 << 20;
            r.cpuset_cpus = "0".into();
            r.cpuset_mems = "0".into();
            r.oom_score_adj = 500;
        });
        let asked = request.0.linux.clone().and_then(|linux| linux.resources).unwrap_or_default();
        let id = stage.kube.run(&stage.pod, request).await?;
        ensure!(file(stage, &id, &["memory.limit_in_bytes", "memory.max"])? == (64u64 << 20).to_string());
        if v2(stage, &id) {
            ensure!(file(stage, &id, &["cpu.max"])? == "25000 50000");
        } else {
            ensure!(file(stage, &id, &["cpu.cfs_quota_us"])? == "25000");
            ensure!(file(stage, &id, &["cpu.cfs_period_us"])? == "50000");
            ensure!(file(stage, &id, &["cpu.shares"])? == "512");
        }
        ensure!(file(stage, &id, &["cpuset.cpus"])? == "0");
        ensure!(file(stage, &id, &["cpuset.mems"])? == "0");
        ensure!(stage.kube.asked(&id, &["cat", "/proc/1/oom_score_adj"]).await? == "500");
        let resources = stage.kube.status(&id).await?.resources.and_then(|r| r.linux).unwrap_or_default();
        ensure!(resources == asked, "{resources:?}");
        Ok(())
    });
}

// cri: UpdateContainerResources, UpdateContainerResourcesRequest.container_id
// cri: UpdateContainerResourcesRequest.linux
#[test]
fn an_update_is_all_or_an_error() {
    both(async |stage| {
        let request = stage.container("resized").waits().with_resources(|r| {
            r.memory_limit_in_bytes = 64 << 20;
            r.cpu_shares = 512;
        });
        let id = stage.kube.run(&stage.pod, request).await?;
        let update = async |linux: LinuxContainerResources| {
            let request = UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(linux),
                ..Default::default()
            };
            stage.kube.runtime.clone().update_container_resources(request).await.map(drop)
        };
        update(LinuxContainerResources {
            memory_limit_in_bytes: 96 << 20,
            cpu_quota: 30_000,
            cpu_period: 100_000,
            ..Default::default()
        })
        .await?;
        let limit = || file(stage, &id, &["memory.limit_in_bytes", "memory.max"]);
        ensure!(limit()? == (96u64 << 20).to_string(), "{}", limit()?);
        // Nothing was said of swap: what does not swap at all may have no file for it.
        let both =
            [("memory.memsw.limit_in_bytes", (96u64 << 20).to_string()), ("memory.swap.max", "0".into())];
        for (name, expected) in both {
            if let Ok(text) = file(stage, &id, &[name]) {
                ensure!(text == expected, "{name}: {text}");
            }
        }
        let resources = stage.kube.status(&id).await?.resources.and_then(|r| r.linux).unwrap_or_default();
        ensure!(
            resources.memory_limit_in_bytes == 96 << 20 && resources.cpu_quota == 30_000,
            "{resources:?}"
        );
        // What was not named stays.
        ensure!(resources.cpu_shares == 512, "{resources:?}");
        // kubelet sends a new one with every resize of a burstable pod's memory.
        update(LinuxContainerResources { oom_score_adj: 500, ..Default::default() }).await?;
        let score = ["cat", "/proc/1/oom_score_adj", "/proc/self/oom_score_adj"];
        ensure!(stage.kube.asked(&id, &score).await? == "500\n500", "not told to the container's processes");
        let resources = stage.kube.status(&id).await?.resources.and_then(|r| r.linux).unwrap_or_default();
        ensure!(resources.oom_score_adj == 500, "{resources:?}");
        let bad = LinuxContainerResources {
            memory_limit_in_bytes: 128 << 20,
            oom_score_adj: 700,
            cpuset_cpus: "4000".into(),
            ..Default::default()
        };
        ensure!(update(bad).await.is_err(), "a processor that is not there was taken");
        ensure!(limit()? == (96u64 << 20).to_string(), "half of a failed update stayed: {}", limit()?);
        ensure!(stage.kube.asked(&id, &score).await? == "500\n500", "half of a failed update stayed");
        refused(
            stage
                .kube
                .runtime
                .clone()
                .update_container_resources(UpdateContainerResourcesRequest {
                    container_id: "nosuch".into(),
                    ..Default::default()
                })
                .await,
            Code::NotFound,
            &["nosuch"],
        )
    });
}

// cri: ContainerStatus.reason
#[test]
fn a_container_that_runs_out_of_memory_says_so() {
    both(async |stage| {
        let request = stage.container("oom").with_resources(|r| {
            r.memory_limit_in_bytes = 24 << 20;
            r.memory_swap_limit_in_bytes = 24 << 20;
        });
        // tail keeps what it reads, and there is no end to it.
        let id = stage.kube.run(&stage.pod, request.command(&["/bin/tail", "/dev/zero"])).await?;
        let status = stage.kube.ended(&id).await?;
        ensure!(status.reason == "OOMKilled" && status.exit_code == 137, "{status:?}");
        Ok(())
    });
}

// cri: HugepageLimit.page_size
#[test]
fn what_the_machine_does_not_have_is_refused_by_name() {
    userns(async |stage| {
        let request = stage.container("huge").waits().with_resources(|r| {
            r.hugepage_limits.push(HugepageLimit { page_size: "3MB".into(), limit: 3 << 20 });
        });
        let refusal = stage.kube.create(&stage.pod, request).await;
        ensure!(refusal.is_err_and(|status| status.message().contains("3MB")));
        let request = stage.container("unified").waits().with_resources(|r| {
            r.unified.insert("no.such".into(), "1".into());
        });
        let refusal = stage.kube.create(&stage.pod, request).await;
        ensure!(refusal.is_err_and(|status| status.message().contains("no.such")));
        Ok(())
    });
}

#[test]
fn bad_numbers_are_refused_by_name() {
    userns(async |stage| {
        for (field, resources) in [
            ("cpu_shares", LinuxContainerResources { cpu_shares: -1, ..Default::default() }),
            (
                "memory_limit_in_bytes",
                LinuxContainerResources { memory_limit_in_bytes: -5, ..Default::default() },
            ),
            ("oom_score_adj", LinuxContainerResources { oom_score_adj: 2000, ..Default::default() }),
            ("cpuset_cpus", LinuxContainerResources { cpuset_cpus: "a-b".into(), ..Default::default() }),
        ] {
            let request = stage.container("bad").waits().with_resources(|r| *r = resources);
            refused(stage.kube.create(&stage.pod, request).await, Code::InvalidArgument, &[field])?;
        }
        Ok(())
    });
}

#[test]
fn what_is_not_of_linux_is_refused_by_name() {
    userns(async |stage| {
        let id = stage.kube.run(&stage.pod, stage.container("linux").waits()).await?;
        let request = UpdateContainerResourcesRequest {
            container_id: id,
            windows: Some(Default::default()),
            ..Default::default()
        };
        let answer = stage.kube.runtime.clone().update_container_resources(request).await;
        refused(answer, Code::InvalidArgument, &["windows"])
    });
}
