//! The real hierarchies of the machine (as root), and v2 on a directory that looks like one.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command};
use std::time::Instant;

use super::*;

fn pod(id: &str) -> PodId {
    PodId::from_string(id.to_owned())
}

/// The machine's cgroups. `None`, with a line on stderr: not possible here.
pub(super) fn real(test: &str) -> Option<Cgroups> {
    let settings = CgroupSettings { driver: DriverChoice::Cgroupfs, ..CgroupSettings::default() };
    let cgroups = match Cgroups::detect(&settings) {
        Ok(cgroups) => cgroups,
        Err(error) => {
            skipped(test, &error.to_string());
            return None;
        }
    };
    let mount = cgroups.inner.layout.mounts().next().unwrap();
    if !rustix::process::geteuid().is_root()
        || rustix::fs::access(mount, rustix::fs::Access::WRITE_OK).is_err()
    {
        skipped(test, &format!("needs root and a writable {}", mount.display()));
        return None;
    }
    Some(cgroups)
}

/// Says that a test did not run, past the harness's capture.
pub(super) fn skipped(test: &str, reason: &str) {
    let line = format!("SKIPPED: {test}: {reason}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

pub(super) struct Sleeper(Child);

impl Sleeper {
    pub(super) fn new() -> Self {
        Self(Command::new("sleep").arg("60").spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn exists_anywhere(cgroups: &Cgroups, path: &str) -> bool {
    cgroups.inner.layout.mounts().any(|m| m.join(path.trim_start_matches('/')).exists())
}

#[test]
fn a_pods_cgroup_lives_and_goes_in_every_hierarchy() {
    let Some(cgroups) = real("cgroup") else { return };
    if cgroups.inner.layout.v1_of("memory").is_none() {
        skipped("cgroup", &format!("no memory controller on v1 here ({})", cgroups.describe()));
        return;
    }
    let planned = cgroups.plan("/sntcg-parent/inner", &pod("sntcg1")).unwrap();
    let resources = Resources {
        cpu_shares: Some(512),
        cpu_period: Some(100_000),
        cpu_quota: Some(20_000),
        memory_limit: Some(64 << 20),
        hugepage_limits: BTreeMap::from([("64kB".to_owned(), 0)]),
        ..Resources::default()
    };
    let overhead = Resources { memory_limit: Some(8 << 20), ..Resources::default() };
    let begun = Instant::now();
    let made = cgroups.create(&planned, &resources, &overhead).unwrap();
    let created = begun.elapsed();
    let sleeper = Sleeper::new();
    let begun = Instant::now();
    made.attach(sleeper.pid()).unwrap();
    eprintln!("{} cgroup: create {created:?}, attach {:?}", cgroups.describe(), begun.elapsed());

    let read = |controller: &str, file: &str| {
        let dir = planned.below(&cgroups.inner.layout.v1_of(controller).unwrap().mount);
        fs::read_to_string(dir.join(file)).unwrap().trim().to_owned()
    };
    assert_eq!(read("cpu", "cpu.shares"), "512");
    assert_eq!(read("cpu", "cpu.cfs_quota_us"), "20000");
    assert_eq!(read("memory", "memory.limit_in_bytes"), (72u64 << 20).to_string());
    assert!(!read("cpuset", "cpuset.cpus").is_empty());
    let membership = fs::read_to_string(format!("/proc/{}/cgroup", sleeper.pid())).unwrap();
    let outside: Vec<&str> = membership.lines().filter(|l| !l.ends_with(planned.path())).collect();
    assert!(outside.is_empty(), "not in the pod's cgroup: {outside:?}");

    // What the pod made inside goes too; what was there before it stays.
    let memory = &cgroups.inner.layout.v1_of("memory").unwrap().mount;
    fs::create_dir_all(planned.below(memory).join("nested/deeper")).unwrap();
    let busy = Instant::now();
    let ending = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(sleeper);
    });
    cgroups.remove(&planned).unwrap();
    assert!(busy.elapsed().as_millis() >= 150, "waited for the process to be gone");
    ending.join().unwrap();
    cgroups.remove(&planned).unwrap();
    assert!(!exists_anywhere(&cgroups, planned.path()));
    assert!(exists_anywhere(&cgroups, "/sntcg-parent/inner"), "a parent of the caller's is not removed");
    let Layout { v1, v2 } = &cgroups.inner.layout;
    for hierarchy in v1 {
        fs::remove_dir(hierarchy.mount.join("sntcg-parent/inner")).unwrap();
        fs::remove_dir(hierarchy.mount.join("sntcg-parent")).unwrap();
    }
    let beside = v2.as_ref().map(|mount| mount.join("sntcg-parent"));
    assert!(
        !beside.is_some_and(|dir| dir.exists()),
        "kubelet does not remove what it did not make beside v1"
    );
}

#[test]
fn what_v1_cannot_do_is_an_error_and_leaves_nothing() {
    let Some(cgroups) = real("cgroup errors") else { return };
    if cgroups.inner.layout.is_v2() {
        skipped("cgroup errors", "this machine is v2");
        return;
    }
    let planned = cgroups.plan("/sntcg-errors", &pod("sntcg2")).unwrap();
    let none = Resources::default();
    let unified = BTreeMap::from([("memory.high".to_owned(), "1".to_owned())]);
    let error = cgroups.create(&planned, &Resources { unified, ..none.clone() }, &none).unwrap_err();
    assert!(matches!(error, CgroupError::UnifiedOnV1 { .. }), "{error}");
    assert!(!exists_anywhere(&cgroups, "/sntcg-errors"));
    let wrong = Resources { cpuset_cpus: Some("4000".into()), ..none.clone() };
    let error = cgroups.create(&planned, &wrong, &none).unwrap_err();
    assert!(error.to_string().contains("4000") && error.to_string().contains("cpuset.cpus"), "{error}");
    assert!(!exists_anywhere(&cgroups, planned.path()), "the half-made one is gone");
    for mount in cgroups.inner.layout.mounts() {
        // Beside v1 it went with what was in it.
        let _ = fs::remove_dir(mount.join("sntcg-errors"));
    }
    let made = cgroups.create(&cgroups.plan("", &pod("sntcg3")).unwrap(), &none, &none).unwrap();
    let error = made.attach(i32::MAX).unwrap_err();
    cgroups.remove(made.cgroup()).unwrap();
    assert!(
        matches!(&error, CgroupError::Write { source, .. } if source.raw_os_error() == Some(libc::ESRCH)),
        "{error}"
    );
}

#[test]
fn many_pods_share_the_default_parent_and_the_last_takes_it_along() {
    let Some(cgroups) = real("cgroup default parent") else { return };
    let none = Resources::default();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let (cgroups, none) = (&cgroups, &none);
            scope.spawn(move || {
                for round in 0..10 {
                    let planned = cgroups.plan("", &pod(&format!("sntmany-{n}-{round}"))).unwrap();
                    cgroups.create(&planned, none, none).unwrap();
                    cgroups.remove(&planned).unwrap();
                }
            });
        }
    });
    eprintln!("80 cgroups made and removed by 8 threads: {:?}", begun.elapsed());
    assert!(
        !(0..8).any(|n| (0..10).any(|r| exists_anywhere(&cgroups, &format!("/sandboxd/sntmany-{n}-{r}"))))
    );
}

