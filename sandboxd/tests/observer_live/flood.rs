//! More checks than can be kept: nothing is missing from the counts, nobody is hidden, no memory grows.

use super::*;

impl Live {
    /// A flood from the host's own user namespace has emptied its bucket, which gets a hundred a second: what the next
    /// tests do from here is to be kept one by one.
    pub async fn calm(&self) {
        tokio::time::sleep(Duration::from_secs(4)).await;
    }

    /// What the kernel held back is told by its reason within a second or two: waits until all is.
    pub async fn told_by_reason(&self) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let (told, now) = (self.observer.reasons(), self.observer.status());
            let sum: u64 = told.iter().map(|(.., n)| n).sum();
            if sum == now.seen + now.sampled_out {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{told:?} {now:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn no_type() {
    // Passes the check (we are root) and fails for want of a type: nothing is made, and no module is looked for.
    // SAFETY: NUL-terminated strings, and null where nothing is given.
    let mounted =
        unsafe { libc::mount(c"none".as_ptr(), c"/".as_ptr(), std::ptr::null(), 0, std::ptr::null()) };
    assert_eq!(mounted, -1);
}

/// More checks than the ring holds, faster than they are read: every one is kept, counted, or counted as lost.
#[tokio::test]
async fn every_check_is_kept_counted_or_lost() {
    let Some(live) = Live::start() else { return };
    const THREADS: u64 = 2;
    const EACH: u64 = 40_000;
    let before = live.observer.status();
    let threads: Vec<_> =
        (0..THREADS).map(|_| std::thread::spawn(|| (0..EACH).for_each(|_| no_type()))).collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let after = live.quiet().await;
    let produced = after.kernel.produced - before.kernel.produced;
    eprintln!("burst: {after:?}");
    assert!(produced >= THREADS * EACH, "{produced} checks were produced");
    assert_eq!(after.seen + after.sampled_out + after.kernel.lost, after.kernel.produced);
    let told = after.allowed + after.denied + after.failed;
    assert_eq!(told, after.seen + after.sampled_out, "every record had our layout");
    assert!(after.failed - before.failed >= THREADS * EACH, "each mount has failed, with no check denied");
    assert!(after.sampled_out > before.sampled_out, "a burst is not kept one by one");
    live.told_by_reason().await;
    live.calm().await;
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// A pod in a loop of denied mounts, at whatever rate this machine gives, and another one that does a few things
/// and fails at them: all of the latter are kept and explained, and the memory does not grow with the former.
#[tokio::test]
async fn a_flood_hides_nobody_and_takes_no_memory() {
    let Some(live) = Live::start() else { return };
    const SECONDS: u64 = 4;
    // Threads in a user namespace of their own, whose mounts of the host's cgroup type are all denied.
    let flooder = "exec unshare --user --map-root-user perl -e '\
        my $n = 0; my $end = time + '$SECONDS'; my $t = \"tmpfs\\0\"; my $d = \"/mnt\\0\"; \
        while (1) { for (1..500) { syscall(165, $t, $d, $t, 0, 0); $n++ } last if time >= $end } print $n'";
    let before = live.observer.status();
    let (memory, started) = (resident(), std::time::Instant::now());
    let mut floods: Vec<_> =
        (0..2).map(|_| live.spawn(&flooder.replace("'$SECONDS'", &SECONDS.to_string()))).collect();
    for (n, flood) in floods.iter_mut().enumerate() {
        live.pods.upsert(PodKeys {
            id: PodId::from_string(format!("f{n}").repeat(32)),
            name: format!("test/flood{n}"),
            created_at_ns: live.since_ns,
            flow: FlowKind::RuntimeFirst,
            namespaces: Vec::new(),
            processes: vec![ProcessKey {
                pid: i32::try_from(flood.id()).unwrap(),
                role: "infra".to_string(),
            }],
            netns_made: None,
        });
        use std::io::Write as _;
        flood.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut explained = 0;
    const QUIET: usize = 5;
    for _ in 0..QUIET {
        let ran = live.run("exec unshare --user --map-root-user --mount mount -t proc proc $D", true);
        let (check, _) = live.failure(&ran).await;
        assert!(matches!(check.reason, Some(Reason::ProcWithoutOwnPidns { .. })), "{check:#?}");
        explained += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut made = 0;
    for flood in floods {
        let out = flood.wait_with_output().unwrap();
        made +=
            String::from_utf8_lossy(&out.stdout).trim().parse::<u64>().unwrap_or_else(|_| panic!("{out:?}"));
    }
    let seconds = started.elapsed().as_secs_f64();
    let after = live.quiet().await;
    let grown = resident().saturating_sub(memory);
    let since = |f: fn(&Status) -> u64| f(&after) - f(&before);
    let flooded = live.observer.counts(&PodId::from_string("f0".repeat(32)));
    eprintln!(
        "{made} denied mounts in {seconds:.1} s ({:.0}/s): produced {}, kept {}, counted {}, lost {}; {explained} of \
         {QUIET} others explained; resident memory grew by {} KiB; history {} checks, {} KiB; pod flood0: {flooded:?}",
        made as f64 / seconds,
        since(|s| s.kernel.produced),
        since(|s| s.seen),
        since(|s| s.sampled_out),
        since(|s| s.kernel.lost),
        grown / 1024,
        after.kept,
        after.history_bytes / 1024,
    );
    assert_eq!(explained, QUIET);
    assert_eq!(after.seen + after.sampled_out + after.kernel.lost, after.kernel.produced);
    assert_eq!(after.allowed + after.denied + after.failed, after.seen + after.sampled_out);
    assert!(since(|s| s.kernel.produced) >= made, "each mount is a check");
    assert!(flooded.sampled_out > flooded.denied / 2, "{flooded:?}");
    assert!(grown < 16 << 20, "{grown} bytes");
}
