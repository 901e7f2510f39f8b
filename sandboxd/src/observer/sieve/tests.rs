use std::time::Instant;

use sandboxd_ebpf::{CheckRecord, Outcome, call};
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
    fed_with(bounds, false)
}

fn fed_with(bounds: Bounds, results: bool) -> (Observer, Sieve) {
    let known = Arc::new(Attribution::default());
    for (pod, userns) in [("flood", 100), ("quiet", 101)] {
        known.upsert(keys(pod, &[(NsKind::User, userns, false)], &[]));
    }
    let settings = ObserverSettings { enabled: false, history: bounds, ..ObserverSettings::default() };
    let observer = Observer::start(&settings, known);
    let sieve = Sieve::new(observer.shared.clone(), None, results);
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

/// The end of a call with this errno; `state` is what it was.
fn end(errno: i32, state: u32) -> CheckRecord {
    CheckRecord {
        ret: -errno,
        valid: u32::MAX,
        outcome: Outcome { call: state, ..Outcome::default() },
        ..any()
    }
}

#[test]
fn a_failed_call_is_one_record_beside_its_checks() {
    let (observer, mut sieve) = fed_with(Bounds::default(), true);
    let passed = CheckRecord { ret: 0, fs_type: *b"tmpfs\0\0\0\0\0\0\0\0\0\0\0", ..record() };
    let asked = 1 << call::ADMIN | 1 << call::MADE | 1 << call::REPORTED;
    let failed = CheckRecord { fs_type: passed.fs_type, ..end(libc::EBUSY, asked | call::FAILURE) };
    // A call that succeeds, one that is denied, one that passes its check and fails, one that is never asked.
    feed(&mut sieve, [passed, end(0, asked), record(), end(libc::EPERM, asked | call::DENIED)]);
    feed(&mut sieve, [passed, failed, CheckRecord { ret: -libc::ENOENT, ..end(0, call::FAILURE) }]);
    let status = observer.status();
    assert_eq!((status.seen, status.sampled_out), (5, 0));
    assert_eq!((status.allowed, status.denied, status.failed), (2, 1, 2));
    let all = observer.history(&CheckFilter::default());
    let results: Vec<_> = all.iter().map(|check| (check.verdict, check.result)).collect();
    let (allowed, denied, failed) = (Ended::Allowed, Ended::Denied, Ended::Failed);
    let [ok, eperm, ebusy, enoent] = [0, libc::EPERM, libc::EBUSY, libc::ENOENT].map(Some);
    let expected = [(allowed, ok), (denied, eperm), (allowed, ebusy), (failed, ebusy), (failed, enoent)];
    assert_eq!(results, expected);
    assert_eq!((all[3].capability, all[4].capability), (Some(21), None), "the last that was asked");
    let denials = CheckFilter { denied_only: true, ..CheckFilter::default() };
    assert_eq!(observer.history(&denials).len(), 1, "what nobody refused is no denial");
    assert_eq!(of(&observer, "flood").denied, 1);
}

#[test]
fn a_flood_of_failed_calls_is_counted() {
    let (observer, mut sieve) = fed_with(Bounds::default(), true);
    let boot = u64::try_from(now(ClockId::Boottime)).unwrap();
    let failed = |n: u64| CheckRecord { time_ns: boot + n * 10_000, ..end(libc::EINVAL, call::FAILURE) };
    feed(&mut sieve, (0..100_000).map(failed));
    let status = observer.status();
    assert_eq!(status.seen + status.sampled_out, 100_000);
    assert_eq!((status.allowed, status.denied, status.failed), (0, 0, 100_000));
    assert!(status.seen < 3_000, "{}", status.seen);
    let told: u64 = observer.reasons().iter().map(|(.., n)| n).sum();
    assert_eq!(told, 100_000);
}