#[test]
fn scores_change_for_those_that_did_not_choose_their_own() {
    let Some(cgroups) = real("oom scores") else { return };
    let planned = cgroups.plan("", &pod("sntscore")).unwrap();
    let made = cgroups.create(&planned, &Resources::default(), &Resources::default()).unwrap();
    let (one, own, outside) = (Sleeper::new(), Sleeper::new(), Sleeper::new());
    let path = |sleeper: &Sleeper| format!("/proc/{}/oom_score_adj", sleeper.pid());
    let score = |sleeper: &Sleeper| fs::read_to_string(path(sleeper)).unwrap().trim().to_owned();
    let before: i32 = score(&one).parse().unwrap();
    fs::write(path(&own), "900").unwrap();
    made.attach(one.pid()).unwrap();
    made.attach(own.pid()).unwrap();
    cgroups.set_oom_score(&planned, before, 700).unwrap();
    assert_eq!([score(&one), score(&own), score(&outside)], ["700".into(), "900".into(), before.to_string()]);
    cgroups.kill(&planned).unwrap();
    drop((one, own));
    cgroups.remove(&planned).unwrap();
    // What is gone has no processes.
    cgroups.set_oom_score(&planned, before, 700).unwrap();
}

#[test]
fn kill_ends_everything() {
    let Some(cgroups) = real("cgroup kill") else { return };
    let planned = cgroups.plan("", &pod("sntkill")).unwrap();
    let made = cgroups.create(&planned, &Resources::default(), &Resources::default()).unwrap();
    let mut sleeper = Sleeper::new();
    made.attach(sleeper.pid()).unwrap();
    cgroups.kill(&planned).unwrap();
    assert!(!sleeper.0.wait().unwrap().success());
    drop(sleeper);
    cgroups.remove(&planned).unwrap();
    // What is gone has no processes.
    cgroups.kill(&planned).unwrap();
}

