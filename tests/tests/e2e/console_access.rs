//! Who reads and who acts with a console: on the socket and over TLS.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::unistd::Group;
use sandboxd_api::console::images_client::ImagesClient;
use sandboxd_api::console::{
    ExecRequest, ExecStart, ImportRequest, PullRequest, RemoveContainerRequest, RemovePodRequest,
    StopContainerRequest, StopPodRequest, exec_request,
};
use sandboxd_tests::console::Console;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::identity::{Identity, channel_as};
use sandboxd_tests::node::{Node, Options};
use sandboxd_tests::skip::Need;
use sandboxd_tests::tls::Authority;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::support::{eventually, refused};

/// Some unprivileged user.
const USER: u32 = 4242;
const READERS: &str = "bin";
const OPERATORS: &str = "daemon";

fn options() -> Options {
    let config = format!("[console]\nsocket_group = '{READERS}'\noperator_group = '{OPERATORS}'\n");
    Options { config, ..Options::default() }
}

fn gid(group: &str) -> Result<u32> {
    Ok(Group::from_name(group)?.with_context(|| format!("no group {group}"))?.gid.as_raw())
}

async fn connect(node: &Node, gid: u32, groups: &[u32]) -> Result<Channel> {
    let identity = Identity { uid: USER, gid, groups: groups.to_vec() };
    channel_as(identity, &node.console_socket()).await
}

/// Everything that changes something, on a pod.
async fn acts(channel: &Channel, pod_id: &str) -> Vec<(&'static str, Result<(), Status>)> {
    let (mut console, mut images) =
        (Console::over(channel.clone()).client, ImagesClient::new(channel.clone()));
    let (pod_id, container_id) = (pod_id.to_owned(), "c".to_owned());
    let start =
        ExecStart { container_id: container_id.clone(), command: vec!["true".into()], ..Default::default() };
    let start = ExecRequest { message: Some(exec_request::Message::Start(start)) };
    let stop = StopContainerRequest { container_id: container_id.clone(), timeout_s: 0 };
    let export = sandboxd_api::console::ExportRequest { path: "/nowhere.tar".into(), ..Default::default() };
    let import = ImportRequest { path: "/nowhere.tar".into(), ..Default::default() };
    vec![
        ("Exec", console.exec(tokio_stream::iter([start])).await.map(drop)),
        ("StopContainer", console.stop_container(stop).await.map(drop)),
        (
            "RemoveContainer",
            console.remove_container(RemoveContainerRequest { container_id }).await.map(drop),
        ),
        ("StopPod", console.stop_pod(StopPodRequest { pod_id: pod_id.clone() }).await.map(drop)),
        ("RemovePod", console.remove_pod(RemovePodRequest { pod_id }).await.map(drop)),
        ("Pull", images.pull(PullRequest::default()).await.map(drop)),
        ("Import", images.import(import).await.map(drop)),
        ("Export", images.export(export).await.map(drop)),
    ]
}

fn open_to_all(dir: &Path) -> Result<()> {
    Ok(fs::set_permissions(dir, fs::Permissions::from_mode(0o711))?)
}

#[test]
fn an_unprivileged_user_reads_and_may_not_act() {
    E2e::default().options(options()).run(async |node| {
        open_to_all(&node.scope.dir)?;
        let (readers, operators) = (gid(READERS)?, gid(OPERATORS)?);
        let id = node.cri().await?.run(node.pod("looked-at").userns().build()).await?;
        ensure!(connect(node, USER, &[]).await.is_err(), "the socket opens to its group alone");

        let channel = connect(node, USER, &[readers]).await?;
        let snapshot = Console::over(channel.clone()).snapshot().await?;
        ensure!(snapshot.pods.iter().any(|pod| pod.id == id), "{snapshot:?}");
        let access = snapshot.access.context("no access")?;
        ensure!(!access.may_act && access.identity == "uid 4242", "{access:?}");
        ensure!(access.why_not.contains(OPERATORS), "{access:?}");
        for (action, result) in acts(&channel, &id).await {
            refused(result, Code::PermissionDenied, &[action, "uid 4242", OPERATORS, "usermod"])?;
        }
        ensure!(node.cri().await?.list(None).await?.len() == 1, "the pod is there");
        let log = node.log_tail(100);
        let denied = log.lines().filter(|line| line.contains("sandboxd::audit") && line.contains("denied"));
        ensure!(denied.clone().count() == 8 && denied.clone().all(|line| line.contains("uid 4242")), "{log}");

        // By a supplementary group, and by its first.
        for (gid, groups) in [(readers, [operators]), (operators, [readers])] {
            let channel = connect(node, gid, &groups).await?;
            let access = Console::over(channel.clone()).snapshot().await?.access.context("no access")?;
            ensure!(access.may_act && access.why_not.is_empty(), "{access:?}");
            for (action, result) in acts(&channel, "no-such-pod").await {
                let code = result.expect_err("nothing there to act on").code();
                ensure!(code != Code::PermissionDenied, "{action}: {code:?}");
            }
        }
        let channel = connect(node, operators, &[readers]).await?;
        Console::over(channel).client.remove_pod(RemovePodRequest { pod_id: id }).await?;
        ensure!(node.cri().await?.list(None).await?.is_empty(), "an operator removes");
        Ok(())
    });
}

