//! The life of a container: create, start, stop, remove, status, list.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sandboxd_api::cri::{
    ContainerFilter, ContainerState, ContainerStateValue, ImageSpec, ImageStatusRequest, NamespaceMode,
    PodSandboxStatusRequest, StreamContainersRequest,
};
use tokio_stream::StreamExt;
use tonic::Code;

use crate::support::{IMAGE, both, refused, userns};

// cri: CreateContainer, CreateContainerRequest.pod_sandbox_id, CreateContainerRequest.config
// cri: CreateContainerResponse.container_id, StartContainer
// cri: StartContainerRequest.container_id, ContainerStatus, ContainerStatusRequest.container_id
// cri: ContainerStatusResponse.status, ContainerStatus.id, ContainerStatus.metadata, ContainerStatus.state
// cri: ContainerStatus.created_at, ContainerStatus.started_at, ContainerStatus.finished_at
// cri: ContainerStatus.exit_code, ContainerStatus.reason, ContainerMetadata.name, ContainerMetadata.attempt
// cri: ContainerConfig.metadata
#[test]
fn created_running_exited() {
    both(async |stage| {
        let kube = &stage.kube;
        let request = stage.container("life").with(|c| c.metadata.get_or_insert_default().attempt = 3);
        let id = kube.create(&stage.pod, request.sh("exit 7")).await?;
        let status = kube.status(&id).await?;
        ensure!(status.id == id && status.state() == ContainerState::ContainerCreated, "{status:?}");
        ensure!(status.created_at > 0 && status.started_at == 0 && status.finished_at == 0, "{status:?}");
        let metadata = status.metadata.clone().unwrap_or_default();
        ensure!(metadata.name == "life" && metadata.attempt == 3, "{metadata:?}");
        kube.start(&id).await?;
        let status = kube.ended(&id).await?;
        ensure!(status.exit_code == 7 && status.reason == "Error", "{status:?}");
        ensure!(
            status.created_at <= status.started_at && status.started_at <= status.finished_at,
            "{status:?}"
        );
        refused(kube.start(&id).await, Code::FailedPrecondition, &[])?;
        let id = kube.run(&stage.pod, stage.container("fine").sh("exit 0")).await?;
        let status = kube.ended(&id).await?;
        ensure!(status.exit_code == 0 && status.reason == "Completed", "{status:?}");
        let id = kube.run(&stage.pod, stage.container("killed").sh("kill -9 $$")).await?;
        // PID 1 of a pid namespace cannot kill itself: it goes on to the end of the script.
        kube.ended(&id).await?;
        // kubelet takes the first of a name for the one that counts.
        let again = stage.container("life").with(|c| c.metadata.get_or_insert_default().attempt = 4);
        let newest = kube.create(&stage.pod, again).await?;
        let statuses = kube.cri.status(&stage.pod.id).await?.containers_statuses;
        ensure!(statuses.len() == 4 && statuses[0].id == newest && statuses[1].id == id, "{statuses:?}");
        Ok(())
    });
}

// cri: ContainerConfig.labels, ContainerConfig.annotations, ContainerStatus.labels, ContainerStatus.annotations
// cri: ContainerStatus.image, ContainerStatus.image_ref, ContainerStatus.image_id, ContainerStatus.log_path
// cri: ImageSpec.user_specified_image, ContainerConfig.log_path, Container.labels, Container.annotations
// cri: Container.image, Container.image_ref, Container.image_id, Container.metadata, Container.created_at
// cri: Container.id, Container.pod_sandbox_id, Container.state, ListContainers, ListContainersResponse.containers
#[test]
fn what_was_given_comes_back() {
    userns(async |stage| {
        let kube = &stage.kube;
        let text = "ünï\u{1f680} \"quoted\" {json: [1]}";
        let request = stage.container("given").waits().with(|c| {
            c.labels.insert("label/x".into(), "v".into());
            c.annotations.insert("note".into(), text.into());
        });
        let id = kube.run(&stage.pod, request).await?;
        let status = kube.status(&id).await?;
        ensure!(status.labels.get("label/x").is_some_and(|v| v == "v"), "{:?}", status.labels);
        ensure!(status.annotations.get("note").is_some_and(|v| v == text), "{:?}", status.annotations);
        let image = status.image.clone().unwrap_or_default();
        ensure!(image.user_specified_image == IMAGE && image.image == IMAGE, "{image:?}");
        ensure!(status.image_id.starts_with("sha256:"), "{status:?}");
        // Kubelet publishes it as imageID.
        let spec = ImageSpec { image: IMAGE.to_owned(), ..ImageSpec::default() };
        let request = ImageStatusRequest { image: Some(spec), verbose: false };
        let known =
            kube.images.clone().image_status(request).await?.into_inner().image.context("no image")?;
        ensure!(known.repo_digests.first() == Some(&status.image_ref), "{status:?}, {known:?}");
        ensure!(status.log_path == format!("{}/given_0.log", stage.pod.config.log_directory), "{status:?}");
        let listed = kube.list(None).await?;
        let one = listed.iter().find(|c| c.id == id).context("not in the list")?;
        ensure!(
            one.pod_sandbox_id == stage.pod.id && one.state() == ContainerState::ContainerRunning,
            "{one:?}"
        );
        ensure!(one.labels == status.labels && one.annotations == status.annotations, "{one:?}");
        // Kubelet's collection of images spares those whose ids it finds here.
        ensure!(one.image_ref == one.image_id && one.image_id == status.image_id, "{one:?}");
        ensure!(one.metadata == status.metadata && one.created_at == status.created_at, "{one:?}");
        ensure!(one.image.clone().unwrap_or_default().user_specified_image == IMAGE, "{one:?}");
        Ok(())
    });
}

