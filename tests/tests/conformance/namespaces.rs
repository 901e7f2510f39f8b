//! Which namespaces a container shares with whom.

use std::path::Path;

use anyhow::{Result, ensure};
use sandboxd_api::cri::NamespaceMode;
use tonic::Code;

use crate::support::{Stage, both, refused, userns};

async fn ns(stage: &Stage<'_>, id: &str, kind: &str) -> Result<String> {
    stage.kube.asked(id, &["readlink", &format!("/proc/self/ns/{kind}")]).await
}

// cri: NamespaceOption.network, NamespaceOption.pid, NamespaceOption.ipc
// cri: LinuxContainerSecurityContext.namespace_options, NamespaceOption.userns_options, UserNamespace.mode
// cri: UserNamespace.uids, UserNamespace.gids
#[test]
fn containers_of_a_pod_share_what_the_pod_has() {
    both(async |stage| {
        let a = stage.kube.run(&stage.pod, stage.container("a").waits()).await?;
        let b = stage.kube.run(&stage.pod, stage.container("b").waits()).await?;
        let infra = stage.kube.cri.pid(&stage.pod.id).await?;
        for kind in ["user", "net", "ipc", "uts"] {
            let of_pod = std::fs::read_link(format!("/proc/{infra}/ns/{kind}"))?;
            for id in [&a, &b] {
                ensure!(of_pod == Path::new(&ns(stage, id, kind).await?), "{kind} is not the pod's");
            }
        }
        for kind in ["mnt", "pid", "cgroup"] {
            ensure!(ns(stage, &a, kind).await? != ns(stage, &b, kind).await?, "{kind} is shared");
        }
        let maps = stage.kube.asked(&a, &["cat", "/proc/self/uid_map"]).await?;
        let wanted = if stage.userns {
            format!("0 {} {}", sandboxd_tests::pod::USERNS_BASE, sandboxd_tests::pod::USERNS_LENGTH)
        } else {
            "0 0 4294967295".to_owned()
        };
        ensure!(maps.split_whitespace().eq(wanted.split_whitespace()), "{maps}");
        Ok(())
    });
}

#[test]
fn pid_namespaces_of_the_pod_of_the_node_and_of_another_container() {
    both(async |stage| {
        let kind = |pod: sandboxd_tests::pod::Pod| if stage.userns { pod.userns() } else { pod };
        let pod = stage.kube.pod(kind(stage.node.pod("pidpod")).pid(NamespaceMode::Pod)).await?;
        let a = stage.kube.run(&pod, stage.container("a").waits()).await?;
        let b = stage.kube.run(&pod, stage.container("b").waits()).await?;
        ensure!(ns(stage, &a, "pid").await? == ns(stage, &b, "pid").await?, "POD: not shared");
        ensure!(
            stage.kube.asked(&a, &["sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline"]).await?.contains("pause")
        );

        let target = stage.kube.run(&stage.pod, stage.container("target").waits()).await?;
        let into = target.clone();
        let request = stage.container("debug").waits().with_security(|security| {
            let options = security.namespace_options.get_or_insert_default();
            options.pid = NamespaceMode::Target.into();
            options.target_id = into;
        });
        let debug = stage.kube.run(&stage.pod, request).await?;
        ensure!(ns(stage, &debug, "pid").await? == ns(stage, &target, "pid").await?, "TARGET: not shared");
        if !stage.userns {
            let node = stage.kube.pod(stage.node.pod("pidnode").pid(NamespaceMode::Node)).await?;
            let id = stage.kube.run(&node, stage.container("host").waits()).await?;
            let host = std::fs::read_link("/proc/self/ns/pid")?;
            ensure!(host == Path::new(&ns(stage, &id, "pid").await?), "NODE: not the host's");
        }
        Ok(())
    });
}

// cri: NamespaceOption.target_id
#[test]
fn a_target_must_be_a_running_container_of_the_pod() {
    userns(async |stage| {
        for (target, code) in [("", Code::InvalidArgument), ("nosuchcontainer", Code::NotFound)] {
            let request = stage.container("debug").waits().with_security(|security| {
                let options = security.namespace_options.get_or_insert_default();
                options.pid = NamespaceMode::Target.into();
                options.target_id = target.into();
            });
            refused(stage.kube.create(&stage.pod, request).await, code, &["target"])?;
        }
        Ok(())
    });
}
