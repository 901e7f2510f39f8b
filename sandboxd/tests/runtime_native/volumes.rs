//! Volumes: read-only ones, and mounts that appear on either side later.

use std::fs;
use std::path::PathBuf;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use sandboxd::runtime::Exit;

use super::bench_box::{Box, Given};
use super::setup::need_root;

/// A shared tmpfs of the host with one beneath it. Taken away when dropped.
struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        tmpfs(dir.path().to_owned());
        rustix::mount::mount_change(dir.path(), MountPropagationFlags::SHARED).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::create_dir(dir.path().join("later")).unwrap();
        tmpfs(dir.path().join("sub"));
        fs::write(dir.path().join("sub/file"), "x").unwrap();
        Self { dir }
    }

    fn path(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    fn mounts(&self) -> usize {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        mountinfo.lines().filter(|line| line.contains(self.path())).count()
    }
}

fn tmpfs(path: PathBuf) {
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::empty(), None).unwrap();
}

impl Drop for Tree {
    fn drop(&mut self) {
        for mount in ["later", "sub", ""] {
            let _ = rustix::mount::unmount(self.dir.path().join(mount), UnmountFlags::DETACH);
        }
    }
}

#[tokio::test]
async fn read_only_volumes_and_recursively_so() {
    need_root!();
    for user in [true, false] {
        let tree = Tree::new();
        let pod = Box::pod(user).await;
        let script = "touch /v/x 2>/dev/null && echo rw; touch /v/sub/x 2>/dev/null && echo rw beneath; \
                      cat /v/sub/file; true";
        let before = tree.mounts();
        let run = |options| pod.output(Given::shell(script).mount("/v", "bind", tree.path(), options));
        // The files are the host root's, which means nothing in the pod's user namespace.
        if !user {
            assert_eq!(run("rbind rw").await, ["rw", "rw beneath", "x"]);
            assert_eq!(run("rbind ro").await, ["rw beneath", "x"]);
        }
        assert_eq!(run("rbind rro").await, ["x"]);
        assert_eq!(tree.mounts(), before, "mounts of the host came or went");
        pod.end().await;
        assert_eq!(tree.mounts(), before, "mounts of the host came or went");
    }
}

#[tokio::test]
async fn what_the_host_mounts_appears_and_private_volumes_do_not_see_it() {
    need_root!();
    for user in [true, false] {
        let tree = Tree::new();
        let pod = Box::pod(user).await;
        let script =
            "touch /tmp/up; while [ ! -e /slave/later/new ]; do sleep 0.05; done; ls /private/later | wc -l";
        let given = Given::shell(script).mount("/slave", "bind", tree.path(), "rbind rslave").mount(
            "/private",
            "bind",
            tree.path(),
            "rbind rprivate",
        );
        let (task, log) = pod.make(given).await;
        task.start().await.unwrap();
        tmpfs(tree.dir.path().join("later"));
        fs::write(tree.dir.path().join("later/new"), "x").unwrap();
        let ended = tokio::time::timeout(std::time::Duration::from_secs(10), task.wait()).await.unwrap();
        assert_eq!((ended.exit, log.lines()), (Exit::Code(0), vec!["stdout F 0".to_owned()]));
        task.remove().await.unwrap();
        let before = tree.mounts();
        pod.end().await;
        assert_eq!(tree.mounts(), before, "mounts of the host went with the pod");
    }
}

#[tokio::test]
async fn what_a_bidirectional_volume_gets_reaches_the_host() {
    need_root!();
    for user in [true, false] {
        let tree = Tree::new();
        let pod = Box::pod(user).await;
        let given =
            Given::shell("mount -t tmpfs tmpfs /v/later && touch /v/later/from-container && sleep 60")
                .mount("/v", "bind", tree.path(), "rbind rshared")
                .process(|process| {
                    let all = Some(sandboxd::runtime::capabilities::own().unwrap());
                    let mut sets = process.capabilities().clone().unwrap();
                    sets.set_bounding(all.clone()).set_permitted(all.clone()).set_effective(all);
                    process.set_capabilities(Some(sets));
                });
        let (task, log) = pod.make(given).await;
        task.start().await.unwrap();
        for _ in 0..100 {
            if tree.dir.path().join("later/from-container").exists() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        assert!(tree.dir.path().join("later/from-container").exists(), "user {user}: {:?}", log.lines());
        task.remove().await.unwrap();
        pod.end().await;
    }
}

#[tokio::test]
async fn an_idmapped_volume_is_the_pods_and_others_are_refused() {
    need_root!();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "x").unwrap();
    let pod = Box::pod(true).await;
    let run =
        |source: &str| Given::shell("stat -c %u:%g /v/file").mount("/v", "bind", source, "rbind rw idmap");
    assert_eq!(pod.output(run(dir.path().to_str().unwrap())).await, ["0:0"]);
    let error = pod.try_make(run("/proc")).await.0.expect_err("proc was idmapped");
    let words = super::setup::chain(&error);
    assert!(words.contains("/proc") && words.contains("idmap"), "{words}");
    pod.end().await;
}
