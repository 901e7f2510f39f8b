//! The three acts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sandboxd_api::console::{Explanation, GetTimelineRequest, Timeline, observer};
use sandboxd_tests::console::Console;
use sandboxd_tests::cri::Cri;
use sandboxd_tests::node::Node;

use crate::{say, screen, table};

/// Plays them.
pub async fn all(node: &Node, live: bool) -> Result<()> {
    let (cri, console) = (node.cri().await?, node.console().await?);
    say::line(&format!(
        "A sandboxd of its own: files under {}, bridge {} with {}, pods below the cgroup {}.",
        node.scope.dir.display(),
        node.scope.name,
        node.scope.subnet.cidr(),
        node.scope.cgroup_parent()
    ));
    let observer = console.snapshot().await?.observer.context("the daemon says nothing of its observer")?;
    if observer.state() == observer::State::Running {
        say::line(&format!("Its observer watches the kernel's capability checks ({}).", observer.rung));
    } else {
        say::line(&format!("Its observer does not run: {}", observer.message));
    }
    wrong_order(node, &cri, &console).await?;
    right_order(node, &cri, &console).await?;
    if live { screen::live(node, &cri).await } else { screen::frame(node).await }
}

async fn wrong_order(node: &Node, cri: &Cri, console: &Console) -> Result<()> {
    say::heading(1, "The old order: the network namespace before the user namespace");
    say::line(
        "A kubelet asks for a pod with hostUsers: false. The handler network-first makes the network \
         namespace and runs CNI, then makes the pod's user namespace, as containerd issue 6908 describes.",
    );
    let result = cri.run_with(node.pod("shop").userns().build(), "network-first").await;
    let Err(status) = result else {
        bail!("the old order worked, and should not: this kernel allows what no kernel before it did");
    };
    say::blank();
    say::line(&format!("RunPodSandbox failed ({:?}):", status.code()));
    say::item(status.message());
    let failed = console.snapshot().await?.pods.into_iter().find(|p| p.name == "shop");
    match failed.and_then(|pod| pod.explanation) {
        Some(why) => explain(&why),
        None => say::line("The daemon recorded no explanation."),
    }
    Ok(())
}

fn explain(why: &Explanation) {
    say::blank();
    say::line(&format!("Why, in the daemon's words ({}):", why.reason));
    say::item(&why.headline);
    say::field("asked", &why.asked);
    say::field("in", &why.target);
    say::field("by", &why.caller);
    say::field("made by", &why.made_by);
    say::field("the fix", &why.fix);
    say::field("see", &why.sources.join("; "));
}

async fn right_order(node: &Node, cri: &Cri, console: &Console) -> Result<()> {
    say::heading(2, "The right order: the user namespace first, and it owns the rest");
    say::line("The same pod through the default handler.");
    let begun = Instant::now();
    let id = cri.run(node.pod("shop").userns().build()).await.context("RunPodSandbox")?;
    let taken = begun.elapsed();
    let request = GetTimelineRequest { pod_id: id.clone() };
    let timeline = console.client.clone().get_timeline(request).await?.into_inner().timeline;
    let status = cri.status(&id).await?.status.context("no status")?;
    let pid = cri.pid(&id).await?;
    say::blank();
    say::line(&format!(
        "RunPodSandbox: READY in {}{}.",
        milliseconds(taken),
        share(timeline.as_ref(), taken)
    ));
    say::blank();
    table::namespaces(pid)?;
    say::blank();
    say::field("address", &status.network.map(|n| n.ip).unwrap_or_default());
    say::field("ids", &table::ids(pid)?);
    say::field("/sys", &table::sysfs(pid)?);
    Ok(())
}

fn share(timeline: Option<&Timeline>, taken: Duration) -> String {
    let cni: u64 = timeline.map_or(0, |t| t.steps.iter().map(|s| s.cni_ns).sum());
    if cni == 0 {
        return String::new();
    }
    let cni = Duration::from_nanos(cni);
    let rest = taken.saturating_sub(cni);
    format!(", of it {} in the CNI plugins and {} in everything else", milliseconds(cni), milliseconds(rest))
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1_000.0)
}
