//! Real files with real labels: without SELinux in the kernel root may write any.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::XattrFlags;
use rustix::mount::{MountFlags, UnmountFlags};

use super::*;
use crate::container::rootfs::tests::{disk, root_only};

const LABEL: &str = "system_u:object_r:container_file_t:s0:c1,c2";
/// Uncancelled.
fn relabel(path: &Path, label: &str) -> Result<Relabelled, RelabelError> {
    super::relabel(path, label, &AtomicBool::new(false))
}

const OTHER: &str = "system_u:object_r:container_file_t:s0:c1,c2,c3";

/// Directories where files take labels.
fn place() -> Option<tempfile::TempDir> {
    if !root_only() {
        return None;
    }
    let dir = disk();
    match set(dir.path(), OTHER) {
        Ok(()) => Some(dir),
        Err(errno) => {
            eprintln!("SKIPPED: {} takes no security.selinux: {errno}", dir.path().display());
            None
        }
    }
}

fn set(path: &Path, label: &str) -> Result<(), Errno> {
    rustix::fs::lsetxattr(path, c"security.selinux", label.as_bytes(), XattrFlags::empty())
}

fn label(path: &Path) -> Option<String> {
    let mut buffer = [0; 256];
    let length = rustix::fs::lgetxattr(path, c"security.selinux", &mut buffer[..]).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn changed(path: &Path) -> (i64, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.ctime(), meta.ctime_nsec())
}

#[test]
fn a_walk_that_nobody_waits_for_ends() {
    let Some(dir) = place() else { return };
    fs::write(dir.path().join("f"), "").unwrap();
    let cancelled = super::relabel(dir.path(), LABEL, &AtomicBool::new(true));
    assert!(matches!(cancelled, Err(RelabelError::Cancelled { .. })), "{cancelled:?}");
    assert_eq!(label(dir.path()).as_deref(), Some(OTHER), "the top is last");
}

