//! What a check costs. Measured, not asserted.

use super::*;

/// Medians of five rounds; run with `--ignored --nocapture`, best in the release profile.
#[test]
#[ignore = "a measurement, not a test"]
fn the_cost_of_a_check() {
    fn median(call: impl Fn()) -> f64 {
        const CALLS: u32 = 200_000;
        let mut rounds: Vec<_> = (0..5)
            .map(|_| {
                let start = std::time::Instant::now();
                (0..CALLS).for_each(|_| call());
                start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS)
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        rounds[2]
    }
    let measure = |what: &str| {
        // SAFETY: no arguments.
        let getppid = median(|| unsafe {
            libc::syscall(libc::SYS_getppid);
        });
        // SAFETY: a NUL-terminated string.
        let chroot = median(|| unsafe {
            libc::syscall(libc::SYS_chroot, c"/".as_ptr());
        });
        // SAFETY: a NUL-terminated string and no flags.
        let fsopen = median(|| unsafe {
            libc::syscall(libc::SYS_fsopen, c"no-such".as_ptr(), 0);
        });
        let pss = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let pss = pss.lines().find(|line| line.starts_with("Pss:")).unwrap();
        eprintln!(
            "{what}: getppid {getppid:.0} ns, chroot (not recorded) {chroot:.0} ns, \
             fsopen (recorded) {fsopen:.0} ns; {pss}"
        );
    };
    measure("without");
    for (results, all_capabilities) in
        [(SyscallResults::Off, false), (SyscallResults::On, false), (SyscallResults::Off, true)]
    {
        let start = std::time::Instant::now();
        let wanted = ObserverSettings { results, all_capabilities, ..settings() };
        let observer = Observer::start(&wanted, Arc::default());
        if all_capabilities {
            let own = std::fs::metadata("/proc/self/ns/mnt").unwrap().ino();
            let id = ContainerId::from_string("measured".to_string());
            measure("all capabilities, of others");
            assert!(observer.watch_container(&id, NsInode(own)));
            measure("all capabilities, of a watched container");
            eprintln!("{:?}", observer.all_capabilities(&id));
            continue;
        }
        eprintln!("started in {:?}", start.elapsed());
        measure(&format!("with, results {results:?}"));
        eprintln!("{:?}", observer.status());
        let start = std::time::Instant::now();
        drop(observer);
        eprintln!("stopped in {:?}", start.elapsed());
    }
    measure("after");
}
