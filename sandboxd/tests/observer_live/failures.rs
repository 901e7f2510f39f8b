//! Calls that fail without a denied check: each reason provoked for real.

use super::provoke::{self, CASES, Case, FILTERED};
use super::*;

/// Runs a case in a process of its own; its pid.
fn provoked(case: &Case, dir: &std::path::Path) -> i32 {
    // SAFETY: the child has one thread, takes no lock of another one's, and ends with the case.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => provoke::exit(case.run(dir)),
        nix::unistd::ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            let nix::sys::wait::WaitStatus::Exited(_, errno) = status else {
                panic!("{}: {status:?}", case.name)
            };
            assert_ne!(errno, provoke::NOT_PREPARED, "{}: its message is above", case.name);
            assert_eq!(errno, case.errno, "{}: the call ended otherwise", case.name);
            child.as_raw()
        }
    }
}

/// Of this thread, whose name its children have.
fn own_comm() -> Box<str> {
    std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim_end().into()
}

impl Live {
    /// The checks of a process for a reason, newest last.
    async fn for_reason(&self, pid: Option<i32>, code: &str) -> Vec<Arc<Check>> {
        assert!(self.observer.caught_up(PATIENCE).await, "the ring was not read in time");
        let filter = CheckFilter { pid, reason: Some(code.to_string()), ..Default::default() };
        let found = self.observer.history(&filter);
        found.into_iter().filter(|check| check.time_ns >= self.since_ns).collect()
    }

