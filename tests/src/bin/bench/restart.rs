//! The daemon killed and started again with pods: how long until the first list has them all.

use std::time::Instant;

use anyhow::{Result, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use sandboxd_tests::node::Node;

use crate::report::Report;
use crate::stats::Series;

/// How often.
const ROUNDS: usize = 5;

/// kill -9, start, list.
pub async fn with_pods(node: &mut Node, pods: u32, report: &mut Report) -> Result<()> {
    let cri = node.cri().await?;
    let configs: Vec<_> = (0..pods).map(|i| node.pod(&format!("again{i}")).userns().build()).collect();
    let ids: Vec<String> = stream::iter(configs).map(|c| cri.run(c)).buffered(8).try_collect().await?;
    let mut series = Series::default();
    for _ in 0..ROUNDS {
        node.kill_daemon()?;
        let begun = Instant::now();
        node.spawn().await?;
        let listed = node.cri().await?.list(None).await?;
        series.push(begun.elapsed().as_secs_f64() * 1000.0);
        ensure!(listed.len() == ids.len(), "{} pods of {} after a restart", listed.len(), ids.len());
    }
    report.group(&format!("The daemon killed and started again with {pods} userns pods"));
    report.row("until the first list has them all", "ms", &series);
    let cri = node.cri().await?;
    for id in ids {
        cri.remove(&id).await?;
    }
    Ok(())
}
