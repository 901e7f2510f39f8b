//! A daemon that was built without the eBPF object.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use sandboxd_api::console::observer;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::node::Options;
use sandboxd_tests::skip::Need;
use sandboxd_tests::{bins, ns};

#[test]
fn it_serves_and_says_that_the_observer_is_not_built_in() {
    let daemon = std::env::var_os(bins::NO_OBSERVER).map(PathBuf::from);
    // It looks for its shim beside itself; this one is built alone.
    let shim = bins::dir().unwrap().join("sandboxd-shim");
    let config = format!("[pod]\nshim_path = {:?}\n", shim.to_string_lossy());
    let options = Options { daemon, config, ..Options::default() };
    E2e::default().needs(Need::NoObserverBuild).options(options).run(async |node| {
        let cri = node.cri().await?;
        let observer = node.console().await?.snapshot().await?.observer.context("no observer")?;
        ensure!(observer.state() == observer::State::NotBuiltIn, "{observer:?}");
        ensure!(!observer.message.is_empty(), "{observer:?}");
        let id = cri.run(node.pod("blind").userns().build()).await?;
        let pid = cri.pid(&id).await?;
        ensure!(ns::owner_of(pid, "net")? == ns::inode_of(pid, "user")?);

        // The ownership alone still explains the old order.
        let status = cri.run_with(node.pod("old").userns().build(), "network-first").await.err();
        let message = status.context("network-first made a userns pod")?.message().to_lowercase();
        ensure!(message.contains("sysfs") && message.contains("network namespace"), "{message}");
        Ok(())
    });
}
