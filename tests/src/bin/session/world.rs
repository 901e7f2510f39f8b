//! What is on the node: the pods of a small cluster's worker, one of each fate.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandboxd_api::cri::security_profile::ProfileType;
use sandboxd_api::cri::{Capability, NamespaceMode, SecurityProfile};
use sandboxd_tests::image::busybox_named;
use sandboxd_tests::node::Node;
use sandboxd_tests::ns;
use sandboxd_tests::pod::{Pod, USERNS_BASE, USERNS_LENGTH};
use sandboxd_tests::workload::{Kube, Request, Sandbox};

const WEB: &str = "registry.example/shop/web:2.4.1";
const PROXY: &str = "registry.example/mesh/proxy:1.30";
const DATABASE: &str = "registry.example/shop/orders-db:16";
const RUNNER: &str = "registry.example/ci/runner:7";
const EXPORTER: &str = "registry.example/monitoring/node-exporter:1.8";

/// Requests as a web server logs them, and now and then a warning.
const SERVE: &str = "mount -t tmpfs none /tmp 2>/dev/null; chown 1000:1000 /data/file; echo listening on :8080; n=0; \
    while :; do n=$((n+1)); echo \"GET /cart/$n 200 $((n % 7 + 3))ms\"; \
    [ $((n % 9)) = 0 ] && echo \"warn: upstream orders-db answered in $((n * 31))ms\" >&2; sleep 0.4; done";
/// Fills its memory until the kernel ends it.
const GROW: &str = "echo replaying the log; x=0123456789abcdef; while :; do x=$x$x; done";
/// Each is denied for a reason of its own.
const BUILD: &str = "echo step 1/4: rootfs; mount -t ext4 /dev/null /tmp; \
    echo step 2/4: sysfs; unshare -U -r -m mount -t sysfs s /tmp; \
    echo step 3/4: proc; unshare -U -r -m mount -t proc p /tmp; \
    echo step 4/4: network; exec 9</proc/self/ns/net; unshare -U -r nsenter --net=/proc/self/fd/9 true; \
    echo no step could be done; while :; do sleep 1; done";
const REPORT: &str = "echo 1,204 orders; echo report written; exit 0";

/// What was made and is no pod of the daemon's.
pub struct World {
    /// The id of a pod that nobody knows, whose pin a crash left.
    lost_pod: String,
    leak: PathBuf,
    pub leaked: u64,
}

impl World {
    pub fn end_leak(&self) -> Result<()> {
        let ended = Command::new("umount").arg(&self.leak).status().context("running umount")?;
        ensure!(ended.success(), "unmounting {}", self.leak.display());
        let dir = self.leak.ancestors().find(|dir| dir.ends_with(&self.lost_pod));
        std::fs::remove_dir_all(dir.context("a pin outside its pod's directory")?)?;
        Ok(())
    }
}

/// A pod as a namespace of a cluster has it, with ids of its own where `ids` says which.
fn pod(node: &Node, namespace: &str, name: &str, ids: Option<u32>) -> Pod {
    let mut pod = node.pod(name).label("app", name.split('-').next().unwrap_or(name));
    pod = pod.with(|config| {
        let metadata = config.metadata.get_or_insert_default();
        namespace.clone_into(&mut metadata.namespace);
        metadata.uid = format!("5d0c7a1e-6b52-4c9f-9a37-{:012x}", sum(name));
    });
    match ids {
        Some(nth) => pod.userns_at(USERNS_BASE + nth * USERNS_LENGTH, USERNS_LENGTH),
        None => pod,
    }
}

fn sum(name: &str) -> u64 {
    name.bytes().fold(7, |sum, byte| (sum * 31 + u64::from(byte)) & 0xffff_ffff_ffff)
}

fn limited(request: Request, bytes: i64) -> Request {
    request.with_resources(|resources| resources.memory_limit_in_bytes = bytes)
}

/// A container that may mount in its own user namespace, and that no seccomp filter is before the kernel.
fn privileged_in_its_userns(request: Request) -> Request {
    request.with_security(|security| {
        let add_capabilities = vec!["SYS_ADMIN".to_owned()];
        security.capabilities = Some(Capability { add_capabilities, ..Capability::default() });
        security.seccomp = Some(SecurityProfile {
            profile_type: ProfileType::Unconfined.into(),
            ..SecurityProfile::default()
        });
    })
}

pub async fn make(node: &Node) -> Result<World> {
    for name in [WEB, PROXY, DATABASE, RUNNER, EXPORTER] {
        let archive = node.path("image.tar");
        busybox_named(name)?.write(&archive)?;
        node.import(&archive)?;
        std::fs::remove_file(&archive)?;
    }
    let kube = Kube::connect(node).await?;
    let exporter =
        pod(node, "monitoring", "node-exporter-9d8kp", None).network(NamespaceMode::Node).hostname("");
    let exporter = kube.pod(exporter).await?;
    kube.run(&exporter, Request::new("exporter", EXPORTER).waits()).await?;

    let web = kube.pod(pod(node, "shop", "web-5b9c4f7d8-kx4tz", Some(0))).await?;
    kube.run(&web, limited(Request::new("web", WEB).sh(SERVE), 64 << 20)).await?;
    kube.run(&web, Request::new("proxy", PROXY).waits()).await?;

    // The order of containerd issue 6908.
    let old = pod(node, "legacy", "old-order", Some(1));
    ensure!(kube.pod_with(old, "network-first").await.is_err(), "the old order worked");

    let orders = kube.pod(pod(node, "shop", "orders-db-0", Some(2))).await?;
    run_out_of_memory(&kube, &orders).await?;
    kube.run(&orders, again(limited(Request::new("postgres", DATABASE).waits(), 32 << 20))).await?;

    let builder = kube.pod(pod(node, "ci", "builder-29384-fz6mh", Some(3))).await?;
    kube.run(&builder, privileged_in_its_userns(Request::new("runner", RUNNER).sh(BUILD))).await?;

    let report = kube.pod(pod(node, "batch", "report-29384-7sdkq", Some(4))).await?;
    let id = kube.run(&report, Request::new("report", WEB).sh(REPORT)).await?;
    kube.ended(&id).await?;
    kube.cri.stop(&report.id).await?;

    let world = leak(node)?;
    // The builder's steps, and a second in which counters are told.
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(world)
}

async fn run_out_of_memory(kube: &Kube, pod: &Sandbox) -> Result<()> {
    let id = kube.run(pod, limited(Request::new("postgres", DATABASE).sh(GROW), 16 << 20)).await?;
    let status = kube.ended(&id).await?;
    ensure!(status.reason == "OOMKilled", "ended with {} ({})", status.exit_code, status.reason);
    Ok(())
}

/// The second attempt of a container.
fn again(request: Request) -> Request {
    request.with(|config| {
        config.metadata.get_or_insert_default().attempt = 1;
        config.log_path = config.log_path.replace("_0.log", "_1.log");
    })
}

/// What a crash at the wrong moment leaves: the pin of a pod that nobody knows.
fn leak(node: &Node) -> Result<World> {
    let lost_pod = "0f1e2d3c4b5a6978".repeat(4);
    let dir = node.path("run/pods").join(&lost_pod).join("ns");
    std::fs::create_dir_all(&dir)?;
    let leak = dir.join("net");
    std::fs::write(&leak, "")?;
    let made = Command::new("unshare").arg(format!("--net={}", leak.display())).arg("true").status()?;
    ensure!(made.success(), "making a pin");
    let leaked = ns::inode(ns::open_path(&leak)?.as_fd())?;
    Ok(World { lost_pod, leak, leaked })
}