#[test]
fn kill_ends_everything_without_cgroup_kill() {
    let Some(cgroups) = real("cgroup kill process by process") else { return };
    let mut layout = cgroups.inner.layout.clone();
    if layout.is_v2() {
        return skipped("cgroup kill process by process", "this machine has cgroup2 alone");
    }
    let planned = cgroups.plan("", &pod("sntkill1")).unwrap();
    let made = cgroups.create(&planned, &Resources::default(), &Resources::default()).unwrap();
    let mut sleeper = Sleeper::new();
    made.attach(sleeper.pid()).unwrap();
    layout.v2 = None;
    // The child of this test stays in the list until it is reaped.
    let reaper = std::thread::spawn(move || {
        let status = sleeper.0.wait().unwrap();
        drop(sleeper);
        status
    });
    files::kill(&layout, &planned).unwrap();
    assert!(!reaper.join().unwrap().success());
    cgroups.remove(&planned).unwrap();
}

/// A directory that looks like a cgroup2 with some controllers.
pub(super) struct FakeV2 {
    pub(super) dir: tempfile::TempDir,
    pub(super) cgroups: Cgroups,
}

impl FakeV2 {
    /// Makes the files that the kernel would make in each of the directories.
    pub(super) fn new(controllers: &str, dirs: &[&str], files: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for sub in [""].iter().chain(dirs) {
            let path = dir.path().join(sub);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("cgroup.controllers"), controllers).unwrap();
            for file in ["cgroup.subtree_control", "cgroup.procs"].iter().chain(files) {
                fs::write(path.join(file), "").unwrap();
            }
        }
        let mountinfo = format!("30 23 0:26 / {} rw - cgroup2 cgroup2 rw", dir.path().display());
        let layout = Layout::parse(&mountinfo, dir.path()).unwrap();
        let inner = Inner { layout, driver: Driver::Cgroupfs, busctl: PathBuf::new() };
        Self { dir, cgroups: Cgroups { inner: Arc::new(inner) } }
    }

    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.dir.path().join(path)).unwrap()
    }
}

// cri: LinuxContainerResources.unified
#[test]
fn v2_enables_controllers_and_writes_its_files() {
    let files = ["cpu.weight", "cpu.max", "memory.max", "memory.swap.max", "memory.high", "cgroup.kill"];
    let fake = FakeV2::new("cpu", &["kubepods", "kubepods/p1"], &files);
    assert_eq!(fake.cgroups.describe(), "v2");
    let planned = fake.cgroups.plan("/kubepods", &pod("p1")).unwrap();
    let resources = Resources {
        cpu_shares: Some(1024),
        cpu_quota: Some(-1),
        cpu_period: Some(100_000),
        memory_limit: Some(100),
        memory_swap_limit: Some(150),
        unified: BTreeMap::from([("memory.high".to_owned(), "90".to_owned())]),
        ..Resources::default()
    };
    let made = fake.cgroups.create(&planned, &resources, &Resources::default()).unwrap();
    made.attach(77).unwrap();
    fake.cgroups.kill(&planned).unwrap();
    for (file, value) in [
        ("cgroup.subtree_control", "+cpu"),
        ("kubepods/cgroup.subtree_control", "+cpu"),
        ("kubepods/p1/cgroup.subtree_control", ""),
        ("kubepods/p1/cpu.weight", "100"),
        ("kubepods/p1/cpu.max", "max 100000"),
        ("kubepods/p1/memory.max", "100"),
        ("kubepods/p1/memory.swap.max", "50"),
        ("kubepods/p1/memory.high", "90"),
        ("kubepods/p1/cgroup.procs", "77"),
        ("kubepods/p1/cgroup.kill", "1"),
    ] {
        assert_eq!(fake.read(file), value, "{file}");
    }
}

#[test]
fn v2_names_what_is_missing() {
    let fake = FakeV2::new("cpu memory", &["sandboxd", "sandboxd/p1"], &["memory.max"]);
    let planned = fake.cgroups.plan("", &pod("p1")).unwrap();
    // A fake directory cannot be removed with its files in it: the limits are tried alone.
    let error = |resources: &Resources| {
        let limits = Limits::of(resources, &Resources::default()).unwrap();
        files::limit(&fake.cgroups.inner.layout, &planned, &limits.v2().unwrap()).unwrap_err().to_string()
    };
    let swap = Resources { memory_limit: Some(5), memory_swap_limit: Some(6), ..Resources::default() };
    let text = error(&swap);
    assert!(text.contains("memory.swap.max = 1") && text.contains("swap accounting"), "{text}");
    let cpuset = Resources { cpuset_cpus: Some("0".into()), ..Resources::default() };
    let text = error(&cpuset);
    assert!(text.contains("cpuset controller") && text.contains("v2"), "{text}");
    let huge = Resources { hugepage_limits: BTreeMap::from([("2MB".to_owned(), 7)]), ..Resources::default() };
    assert!(error(&huge).contains("hugetlb.2MB.max = 7"));
}

#[test]
fn a_root_without_cgroups_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let settings = CgroupSettings { driver: DriverChoice::Cgroupfs, root: dir.path().to_owned() };
    assert!(matches!(Cgroups::detect(&settings), Err(CgroupError::NotMounted { .. })));
}