    /// What a case is recorded as. Where something else on the machine makes so many checks that some are only
    /// counted, this one may be among them, and is made again.
    async fn recorded(&self, case: &Case) -> Arc<Check> {
        let mut attempts = 0;
        loop {
            let counted = self.observer.status().sampled_out;
            let pid = provoked(case, self.dir.path());
            let mut found = self.for_reason(Some(pid), case.code).await;
            if case.name == "pidns nested" {
                // It is a far descendant's.
                found = self.for_reason(None, case.code).await;
                found.retain(|check| check.call() == "unshare(pid)" && check.comm == own_comm());
            }
            attempts += 1;
            if found.is_empty() && attempts < 10 && self.observer.status().sampled_out > counted {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            let all = || self.observer.history(&CheckFilter { pid: Some(pid), ..Default::default() });
            let [check] = found.as_slice() else {
                panic!("{}: {} of {}: {:#?}", case.name, found.len(), case.code, all())
            };
            return check.clone();
        }
    }
}

#[tokio::test]
async fn every_failure_has_a_reason_of_its_own() {
    let Some(live) = Live::start() else { return };
    let mut codes = std::collections::BTreeSet::new();
    for case in CASES {
        let check = live.recorded(case).await;
        assert_eq!(check.result, Some(case.errno), "{}: {check:#?}", case.name);
        let wanted = match case.code {
            "setns-bad-argument" | "ordinary-error" => Verdict::Failed,
            "setns-process-closed" => Verdict::Denied,
            _ => Verdict::Refused,
        };
        assert_eq!(check.verdict, wanted, "{}: {check:#?}", case.name);
        let told = live.observer.explain(check.seq).unwrap();
        for sentence in [&told.headline, &told.asked, &told.target, &told.caller, &told.fix] {
            assert!(sentence.ends_with('.'), "{}: {told:#?}", case.name);
        }
        eprintln!("{}: {}\n  {} {}", case.name, told.headline, told.asked, told.fix);
        codes.insert(case.code);
    }
    assert_eq!(codes.len(), 17, "{codes:?}");
}

/// Which of the causes that have one errno it was is in the words.
#[tokio::test]
async fn the_words_name_what_was_read() {
    let Some(live) = Live::start() else { return };
    for (name, words) in [
        ("own userns", "initial user namespace"),
        ("userns with threads", "2 threads"),
        ("userns with a shared fs", "2 tasks"),
        ("pidns above", &std::fs::metadata("/proc/self/ns/pid").unwrap().ino().to_string()),
        ("timens with shared memory", "CLONE_VM"),
        ("wrong kind", "a network namespace, and the type asks for uts"),
        ("userns nested", "user namespaces are nested 33 deep"),
        ("pidns nested", "pid namespaces are nested 32 deep"),
        ("no such type", "ENODEV: no such device"),
    ] {
        let case = CASES.iter().find(|case| case.name == name).unwrap();
        let told = live.observer.explain(live.recorded(case).await.seq).unwrap();
        assert!(told.headline.contains(words), "{name}: {}", told.headline);
    }
}

/// A filter ends a call before its function: what is at the end of the function never sees it, what is at the end of
/// every call does.
#[tokio::test]
async fn calls_that_a_filter_ends() {
    let Some(live) = Live::start() else { return };
    let through = live.observer.status().results;
    for case in FILTERED {
        if through == Some(ResultsThrough::SysExit) {
            let check = live.recorded(case).await;
            assert_eq!((check.capability, check.target_userns), (None, None), "nothing was asked");
            let told = live.observer.explain(check.seq).unwrap();
            assert!(told.headline.contains("under seccomp (mode 2)"), "{}", told.headline);
        } else {
            let pid = provoked(case, live.dir.path());
            assert!(live.for_reason(Some(pid), case.code).await.is_empty(), "{}", case.name);
        }
    }
}

/// The security modules that are named are this kernel's.
#[tokio::test]
async fn a_refusal_by_landlock_names_it() {
    let Some(live) = Live::start() else { return };
    for (name, words) in [
        ("landlocked mount", "before the kernel had asked"),
        ("landlocked move_mount", "every check was passed"),
    ] {
        let case = CASES.iter().find(|case| case.name == name).unwrap();
        let told = live.observer.explain(live.recorded(case).await.seq).unwrap();
        assert!(told.headline.contains(words), "{}", told.headline);
        let listed = told.headline.contains("landlock") || told.headline.contains("does not list");
        assert!(listed, "{}", told.headline);
    }
}

/// A process that sees nothing but errors: it costs others nothing, and none is unaccounted for.
#[tokio::test]
async fn a_flood_of_failures_hides_nobody_and_adds_up() {
    let Some(live) = Live::start() else { return };
    const SECONDS: u64 = 3;
    let own = File::open("/proc/self/ns/user").unwrap();
    let before = live.observer.status();
    let started = std::time::Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..2)
        .map(|_| {
            let (own, stop) = (own.try_clone().unwrap(), stop.clone());
            std::thread::spawn(move || {
                let mut made = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    // SAFETY: numbers only. It fails: this is the user namespace we are in.
                    assert_eq!(unsafe { libc::setns(own.as_raw_fd(), libc::CLONE_NEWUSER) }, -1);
                    made += 1;
                }
                made
            })
        })
        .collect();
    let mut found = 0;
    while started.elapsed() < Duration::from_secs(SECONDS) {
        for name in ["unmapped", "no such type", "mntns with a shared fs"] {
            live.recorded(CASES.iter().find(|case| case.name == name).unwrap()).await;
            found += 1;
        }
        // One that is denied, among them.
        let ran = live.run("exec unshare --user --map-root-user --mount mount -t proc proc $D", true);
        let (check, _) = live.failure(&ran).await;
        assert!(matches!(check.reason, Some(Reason::ProcWithoutOwnPidns { .. })), "{check:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let made: u64 = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    let seconds = started.elapsed().as_secs_f64();
    let after = live.quiet().await;
    let since = |f: fn(&Status) -> u64| f(&after) - f(&before);
    eprintln!(
        "{made} failed calls in {seconds:.1} s ({:.0}/s): produced {}, kept {}, counted {}, lost {}, failed {}; \
         {found} others recorded",
        made as f64 / seconds,
        since(|s| s.kernel.produced),
        since(|s| s.seen),
        since(|s| s.sampled_out),
        since(|s| s.kernel.lost),
        since(|s| s.failed),
    );
    assert_eq!(after.seen + after.sampled_out + after.kernel.lost, after.kernel.produced);
    assert_eq!(after.allowed + after.denied + after.failed, after.seen + after.sampled_out);
    assert!(since(|s| s.failed) + since(|s| s.kernel.lost) >= made, "each call is one failure");
    assert!(since(|s| s.seen) < made / 10, "a flood is not kept one by one");
    // All of it under its reason, within a second or two.
    live.told_by_reason().await;
    live.calm().await;
}