// cri: ListContainersRequest.filter, ContainerFilter.id, ContainerFilter.state, ContainerFilter.pod_sandbox_id
// cri: ContainerFilter.label_selector, ContainerStateValue.state, StreamContainers, StreamContainersRequest.filter
// cri: StreamContainersResponse.containers
#[test]
fn filters_and() {
    userns(async |stage| {
        let kube = &stage.kube;
        let labelled = |name: &str, value: &str| {
            let value = value.to_owned();
            stage.container(name).waits().with(move |c| {
                c.labels.insert("app".into(), value);
            })
        };
        let a = kube.run(&stage.pod, labelled("a", "x")).await?;
        let b = kube.create(&stage.pod, labelled("b", "x")).await?;
        let c = kube.run(&stage.pod, labelled("c", "y")).await?;
        let ids = async |filter: ContainerFilter| -> anyhow::Result<Vec<String>> {
            let mut ids: Vec<_> = kube.list(Some(filter.clone())).await?.into_iter().map(|c| c.id).collect();
            let request = StreamContainersRequest { filter: Some(filter) };
            let mut stream = kube.runtime.clone().stream_containers(request).await?.into_inner();
            let mut streamed = Vec::new();
            while let Some(batch) = stream.next().await {
                let batch = batch?.containers;
                ensure!(!batch.is_empty(), "an empty batch");
                streamed.extend(batch.into_iter().map(|c| c.id));
            }
            ids.sort();
            streamed.sort();
            ensure!(ids == streamed, "list and stream differ: {ids:?} {streamed:?}");
            Ok(ids)
        };
        let sorted = |mut ids: Vec<String>| {
            ids.sort();
            ids
        };
        let label = |v: &str| [("app".to_owned(), v.to_owned())].into();
        let running = Some(ContainerStateValue { state: ContainerState::ContainerRunning.into() });
        let all = ContainerFilter::default();
        ensure!(ids(all.clone()).await? == sorted(vec![a.clone(), b.clone(), c.clone()]));
        ensure!(ids(ContainerFilter { id: a[..12].into(), ..all.clone() }).await? == [a.clone()], "a prefix");
        ensure!(
            ids(ContainerFilter { label_selector: label("x"), ..all.clone() }).await?
                == sorted(vec![a.clone(), b.clone()])
        );
        let and = ContainerFilter { label_selector: label("x"), state: running, ..all.clone() };
        ensure!(ids(and).await? == [a.clone()]);
        ensure!(
            ids(ContainerFilter { pod_sandbox_id: stage.pod.id.clone(), state: running, ..all.clone() })
                .await?
                == sorted(vec![a, c])
        );
        ensure!(ids(ContainerFilter { pod_sandbox_id: "none".into(), ..all }).await?.is_empty());
        Ok(())
    });
}

// cri: StopContainer, StopContainerRequest.container_id, StopContainerRequest.timeout
#[test]
fn stop_gives_a_grace_period_and_is_idempotent() {
    both(async |stage| {
        let kube = &stage.kube;
        let polite = kube
            .run(&stage.pod, stage.container("polite").sh("trap 'exit 3' USR2; while :; do sleep 0.05; done"))
            .await?;
        kube.exec(&polite, &["true"]).await?;
        let begin = Instant::now();
        kube.stop(&polite, 20).await?;
        ensure!(begin.elapsed() < Duration::from_secs(10), "took {:?}", begin.elapsed());
        ensure!(kube.status(&polite).await?.exit_code == 3);
        kube.stop(&polite, 20).await?;
        let deaf = kube
            .run(&stage.pod, stage.container("deaf").sh("trap '' USR2; while :; do sleep 0.05; done"))
            .await?;
        kube.exec(&deaf, &["true"]).await?;
        let begin = Instant::now();
        kube.stop(&deaf, 1).await?;
        ensure!(begin.elapsed() >= Duration::from_millis(900), "no grace: {:?}", begin.elapsed());
        let status = kube.status(&deaf).await?;
        ensure!(status.state() == ContainerState::ContainerExited && status.exit_code == 137, "{status:?}");
        kube.stop("0123456789abcdef", 0).await?;
        let created = kube.create(&stage.pod, stage.container("created").waits()).await?;
        kube.stop(&created, 5).await?;
        ensure!(kube.status(&created).await?.state() == ContainerState::ContainerExited);
        Ok(())
    });
}