#[test]
fn without_a_group_of_operators_root_alone_acts() {
    let config = format!("socket_group = '{READERS}'\n");
    E2e::default().options(Options { config, ..Options::default() }).run(async |node| {
        open_to_all(&node.scope.dir)?;
        let channel = connect(node, USER, &[gid(READERS)?]).await?;
        for (action, result) in acts(&channel, "x").await {
            refused(result, Code::PermissionDenied, &[action, "operator_group", "root"])?;
        }
        let access = node.console().await?.snapshot().await?.access.context("no access")?;
        ensure!(access.may_act && access.identity == "uid 0", "{access:?}");
        Ok(())
    });
}

/// A port that was free a moment ago.
fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

#[test]
fn certificates_say_who_reads_and_who_acts() {
    E2e::default().needs(Need::Openssl).run(async |node| {
        let authority = Authority::new(&node.path("pki"))?;
        authority.issue("node", "/CN=node", "subjectAltName=IP:127.0.0.1")?;
        authority.issue("ann", "/O=sandboxd:operators/CN=ann", "extendedKeyUsage=clientAuth")?;
        authority.issue("bob", "/O=sandboxd:readers/CN=bob", "extendedKeyUsage=clientAuth")?;
        let stranger = Authority::new(&node.path("other-pki"))?;
        stranger.issue("eve", "/O=sandboxd:operators/CN=eve", "extendedKeyUsage=clientAuth")?;
        for file in ["eve.crt", "eve.key"] {
            fs::copy(stranger.path(file), authority.path(file))?;
        }
        let address = free_port()?;
        let file = |name: &str| authority.path(name).display().to_string();
        let config = format!(
            "[console]\naddress = '{address}'\ntls_cert = '{}'\ntls_key = '{}'\nclient_ca = '{}'\n",
            file("node.crt"),
            file("node.key"),
            file("ca.crt"),
        );
        node.terminate_daemon().await?;
        fs::write(node.path("config.toml"), config)?;
        node.spawn().await?;

        let id = node.cri().await?.run(node.pod("far").userns().build()).await?;
        let bob = authority.channel(Some("bob"), address).await?;
        let snapshot = Console::over(bob.clone()).snapshot().await?;
        ensure!(snapshot.pods.iter().any(|pod| pod.id == id));
        let access = snapshot.access.context("no access")?;
        ensure!(!access.may_act && access.identity == "bob", "{access:?}");
        for (action, result) in acts(&bob, &id).await {
            refused(result, Code::PermissionDenied, &[action, "\"bob\"", "O=sandboxd:operators"])?;
        }
        // TLS 1.3: a client hears of its refusal with the first answer.
        for who in [None, Some("eve")] {
            let answered = match authority.channel(who, address).await {
                Ok(channel) => Console::over(channel).snapshot().await.is_ok(),
                Err(_) => false,
            };
            ensure!(!answered, "{who:?} was answered");
        }
        let ann = authority.channel(Some("ann"), address).await?;
        let access = Console::over(ann.clone()).snapshot().await?.access.context("no access")?;
        ensure!(access.may_act && access.identity == "ann", "{access:?}");
        Console::over(ann).client.remove_pod(RemovePodRequest { pod_id: id }).await?;
        ensure!(node.cri().await?.list(None).await?.is_empty());

        // Another authority takes over, without a restart.
        fs::copy(stranger.path("ca.crt"), authority.path("new"))?;
        fs::copy(authority.path("ca.crt"), authority.path("old-ca.crt"))?;
        fs::rename(authority.path("new"), authority.path("ca.crt"))?;
        let clients = Authority::over(&node.path("pki"), "old-ca.crt");
        eventually("the stranger is known, the others are not", async || {
            let Ok(channel) = clients.channel(Some("eve"), address).await else { return Ok(false) };
            let known = Console::over(channel).snapshot().await.is_ok();
            let forgotten = match clients.channel(Some("ann"), address).await {
                Ok(channel) => Console::over(channel).snapshot().await.is_err(),
                Err(_) => true,
            };
            Ok(known && forgotten)
        })
        .await
    });
}
