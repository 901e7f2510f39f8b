use std::time::Instant;

use sandboxd_ebpf::CheckRecord;
use tokio::sync::broadcast::error::TryRecvError;

use super::super::attribution::tests::keys;
use super::super::check::tests::record as any;
use super::super::{Attribution, Bounds, CheckFilter, Observer, ObserverSettings, Status};
use super::*;
use crate::pod::model::NsKind;

/// A check, and no result of a syscall.
fn record() -> CheckRecord {
    CheckRecord { valid: !valid::RESULT, ..any() }
}

const SECOND: u64 = 1_000_000_000;

/// An observer that sees what it is fed with.
fn fed(bounds: Bounds) -> (Observer, Sieve) {
    let known = Arc::new(Attribution::default());
    for (pod, userns) in [("flood", 100), ("quiet", 101)] {
        known.upsert(keys(pod, &[(NsKind::User, userns, false)], &[]));
    }
    let settings = ObserverSettings { enabled: false, history: bounds, ..ObserverSettings::default() };
    let observer = Observer::start(&settings, known);
    let sieve = Sieve::new(observer.shared.clone(), None, false);
    (observer, sieve)
}

fn feed(sieve: &mut Sieve, records: impl IntoIterator<Item = CheckRecord>) {
    let mut records = records.into_iter();
    while sieve.take(|| records.next().map(Some)) {}
}

fn of(observer: &Observer, pod: &str) -> super::super::PodCounts {
    observer.counts(&PodId::from_string(pod.to_string()))
}

fn adds_up(status: &Status, made: u64) {
    assert_eq!(status.seen + status.sampled_out, made);
    assert_eq!(status.allowed + status.denied, made);
}

/// 100,000 denied mounts a second of one pod, for ten seconds, and ten of another one among them.
#[test]
fn a_hundred_thousand_a_second_hide_nobody_and_take_no_memory() {
    const RATE: u64 = 100_000;
    const SECONDS: u64 = 10;
    let bounds = Bounds { bytes: 1 << 20, ..Bounds::default() };
    let (observer, mut sieve) = fed(bounds);
    let boot = u64::try_from(now(ClockId::Boottime)).unwrap();
    let mut heard = observer.subscribe();
    let (started, mut most, mut told) = (Instant::now(), 0, 0);
    for second in 0..SECONDS {
        for tenth in 0..10 {
            let at = |n: u64| boot + second * SECOND + tenth * SECOND / 10 + n * SECOND / RATE;
            let flood = (0..RATE / 10).map(|n| CheckRecord { time_ns: at(n), ..record() });
            feed(&mut sieve, flood);
            loop {
                match heard.try_recv() {
                    Ok(_) => told += 1,
                    Err(TryRecvError::Lagged(missed)) => told += missed,
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            most = most.max(observer.status().history_bytes);
        }
        let quiet = CheckRecord { time_ns: boot + second * SECOND, pid: 77, caller_userns: 101, ..record() };
        feed(&mut sieve, [CheckRecord { mntns_owner: 101, pidns_owner: 101, ..quiet }]);
    }
    let took = started.elapsed();
    let (status, flood, quiet) = (observer.status(), of(&observer, "flood"), of(&observer, "quiet"));
    let made = RATE * SECONDS + SECONDS;
    eprintln!(
        "{made} records in {took:?} ({:.0} ns each): kept {}, counted {}; subscribers heard {told}; history {} checks, \
         {most} bytes at most; flood {flood:?}, quiet {quiet:?}",
        took.as_nanos() as f64 / made as f64,
        status.seen,
        status.sampled_out,
        status.kept,
    );
    adds_up(&status, made);
    assert_eq!((flood.denied, quiet.denied, quiet.sampled_out), (RATE * SECONDS, SECONDS, 0));
    let filter = CheckFilter { pod: Some("quiet".to_string()), ..CheckFilter::default() };
    let kept = observer.history(&filter);
    assert_eq!(kept.len() as u64, SECONDS, "each of the quiet pod's checks is there");
    assert!(kept.iter().all(|check| observer.explain(check.seq).is_some()));
    assert!(most <= bounds.bytes, "{most}");
    assert!(status.seen < made / 100, "{}", status.seen);
    let reasons: u64 = observer.reasons().iter().map(|(.., n)| n).sum();
    assert_eq!(reasons, made);
}

/// A flood in which no two checks are alike.
#[test]
fn variety_is_no_way_around() {
    let (observer, mut sieve) = fed(Bounds::default());
    let boot = u64::try_from(now(ClockId::Boottime)).unwrap();
    let varied = (0..200_000u32).map(|n| CheckRecord {
        time_ns: boot + u64::from(n) * 10_000,
        flags: u64::from(n) << 32,
        tid: n,
        ret: -i32::from(n % 3 == 0),
        ..record()
    });
    feed(&mut sieve, varied);
    let status = observer.status();
    adds_up(&status, 200_000);
    assert!(status.seen < 3_000, "{}", status.seen);
    let flood = of(&observer, "flood");
    assert_eq!((flood.allowed, flood.denied), (133_333, 66_667));
    assert_eq!(flood.sampled_out, status.sampled_out);
}

#[test]
fn subscribers_are_told_of_pods_whose_checks_were_only_counted() {
    let (observer, mut sieve) = fed(Bounds::default());
    let told = observer.sampled();
    feed(&mut sieve, (0..2_000).map(|_| record()));
    assert_eq!(told.borrow().iter().map(PodId::as_str).collect::<Vec<_>>(), ["flood"]);
    feed(&mut sieve, [record()]);
    assert!(sieve.patience().is_some(), "told of within a second");
}