// cri: ContainerConfig.stop_signal, ContainerStatus.stop_signal
#[test]
fn the_stop_signal_is_the_requests_else_the_images() {
    userns(async |stage| {
        use sandboxd_api::cri::Signal;
        let kube = &stage.kube;
        let script =
            "trap 'exit 10' USR1; trap 'exit 12' USR2; trap 'exit 15' TERM; while :; do sleep 0.05; done";
        // The image's is SIGUSR2.
        for (name, signal, code) in [("image", Signal::RuntimeDefault, 12), ("own", Signal::Sigusr1, 10)] {
            let request = stage.container(name).sh(script).with(|c| c.stop_signal = signal.into());
            let id = kube.run(&stage.pod, request).await?;
            kube.exec(&id, &["true"]).await?;
            let said = kube.status(&id).await?.stop_signal();
            let wanted = if name == "image" { Signal::Sigusr2 } else { Signal::Sigusr1 };
            ensure!(said == wanted, "{name}: the status says {said:?}");
            kube.stop(&id, 20).await?;
            let status = kube.status(&id).await?;
            ensure!(status.exit_code == code, "{name}: {status:?}");
        }
        Ok(())
    });
}

// cri: RemoveContainer, RemoveContainerRequest.container_id
#[test]
fn remove_forces_and_is_idempotent() {
    both(async |stage| {
        let kube = &stage.kube;
        let id = kube.run(&stage.pod, stage.container("gone").waits()).await?;
        kube.remove(&id).await?;
        refused(kube.status(&id).await, Code::NotFound, &[&id[..12]])?;
        ensure!(kube.list(None).await?.is_empty());
        kube.remove(&id).await?;
        // The name is free again.
        let again = kube.run(&stage.pod, stage.container("gone").waits()).await?;
        refused(
            kube.create(&stage.pod, stage.container("gone").waits()).await.map(drop),
            Code::AlreadyExists,
            &["gone"],
        )?;
        kube.remove(&again).await?;
        refused(kube.start(&again).await, Code::NotFound, &[])
    });
}

// cri: PodSandboxStatusResponse.containers_statuses, PodSandboxStatusResponse.timestamp
#[test]
fn the_pods_end_is_its_containers() {
    both(async |stage| {
        let kube = &stage.kube;
        let id = kube.run(&stage.pod, stage.container("inside").waits()).await?;
        let request = PodSandboxStatusRequest { pod_sandbox_id: stage.pod.id.clone(), verbose: false };
        let status = kube.runtime.clone().pod_sandbox_status(request).await?.into_inner();
        ensure!(status.timestamp > 0 && status.containers_statuses.iter().any(|c| c.id == id), "{status:?}");
        kube.cri.stop(&stage.pod.id).await?;
        let ended = kube.status(&id).await?;
        ensure!(ended.state() == ContainerState::ContainerExited, "{ended:?}");
        let refusal = kube.create(&stage.pod, stage.container("late").waits()).await;
        refused(refusal, Code::FailedPrecondition, &[&stage.pod.id[..12]])?;
        kube.cri.remove(&stage.pod.id).await?;
        refused(kube.status(&id).await, Code::NotFound, &[])
    });
}

// cri: ContainerStatusRequest.verbose, ContainerStatusResponse.info
#[test]
fn the_verbose_status_has_pid_and_spec() {
    userns(async |stage| {
        let id = stage.kube.run(&stage.pod, stage.container("verbose").waits()).await?;
        ensure!(stage.kube.verbose(&id, false).await?.info.is_empty());
        let info = stage.kube.verbose(&id, true).await?.info;
        let info: serde_json::Value = serde_json::from_str(info.get("info").context("no info")?)?;
        ensure!(info["pid"].as_i64().is_some_and(|pid| pid > 0), "{info}");
        ensure!(info["sandboxID"] == stage.pod.id.as_str(), "{info}");
        ensure!(info["runtimeSpec"]["process"]["args"][0] == "/bin/sh", "{info}");
        Ok(())
    });
}

#[test]
fn a_container_in_a_shared_pid_namespace_takes_its_processes_with_it() {
    userns(async |stage| {
        let kube = &stage.kube;
        let pod = kube.pod(stage.node.pod("shared").userns().pid(NamespaceMode::Pod)).await?;
        let id = kube.run(&pod, stage.container("leaves").sh("sleep 4321 & exit 0")).await?;
        kube.ended(&id).await?;
        let left = |_: ()| sandboxd_tests::proc::all().into_iter().any(|p| p.command.contains("sleep 4321"));
        let end = Instant::now() + Duration::from_secs(5);
        while left(()) {
            ensure!(Instant::now() < end, "its child runs on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    });
}
