//! Version and Status: what kubelet asks before it sends a pod.

use anyhow::{Context, Result, ensure};
use sandboxd_api::cri::{RuntimeCondition, StatusRequest, StatusResponse, VersionRequest};
use sandboxd_tests::cri::Cri;
use sandboxd_tests::e2e::E2e;

async fn status(cri: &Cri, verbose: bool) -> Result<StatusResponse> {
    Ok(cri.runtime.clone().status(StatusRequest { verbose }).await?.into_inner())
}

fn condition(status: StatusResponse, kind: &str) -> Result<RuntimeCondition> {
    let conditions = status.status.context("no status")?.conditions;
    conditions.into_iter().find(|c| c.r#type == kind).with_context(|| format!("no {kind}"))
}

// cri: Version, VersionResponse.version, VersionResponse.runtime_name, VersionResponse.runtime_version
// cri: VersionResponse.runtime_api_version
#[test]
fn the_version_is_the_programs() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let mut command = std::process::Command::new(sandboxd_tests::bins::find("sandboxd")?);
        let said = command.arg("--version").output()?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        for asked in ["v1", "0.1.0", ""] {
            let request = VersionRequest { version: asked.to_owned() };
            let version = cri.runtime.clone().version(request).await?.into_inner();
            // What dockershim spoke, and every runtime says since.
            ensure!(version.version == "0.1.0" && version.runtime_api_version == "v1", "{version:?}");
            ensure!(version.runtime_name == "sandboxd", "{version:?}");
            ensure!(said.contains(&version.runtime_version), "{version:?}, the program says {said:?}");
            ensure!(version.runtime_version.split('.').count() >= 3, "{version:?}");
        }
        Ok(())
    });
}

// cri: StatusResponse.status, StatusResponse.runtime_handlers, StatusResponse.features, StatusResponse.info
// cri: StatusRequest.verbose, RuntimeHandler.name, RuntimeHandler.features
// cri: RuntimeHandlerFeatures.user_namespaces, RuntimeFeatures.supplemental_groups_policy
// cri: RuntimeFeatures.user_namespaces_host_network, RuntimeFeatures.mount_options
#[test]
fn the_status_says_what_there_is() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let said = status(&cri, false).await?;
        ensure!(said.info.is_empty(), "{said:?}");
        let names: Vec<_> = said.runtime_handlers.iter().map(|h| h.name.as_str()).collect();
        ensure!(names.iter().collect::<std::collections::BTreeSet<_>>().len() == names.len(), "{names:?}");
        // Those that need nothing but sandboxd; others are there where their runtimes are.
        for name in ["", "network-first"] {
            let handler = said.runtime_handlers.iter().find(|h| h.name == name);
            let features =
                handler.and_then(|h| h.features).with_context(|| format!("{name:?} in {names:?}"))?;
            ensure!(features.user_namespaces, "{name:?}: {features:?}");
            let id = cri.run_with(node.pod(&format!("by-{name}")).hostname("by").build(), name).await?;
            cri.remove(&id).await?;
        }
        let unknown = cri.run_with(node.pod("unknown").build(), "nosuch").await;
        ensure!(unknown.is_err_and(|status| status.message().contains("nosuch")));
        let features = said.features.context("no features")?;
        ensure!(features.supplemental_groups_policy && features.mount_options, "{features:?}");
        ensure!(!features.user_namespaces_host_network, "{features:?}");
        let info = status(&cri, true).await?.info;
        let versions: serde_json::Value = serde_json::from_str(info.get("versions").context("no versions")?)?;
        ensure!(versions["runtimeApi"] == "v1", "{versions}");
        Ok(())
    });
}

// cri: RuntimeCondition.type, RuntimeCondition.status, RuntimeCondition.reason, RuntimeCondition.message
#[test]
fn a_node_without_a_network_says_why() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let ready = condition(status(&cri, false).await?, "NetworkReady")?;
        ensure!(ready.status, "{ready:?}");
        std::fs::remove_file(node.path("net.d/10-test.conflist"))?;
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let network = loop {
            let network = condition(status(&cri, false).await?, "NetworkReady")?;
            if !network.status {
                break network;
            }
            ensure!(std::time::Instant::now() < end, "{network:?}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        let dir = node.path("net.d").to_string_lossy().into_owned();
        ensure!(!network.reason.is_empty() && network.message.contains(&dir), "{network:?}");
        let runtime = condition(status(&cri, false).await?, "RuntimeReady")?;
        ensure!(runtime.status, "{runtime:?}");
        Ok(())
    });
}
