//! What is refused, what fails inside, and that nothing is left of it.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandboxd::pod::model::NsKind;
use sandboxd::pod::spec::Seccomp;
use sandboxd::runtime::{NetworkPlan, Runtime, RuntimeError, namespaces};

use super::setup::{Planned, chain, exists, need_root, runtime};

/// A network namespace of the host's user namespace, as the old order makes it before the pod.
fn older_netns() -> OwnedFd {
    std::thread::spawn(|| {
        // SAFETY: this thread shares nothing that the test relies on, and ends right away.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::open("/proc/thread-self/ns/net", flags, rustix::fs::Mode::empty()).unwrap()
    })
    .join()
    .unwrap()
}

async fn refused(planned: &Planned) -> RuntimeError {
    let before = HostMounts::now();
    let error = runtime().await.create(&planned.plan, &|_| ()).await.expect_err("it was made");
    before.assert_none_came();
    assert_eq!(std::fs::read_dir(&planned.plan.dir).unwrap().count(), 0, "files are left");
    error
}

/// The host's mount table at one time.
pub struct HostMounts(HashSet<String>);

impl HostMounts {
    pub fn now() -> Self {
        Self(std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().map(str::to_owned).collect())
    }

    /// That nothing stays mounted which was not there. What others on the machine mount meanwhile goes again.
    pub fn assert_none_came(&self) {
        let begun = Instant::now();
        let mut came = Vec::from_iter(Self::now().0);
        loop {
            let now = Self::now().0;
            came.retain(|mount| now.contains(mount) && !self.0.contains(mount));
            if came.is_empty() {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "in the host's table: {came:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[tokio::test]
async fn an_older_network_namespace_forbids_sysfs_and_the_error_says_where() {
    need_root!();
    let mut planned = Planned::userns();
    planned.plan.network = NetworkPlan::Join(Arc::new(older_netns()));
    match refused(&planned).await {
        RuntimeError::InPod { step, pid, source } => {
            assert_eq!(step, "mount sysfs on /sys");
            assert_eq!(source.raw_os_error(), Some(libc::EPERM));
            assert!(pid > 0 && !exists(pid), "{pid} is left");
        }
        other => panic!("{}", chain(&other)),
    }
}

#[tokio::test]
async fn an_older_network_namespace_is_fine_without_a_user_namespace() {
    need_root!();
    let netns = Arc::new(older_netns());
    let planned = Planned::with(None, NetworkPlan::Join(Arc::clone(&netns)));
    let infra = runtime().await.create(&planned.plan, &|_| ()).await.unwrap();
    let joined = infra.namespace(NsKind::Net).unwrap();
    let inode = |fd: &OwnedFd| namespaces::inode(std::os::fd::AsFd::as_fd(fd)).unwrap();
    assert_eq!(inode(&joined), inode(&netns));
    infra.kill().await.unwrap();
}

#[tokio::test]
async fn a_sysctl_that_does_not_take_names_itself_and_its_value() {
    need_root!();
    let mut planned = Planned::userns();
    planned.plan.spec.sysctls = [("net.ipv4.no_such_thing".to_owned(), "17".to_owned())].into();
    match refused(&planned).await {
        RuntimeError::InPod { step, source, .. } => {
            assert!(step.contains("net.ipv4.no_such_thing") && step.contains("17"), "{step}");
            assert_eq!(source.kind(), io::ErrorKind::NotFound);
        }
        other => panic!("{}", chain(&other)),
    }
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_before_anything_is() {
    need_root!();
    let mut unmapped = Planned::userns();
    unmapped.plan.spec.security.run_as_user = Some(70_000);
    let mut profile = Planned::plain();
    profile.plan.spec.security.seccomp = Seccomp::Localhost(PathBuf::from("/no/such/profile.json"));
    let mut sysctl = Planned::with(None, NetworkPlan::Host);
    sysctl.plan.spec.sysctls = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into();
    let mut dns = Planned::plain();
    dns.plan.resolv_conf = vec![b'#'; 20_000];
    for (planned, word) in [
        (unmapped, "70000"),
        (profile, "/no/such/profile.json"),
        (sysctl, "ip_forward"),
        (dns, "resolv.conf"),
    ] {
        match refused(&planned).await {
            RuntimeError::Unsupported { what } => assert!(what.contains(word), "{what}"),
            other => panic!("{}", chain(&other)),
        }
    }
}

#[tokio::test]
async fn a_filter_that_forbids_exec_fails_the_start_and_leaves_nothing() {
    need_root!();
    let mut planned = Planned::userns();
    let profile = planned.plan.dir.with_extension("json");
    let rule = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["execve", "execveat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5}]}"#;
    std::fs::write(&profile, rule).unwrap();
    planned.plan.spec.security.seccomp = Seccomp::Localhost(profile.clone());
    let infra = runtime().await.create(&planned.plan, &|_| ()).await.unwrap();
    match infra.start().await.expect_err("it started") {
        RuntimeError::InPod { step, source, .. } => {
            assert_eq!((step.as_str(), source.raw_os_error()), ("exec /pause", Some(5)));
        }
        other => panic!("{}", chain(&other)),
    }
    infra.kill().await.unwrap();
    assert!(!exists(infra.infra_pid()));
    std::fs::remove_file(profile).unwrap();
}