#[test]
fn everything_of_a_tree_is_relabelled_and_nothing_it_points_at() {
    let Some(dir) = place() else { return };
    let (outside, top) = (dir.path().join("outside"), dir.path().join("top"));
    fs::create_dir_all(outside.join("sub")).unwrap();
    fs::write(outside.join("sub/f"), "").unwrap();
    fs::create_dir_all(top.join("a/b/c")).unwrap();
    fs::create_dir(top.join("empty")).unwrap();
    for file in ["f", "a/f", "a/b/c/f", "a/with\nline"] {
        fs::write(top.join(file), "").unwrap();
    }
    symlink(&outside, top.join("a/out")).unwrap();
    symlink(outside.join("sub/f"), top.join("file-out")).unwrap();
    symlink("../../outside", top.join("a/up")).unwrap();
    rustix::fs::mknodat(CWD, top.join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
    rustix::fs::mknodat(CWD, top.join("null"), rustix::fs::FileType::CharacterDevice, Mode::RWXU, 0x103)
        .unwrap();
    set(&top.join("a/f"), OTHER).unwrap();

    let done = relabel(&top, LABEL).unwrap();
    let all = [
        "",
        "a",
        "a/b",
        "a/b/c",
        "empty",
        "f",
        "a/f",
        "a/b/c/f",
        "a/with\nline",
        "a/out",
        "file-out",
        "a/up",
        "pipe",
        "null",
    ];
    assert_eq!(done, Relabelled { changed: all.len() as u64, mounts: 0, kept: None });
    assert_eq!(done.warning(&top), None);
    for path in all {
        assert_eq!(label(&top.join(path)).as_deref(), Some(LABEL), "{path}");
    }
    assert_eq!(label(dir.path()).as_deref(), Some(OTHER));
    for path in ["", "sub", "sub/f"] {
        assert_eq!(label(&outside.join(path)), None, "{path}");
    }

    // Again: nothing is written. What has another label is found beneath a top that has the right one.
    let before = all.map(|path| changed(&top.join(path)));
    assert_eq!(relabel(&top, LABEL).unwrap().changed, 0);
    assert_eq!(all.map(|path| changed(&top.join(path))), before);
    set(&top.join("a/b/c/f"), OTHER).unwrap();
    // As the kernel may show it.
    set(&top.join("f"), &format!("{LABEL}\0")).unwrap();
    assert_eq!(relabel(&top, LABEL).unwrap().changed, 1);
    assert_eq!(label(&top.join("a/b/c/f")).as_deref(), Some(LABEL));

    // A file as a source, as kubelet mounts /etc/hosts.
    assert_eq!(relabel(&outside.join("sub/f"), LABEL).unwrap().changed, 1);
    assert_eq!(label(&outside.join("sub")), None);
}

#[test]
fn what_is_the_nodes_own_is_refused() {
    let link = fs::canonicalize("/bin").unwrap();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    for path in ["/", "/usr", "/usr/", "/etc", "/etc/shadow", "/var/lib", "/home", "/tmp"].map(PathBuf::from)
    {
        let error = relabel(&path, LABEL).unwrap_err();
        assert!(matches!(&error, RelabelError::NodesOwn { path: named } if *named == path), "{error}");
    }
    for path in home.into_iter().chain([link]) {
        assert!(matches!(relabel(&path, LABEL), Err(RelabelError::NodesOwn { .. })), "{}", path.display());
    }
    let text = relabel(Path::new("/etc"), LABEL).unwrap_err().to_string();
    assert!(text.starts_with("/etc ") && text.contains("leave selinux_relabel out"), "{text}");
}

#[test]
fn a_source_that_became_a_link_is_not_followed() {
    let Some(dir) = place() else { return };
    let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
    fs::create_dir_all(outside.join("sub")).unwrap();
    symlink(&outside, &top).unwrap();
    let error = relabel(&top.join("sub"), LABEL).unwrap_err();
    assert!(matches!(&error, RelabelError::Io { action: "opening", .. }), "{error}");
    // The link itself may be labelled.
    relabel(&top, LABEL).unwrap();
    assert_eq!((label(&outside), label(&outside.join("sub"))), (None, None));
}

#[test]
fn mounts_beneath_keep_their_labels_and_read_only_ones_are_no_error() {
    let Some(dir) = place() else { return };
    let top = dir.path().join("top");
    let (beneath, tmpfs) = (top.join("beneath"), dir.path().join("tmpfs"));
    fs::create_dir_all(&beneath).unwrap();
    fs::create_dir(&tmpfs).unwrap();
    rustix::mount::mount("tmpfs", &tmpfs, "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(tmpfs.join("f"), "").unwrap();
    rustix::mount::mount_bind(&tmpfs, &beneath).unwrap();
    let over = relabel(&top, LABEL);
    let untouched = (label(&beneath), label(&beneath.join("f")));
    rustix::mount::mount_remount(&tmpfs, MountFlags::RDONLY, "").unwrap();
    let read_only = relabel(&tmpfs, LABEL);
    rustix::mount::unmount(&beneath, UnmountFlags::DETACH).unwrap();
    rustix::mount::unmount(&tmpfs, UnmountFlags::DETACH).unwrap();

    let over = over.unwrap();
    assert_eq!(over, Relabelled { changed: 1, mounts: 1, kept: None });
    assert!(over.warning(&top).unwrap().contains("1 mounts beneath"));
    assert_eq!(untouched, (None, None));
    let read_only = read_only.unwrap();
    assert_eq!(read_only, Relabelled { changed: 0, mounts: 0, kept: Some(Kept::ReadOnly) });
    assert!(read_only.warning(&tmpfs).unwrap().contains("is read-only"));
    // A file system without such attributes.
    let proc = fs::canonicalize("/proc/self/fdinfo").unwrap();
    let unsupported = relabel(&proc, LABEL).unwrap();
    assert_eq!((unsupported.changed, unsupported.kept), (0, Some(Kept::Unsupported)));
    assert!(unsupported.warning(&proc).unwrap().contains("takes no labels"));
}

#[test]
fn a_deep_tree_takes_few_descriptors_and_one_beyond_all_paths_is_named() {
    let Some(dir) = place() else { return };
    let top = dir.path().join("top");
    fs::create_dir(&top).unwrap();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut deepest = rustix::fs::open(&top, flags, Mode::empty()).unwrap();
    let mut deeper = |count: usize| {
        for _ in 0..count {
            rustix::fs::mkdirat(&deepest, "d", Mode::RWXU).unwrap();
            deepest = rustix::fs::openat(&deepest, "d", flags, Mode::empty()).unwrap();
        }
    };
    deeper(1500);
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let (before, end) = (open(), AtomicBool::new(false));
    let most = std::thread::scope(|scope| {
        let most = scope.spawn(|| {
            let mut most = 0;
            while !end.load(Ordering::Relaxed) {
                most = most.max(open());
            }
            most
        });
        let done = relabel(&top, LABEL);
        end.store(true, Ordering::Relaxed);
        assert_eq!(done.unwrap().changed, 1501);
        most.join().unwrap()
    });
    // The other tests of this process have theirs.
    assert!(most < before + 500, "{before} descriptors before, {most} meanwhile");
    deeper(1000);
    let error = relabel(&top, LABEL).unwrap_err();
    assert!(matches!(&error, RelabelError::TooDeep { .. }), "{error}");
    assert!(error.to_string().contains(&*top.to_string_lossy()), "{error}");
}

/// Somebody who writes to the volume swaps a directory for a link to files of the node all the while, and moves
/// directories out of the volume and back.
#[test]
fn a_tree_that_is_changed_meanwhile_leads_nowhere_else() {
    let Some(dir) = place() else { return };
    let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
    fs::create_dir_all(outside.join("b/d")).unwrap();
    fs::create_dir_all(outside.join("c")).unwrap();
    let all = ["", "f", "b", "b/f", "b/d", "c", "c/f"];
    for file in ["f", "b/f", "c/f"] {
        fs::write(outside.join(file), "").unwrap();
    }
    for i in 0..20 {
        for path in ["a/b/d", "a/b/e", "a/c"] {
            fs::create_dir_all(top.join(format!("{i}/{path}"))).unwrap();
        }
        fs::write(top.join(format!("{i}/a/f")), "").unwrap();
    }
    let link = dir.path().join("link");
    // As seen from where a directory was.
    symlink("../../outside", &link).unwrap();
    let end = AtomicBool::new(false);
    let done: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            let swap = |one: &Path| {
                let _ = rustix::fs::renameat_with(CWD, one, CWD, &link, rustix::fs::RenameFlags::EXCHANGE);
            };
            while !end.load(Ordering::Relaxed) {
                for i in 0..20 {
                    let directory = top.join(format!("{i}/a"));
                    let (here, there) = (directory.join("b"), outside.join("moved"));
                    let _ = fs::rename(&here, &there);
                    std::thread::sleep(std::time::Duration::from_micros(100));
                    let _ = fs::rename(&there, &here);
                    swap(&directory);
                    std::thread::sleep(std::time::Duration::from_micros(100));
                    swap(&directory);
                }
            }
        });
        let labels = [LABEL, OTHER].into_iter().cycle().take(300);
        let done = labels.map(|label| relabel(&top, label)).collect();
        end.store(true, Ordering::Relaxed);
        done
    });
    for done in done {
        assert!(matches!(done, Ok(_) | Err(RelabelError::Moved { .. })), "{done:?}");
    }
    for path in all {
        assert_eq!(label(&outside.join(path)), None, "{path}");
    }
    // In peace all of it has the label.
    relabel(&top, LABEL).unwrap();
    assert_eq!(label(&top.join("7/a/b/d")).as_deref(), Some(LABEL));
}

#[test]
fn the_way_up_leads_only_where_it_came_from() {
    let Some(dir) = place() else { return };
    let (parent, child) = (dir.path().join("parent"), dir.path().join("parent/child"));
    fs::create_dir_all(&child).unwrap();
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let meant = walk::identity(open(&parent).as_fd()).unwrap();
    let current = open(&child);
    assert_eq!(walk::identity(walk::up(current.as_fd(), meant).unwrap().as_fd()).unwrap(), meant);
    fs::rename(&child, dir.path().join("elsewhere/child")).unwrap();
    assert!(matches!(walk::up(current.as_fd(), meant), Err(Stopped::Moved)));
}
