//! What the observer adds to a capability check.
//!
//! Three system calls in a loop, with the observer attached and without: `getppid` makes no check;
//! `chroot` makes one that nobody asked about; `setns` into a network namespace makes checks that are
//! recorded. The recorded ones come in batches, so that the reader keeps up and none is lost.

use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{chroot, getppid};
use sandboxd_api::console::{Observer, observer};
use sandboxd_tests::node::Node;
use sandboxd_tests::ns;

use crate::report::Report;
use crate::stats::Series;

const ROUNDS: u32 = 7;
const CALLS: u32 = 200_000;
const BATCHES: u32 = 40;
const BATCH: u32 = 200;

/// With the daemon's observer attached.
pub async fn watched(node: &Node, report: &mut Report) -> Result<()> {
    let console = node.console().await?;
    let state = async || -> Result<Observer> { console.snapshot().await?.observer.context("no observer") };
    let before = state().await?;
    if before.state() != observer::State::Running {
        report.note(&format!("no cost of the observer: it does not run: {}", before.message));
        return Ok(());
    }
    tokio::task::spawn_blocking(measure).await??.report("Observer attached", report);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let after = state().await?;
    report.note(&format!(
        "the loops produced {} checks: {} kept one by one, {} only counted, {} lost",
        after.produced - before.produced,
        after.seen - before.seen,
        after.sampled_out - before.sampled_out,
        after.lost - before.lost
    ));
    Ok(())
}

/// With no daemon.
pub fn unwatched(report: &mut Report) -> Result<()> {
    measure()?.report("Observer not attached", report);
    Ok(())
}

struct Costs([(&'static str, Series); 3]);

impl Costs {
    fn report(&self, title: &str, report: &mut Report) {
        report.group(title);
        for (name, series) in &self.0 {
            report.row(name, "µs a call", series);
        }
    }
}

fn measure() -> Result<Costs> {
    let netns = ns::open_path("/proc/self/ns/net".as_ref())?;
    let (mut plain, mut unasked, mut recorded) = (Series::default(), Series::default(), Series::default());
    for _ in 0..ROUNDS {
        plain.push(micros(CALLS, || {
            getppid();
            Ok(())
        })?);
        // To where it is: nothing changes, and CAP_SYS_CHROOT is asked.
        unasked.push(micros(CALLS, || chroot("/"))?);
        let mut total = 0.0;
        for _ in 0..BATCHES {
            total += micros(BATCH, || setns(netns.as_fd(), CloneFlags::CLONE_NEWNET))?;
            sleep(Duration::from_millis(10));
        }
        recorded.push(total / f64::from(BATCHES));
    }
    Ok(Costs([
        ("getppid: no check", plain),
        ("chroot: a check nobody asked about", unasked),
        ("setns: two checks, recorded", recorded),
    ]))
}

/// Microseconds a call.
fn micros(calls: u32, mut call: impl FnMut() -> nix::Result<()>) -> Result<f64> {
    let begun = Instant::now();
    for _ in 0..calls {
        call()?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(calls))
}
