//! All namespaces of the node: those of pods, those that a killed daemon left, and the events of leaks.

use std::os::fd::AsFd as _;

use anyhow::{Context, Result, ensure};
use sandboxd_api::console::host_namespace::State;
use sandboxd_api::console::{
    HostNamespace, ListEventsRequest, ListNamespacesRequest, ListNamespacesResponse,
};
use sandboxd_tests::console::Console;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::ns;
use tonic::Code;

use crate::support::refused;

async fn list(console: &Console, request: ListNamespacesRequest) -> Result<ListNamespacesResponse> {
    Ok(console.client.clone().list_namespaces(request).await?.into_inner())
}

fn find(listed: &ListNamespacesResponse, inode: u64) -> Result<&HostNamespace> {
    listed.namespaces.iter().find(|n| n.inode == inode).with_context(|| format!("{inode} is not listed"))
}

#[test]
fn a_pods_namespaces_are_its_own_and_owned_by_its_userns() {
    E2e::default().run(async |node| {
        let (cri, console) = (node.cri().await?, node.console().await?);
        let id = cri.run(node.pod("listed").userns().build()).await?;
        let pid = cri.pid(&id).await?;
        let listed = list(&console, ListNamespacesRequest::default()).await?;
        let user = find(&listed, ns::inode_of(pid, "user")?)?;
        ensure!(user.pod_id == id && user.pod_name == "default/listed", "{user:?}");
        ensure!(user.uid_map.first().is_some_and(|map| map.host_id != 0), "{user:?}");
        for kind in ["net", "mnt", "ipc", "uts", "cgroup", "pid"] {
            let own = find(&listed, ns::inode_of(pid, kind)?)?;
            ensure!(own.kind == kind && own.pod_id == id && own.owner_inode == user.inode, "{own:?}");
            ensure!(own.state() == State::InUse && !own.wrong_owner && own.message.is_empty(), "{own:?}");
            ensure!(own.processes.iter().any(|p| p.pid == pid && p.role == "infra"), "{own:?}");
        }
        let net = find(&listed, ns::inode_of(pid, "net")?)?;
        ensure!(net.holds.iter().any(|hold| hold.kind == "pin" && hold.what.contains(&id)), "{net:?}");
        let host = find(&listed, ns::own("user")?)?;
        ensure!(host.host && host.pod_id.is_empty(), "{host:?}");

        let request = ListNamespacesRequest { kind: "net".into(), leaked_only: false };
        let nets = list(&console, request).await?;
        ensure!(nets.namespaces.iter().all(|n| n.kind == "net"), "only those asked for");
        let request = ListNamespacesRequest { kind: "networks".into(), leaked_only: false };
        refused(
            console.client.clone().list_namespaces(request).await,
            Code::InvalidArgument,
            &["networks", "net"],
        )
    });
}

#[test]
fn a_pin_that_belongs_to_no_pod_is_a_leak_an_event_and_a_warning_of_the_doctor() {
    E2e::default().run(async |node| {
        let console = node.console().await?;
        // What a crash at the wrong moment leaves: a pin of a pod that nobody knows.
        let id = "0123456789abcdef".repeat(4);
        let dir = node.path("run/pods").join(&id).join("ns");
        std::fs::create_dir_all(&dir)?;
        let pin = dir.join("net");
        std::fs::write(&pin, "")?;
        let made = std::process::Command::new("unshare")
            .arg(format!("--net={}", pin.display()))
            .arg("true")
            .status()?;
        ensure!(made.success(), "making a pin");
        let inode = ns::inode(ns::open_path(&pin)?.as_fd())?;
        let ended: Result<()> = async {
            let listed =
                list(&console, ListNamespacesRequest { kind: String::new(), leaked_only: true }).await?;
            let leaked = find(&listed, inode)?;
            ensure!(leaked.state() == State::Leaked && leaked.pod_id == id, "{leaked:?}");
            let path = pin.display().to_string();
            for words in ["No process is in it", &path, "does not know", "`umount "] {
                ensure!(leaked.message.contains(words), "no {words:?}: {}", leaked.message);
            }
            let events = console.client.clone().list_events(ListEventsRequest::default()).await?.into_inner();
            let told = events.events.iter().filter(|event| event.kind == "namespace-leaked");
            ensure!(
                told.filter(|event| event.message.contains(&inode.to_string())).count() == 1,
                "{events:?}"
            );
            let checks = console.client.clone().doctor(sandboxd_api::console::DoctorRequest {}).await?;
            let checks = checks.into_inner().checks;
            let check = checks.iter().find(|c| c.name == "leaked namespaces").context("no such check")?;
            ensure!(check.remedy.contains("sandboxd namespaces --leaked"), "{check:?}");
            let output = node.ask(&["namespaces", "--leaked"]).env("COLUMNS", "80").output()?;
            let text = String::from_utf8(output.stdout)?;
            ensure!(output.status.success() && text.contains(&inode.to_string()), "{text}");
            ensure!(
                text.lines().all(|line| line.chars().count() <= 80 || line.split_whitespace().count() == 1),
                "{text}"
            );
            Ok(())
        }
        .await;
        std::process::Command::new("umount").arg(&pin).status()?;
        std::fs::remove_dir_all(node.path("run/pods").join(&id))?;
        ended
    });
}

#[test]
fn without_a_daemon_pods_are_known_by_their_pins() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("orphan").userns().build()).await?;
        let pid = cri.pid(&id).await?;
        let (user, net) = (ns::inode_of(pid, "user")?, ns::inode_of(pid, "net")?);
        node.kill_daemon()?;
        let output = node.ask(&["namespaces", "--json"]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(String::from_utf8_lossy(&output.stderr).contains("no daemon on"), "it is said");
        let listed: ListNamespacesResponse = serde_json::from_slice(&output.stdout)?;
        for inode in [user, net] {
            let own = find(&listed, inode)?;
            ensure!(own.pod_id == id && own.state() == State::InUse, "{own:?}");
        }
        // Its processes killed as well, nobody is left who wants the pins.
        let shim = sandboxd_tests::proc::status_field(pid, "PPid")?.trim().parse()?;
        for pid in [pid, shim] {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)?;
        }
        crate::support::eventually("the pod's netns is leaked", async || {
            let output = node.ask(&["namespaces", "--json", "--leaked"]).output()?;
            let listed: ListNamespacesResponse = serde_json::from_slice(&output.stdout)?;
            let leaked =
                |inode| find(&listed, inode).is_ok_and(|n| n.message.contains("sandboxd serve --state"));
            Ok(leaked(user) && leaked(net))
        })
        .await?;
        // The next daemon undoes it, as was said.
        node.spawn().await?;
        crate::support::eventually("the pod is undone", async || {
            let cri = node.cri().await?;
            for pod in cri.list(None).await? {
                cri.remove(&pod.id).await?;
            }
            let listed = list(&node.console().await?, ListNamespacesRequest::default()).await?;
            Ok(find(&listed, net).is_err())
        })
        .await
    });
}
