//! Many pods at once.

use std::collections::HashSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::{ns, proc};

#[test]
fn a_hundred_pods_in_parallel_leave_nothing() {
    E2e::alone().run(async |node| {
        let cri = node.cri().await?;
        let mounts_before = proc::mount_points().len();
        let begun = Instant::now();
        // 100 pods, 50 in flight at any moment.
        let configs: Vec<_> = (0..100).map(|i| node.pod(&format!("many{i}")).userns().build()).collect();
        let ids: Vec<String> =
            stream::iter(configs).map(|config| cri.run(config)).buffer_unordered(50).try_collect().await?;
        let made = begun.elapsed();
        ensure!(ids.iter().collect::<HashSet<_>>().len() == 100);
        let mut addresses = HashSet::new();
        for id in &ids {
            let network = cri.status(id).await?.status.context("no status")?.network;
            addresses.insert(network.context("no network")?.ip);
        }
        ensure!(addresses.len() == 100, "only {} different addresses", addresses.len());
        // No more than its namespace pins: a pod's own mounts are in its shim's mount namespace.
        let added = proc::mount_points().len() - mounts_before;
        ensure!(added <= 200, "100 pods added {added} lines to the host's mount table");

        let pid = cri.pid(&ids[99]).await?;
        ensure!(ns::owner_of(pid, "net")? == ns::inode_of(pid, "user")?);
        let begun = Instant::now();
        stream::iter(&ids)
            .map(|id| async {
                cri.stop(id).await?;
                cri.remove(id).await
            })
            .buffer_unordered(50)
            .try_collect::<Vec<()>>()
            .await?;
        println!("100 pods, 50 at a time: made in {made:?}, removed in {:?}", begun.elapsed());
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{} things, first {:?}", left.len(), left.first());
        Ok(())
    });
}

#[test]
fn calls_for_the_same_pod_at_once_agree() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        // One of eight wins the name.
        let config = node.pod("race").userns().build();
        let results: Vec<_> =
            stream::iter(0..8).map(|_| cri.run(config.clone())).buffer_unordered(8).collect().await;
        let won: Vec<_> = results.iter().filter_map(|r| r.as_ref().ok()).collect();
        ensure!(won.len() == 1, "{results:?}");
        // Stop and remove, many times over, all at once: all succeed.
        let id = won[0].clone();
        let ends: Vec<Result<(), tonic::Status>> = stream::iter(0..16)
            .map(|i| {
                let (cri, id) = (cri.clone(), id.clone());
                async move { if i % 2 == 0 { cri.stop(&id).await } else { cri.remove(&id).await } }
            })
            .buffer_unordered(16)
            .collect()
            .await;
        ensure!(ends.iter().all(Result::is_ok), "{ends:?}");
        ensure!(cri.list(None).await?.is_empty());
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn churn_leaks_no_descriptor_of_the_daemon() {
    E2e::alone().run(async |node| {
        let cri = node.cri().await?;
        let fds = || -> Result<usize> {
            let pid = node.daemon_pid().context("no daemon")?;
            Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
        };
        let once = async |round: usize| -> Result<()> {
            let configs: Vec<_> =
                (0..5).map(|i| node.pod(&format!("churn{round}-{i}")).userns().build()).collect();
            let ids: Vec<String> =
                stream::iter(configs).map(|config| cri.run(config)).buffer_unordered(5).try_collect().await?;
            for id in ids {
                cri.remove(&id).await?;
            }
            Ok(())
        };
        once(0).await?;
        let before = fds()?;
        for round in 1..6 {
            once(round).await?;
        }
        let after = fds()?;
        ensure!(after <= before + 2, "{before} descriptors before 25 pods, {after} after");
        Ok(())
    });
}
