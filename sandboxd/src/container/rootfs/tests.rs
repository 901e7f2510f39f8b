//! Real overlays on the machine's own file system.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

use sandboxd_image::LayerId;

use super::detached::{on_thread, own_namespace};
use super::*;
use crate::pod::spec::IdMap;

const BASE: u32 = 4_221_435_904;

/// A user namespace, held by a process that sleeps.
pub(crate) struct Held {
    child: Child,
    pub(crate) fd: OwnedFd,
    pub(crate) maps: IdMappings,
}

impl Held {
    pub(crate) fn new() -> Self {
        let mut command = Command::new("sleep");
        command.arg("600");
        // SAFETY: one system call, allowed after fork.
        unsafe {
            command.pre_exec(|| {
                rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER).map_err(io::Error::from)
            });
        }
        let child = command.spawn().unwrap();
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{file}", child.id()), format!("0 {BASE} 65536")).unwrap();
        }
        let fd = fs::File::open(format!("/proc/{}/ns/user", child.id())).unwrap().into();
        let map = vec![IdMap { container_id: 0, host_id: BASE, length: 65536 }];
        Self { child, fd, maps: IdMappings { uids: map.clone(), gids: map } }
    }

    pub(crate) fn userns(&self) -> Userns<'_> {
        Userns { fd: self.fd.as_fd(), maps: &self.maps }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn root_only() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: mounting needs root");
    }
    root
}

/// Beside the build, not in a tmpfs: there are images' disks.
pub(crate) fn disk() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

pub(crate) fn layer(path: PathBuf) -> Layer {
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Layer { id: LayerId(format!("sha256:{}", path.display())), path, max_uid: 0, max_gid: 0 }
}

fn layers(dir: &Path, count: usize) -> Vec<Layer> {
    (0..count)
        .map(|i| {
            let layer = layer(dir.join(format!("layers/{i}")));
            fs::write(layer.path.join("same"), i.to_string()).unwrap();
            fs::write(layer.path.join(format!("only-{i}")), "").unwrap();
            layer
        })
        .collect()
}

fn read(root: &OwnedFd, path: &str) -> String {
    use std::io::Read as _;
    let mut text = String::new();
    let fd = open_beneath(root.as_fd(), path, OFlags::RDONLY).unwrap();
    fs::File::from(fd).read_to_string(&mut text).unwrap();
    text
}

fn owner(root: &OwnedFd, path: &str) -> (u32, u32) {
    let fd = open_beneath(root.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW).unwrap();
    let stat = rustix::fs::fstat(fd).unwrap();
    (stat.st_uid, stat.st_gid)
}

/// What a process of the container's root would do: a file of its own.
fn write_as(root: &OwnedFd, path: &str, id: u32) {
    on_thread(|| {
        // SAFETY: plain numbers; this thread ends here.
        unsafe {
            libc::syscall(libc::SYS_setfsgid, id);
            libc::syscall(libc::SYS_setfsuid, id);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(root, path, flags, Mode::from_raw_mode(0o644)).unwrap();
        rustix::io::write(fd, b"written").unwrap();
        Ok(())
    })
    .unwrap();
}

fn host_table() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

#[test]
fn layers_lie_upon_each_other() {
    if !root_only() {
        return;
    }
    let dir = disk();
    for count in [1, 3, 80] {
        let layers = layers(&dir.path().join(count.to_string()), count);
        let made = root(&layers, &dir.path().join(format!("c{count}")), None).unwrap();
        assert_eq!(read(&made.mount, "same"), (count - 1).to_string());
        assert_eq!(read(&made.mount, "only-0"), "");
        write_as(&made.mount, "new", 0);
        assert_eq!(fs::read_to_string(dir.path().join(format!("c{count}/upper/new"))).unwrap(), "written");
        assert!(!host_table().contains(&*dir.path().to_string_lossy()));
    }
}

#[test]
fn in_a_user_namespace_the_upper_directory_has_the_containers_ids() {
    if !root_only() {
        return;
    }
    let dir = disk();
    let held = Held::new();
    for count in [1, 3, 80] {
        let layers = layers(&dir.path().join(count.to_string()), count);
        std::os::unix::fs::chown(layers[0].path.join("only-0"), Some(33), Some(34)).unwrap();
        let made = root(&layers, &dir.path().join(format!("c{count}")), Some(held.userns())).unwrap();
        assert_eq!(made.warnings, Vec::<String>::new());
        assert_eq!(read(&made.mount, "same"), (count - 1).to_string());
        assert_eq!(owner(&made.mount, "only-0"), (BASE + 33, BASE + 34));
        assert_eq!(owner(&made.mount, "/"), (BASE, BASE));
        write_as(&made.mount, "new", BASE);
        // Copied up.
        write_as(&made.mount, "same", BASE);
        let upper = dir.path().join(format!("c{count}/upper"));
        for name in ["new", "same"] {
            let meta = fs::metadata(upper.join(name)).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (0, 0), "{name}");
        }
        assert!(!host_table().contains(&*dir.path().to_string_lossy()));
    }
}

#[test]
fn no_layers_and_the_same_layer_twice() {
    if !root_only() {
        return;
    }
    let dir = disk();
    let held = Held::new();
    for userns in [None, Some(held.userns())] {
        let name = if userns.is_some() { "u" } else { "h" };
        let made = root(&[], &dir.path().join(name).join("none"), userns).unwrap();
        write_as(&made.mount, "new", userns.map_or(0, |_| BASE));
        let mut twice = layers(&dir.path().join(name), 2);
        twice.push(twice[0].clone());
        let made = root(&twice, &dir.path().join(name).join("twice"), userns).unwrap();
        assert_eq!(read(&made.mount, "same"), "0");
    }
    let many: Vec<Layer> =
        (0..=LAYERS_MAX).map(|i| Layer { path: format!("/l/{i}").into(), ..twice_id(i) }).collect();
    assert!(matches!(root(&many, dir.path(), None), Err(RootfsError::TooManyLayers { count: 500, .. })));
}

fn twice_id(i: usize) -> Layer {
    Layer { id: LayerId(i.to_string()), path: PathBuf::new(), max_uid: 0, max_gid: 0 }
}

#[test]
fn the_root_directory_is_the_topmost_layers() {
    if !root_only() {
        return;
    }
    let dir = disk();
    let layers = layers(dir.path(), 2);
    fs::set_permissions(&layers[1].path, fs::Permissions::from_mode(0o711)).unwrap();
    std::os::unix::fs::chown(&layers[1].path, Some(5), Some(6)).unwrap();
    let made = root(&layers, &dir.path().join("c"), None).unwrap();
    assert_eq!(owner(&made.mount, "/"), (5, 6));
    let stat = rustix::fs::fstat(&made.mount).unwrap();
    assert_eq!(stat.st_mode & 0o7777, 0o711);
}

#[test]
fn kernels_without_layers_by_descriptor_get_them_by_path() {
    if !root_only() {
        return;
    }
    let dir = disk();
    let held = Held::new();
    for userns in [None, Some(held.userns())] {
        let name = if userns.is_some() { "u" } else { "h" };
        let layers = layers(&dir.path().join(name), 70);
        let base = dir.path().join(name).join("c");
        let lowers = lowers(&layers).unwrap();
        make_upper(&base, lowers.first().copied()).unwrap();
        let mount = overlay::mount_by_path(&lowers, Some(&base), userns).unwrap();
        assert_eq!(read(&mount, "same"), "69");
        write_as(&mount, "new", userns.map_or(0, |_| BASE));
        assert_eq!(fs::metadata(base.join("upper/new")).unwrap().uid(), 0);
        assert!(!host_table().contains(&*dir.path().to_string_lossy()));
    }
}

/// What fsconfig(2) says to a descriptor: Linux 6.1, of whose mount API overlayfs is not; 6.12; and 6.14.
#[test]
fn each_way_of_taking_no_descriptors_is_known() {
    for errno in [Errno::OPNOTSUPP, Errno::INVAL, Errno::BADF] {
        assert!(overlay::takes_no_descriptors(errno), "{errno:?}");
    }
    assert!(!overlay::takes_no_descriptors(Errno::PERM) && !overlay::takes_no_descriptors(Errno::NOMEM));
}

#[test]
fn an_image_as_a_volume_is_read_only() {
    if !root_only() {
        return;
    }
    let dir = disk();
    let held = Held::new();
    for userns in [None, Some(held.userns())] {
        for count in [0, 1, 3] {
            let base = dir.path().join(format!("{}{count}", userns.is_some()));
            let layers = layers(&base, count);
            let spare = base.join("c");
            fs::create_dir_all(&spare).unwrap();
            let mount = image(&layers, "", &spare, userns).unwrap().mount;
            let flags = OFlags::WRONLY | OFlags::CREATE;
            let written = rustix::fs::openat(&mount, "x", flags, Mode::RUSR);
            assert_eq!(written.unwrap_err(), Errno::ROFS);
            if count == 0 {
                continue;
            }
            assert_eq!(owner(&mount, "same").0, userns.map_or(0, |_| BASE));
            let top = &layers[count - 1].path;
            fs::create_dir_all(top.join("a/b")).unwrap();
            fs::write(top.join("a/b/deep"), "deep").unwrap();
            symlink("/a/b", top.join("link")).unwrap();
            symlink(format!("{}{}", "../".repeat(30), dir.path().display()), top.join("out")).unwrap();
            let sub = image(&layers, "a/b", &spare, userns).unwrap().mount;
            assert_eq!(read(&sub, "deep"), "deep");
            assert!(rustix::fs::openat(&sub, "y", flags, Mode::RUSR).is_err());
            assert_eq!(read(&image(&layers, "link", &spare, userns).unwrap().mount, "deep"), "deep");
            let file = image(&layers, "a/b/deep", &spare, userns).unwrap().mount;
            assert_eq!(rustix::fs::fstat(&file).unwrap().st_size, 4);
            let error = image(&layers, "out", &spare, userns).unwrap_err();
            assert!(error.to_string().contains("\"out\""), "{error}");
        }
    }
}

#[test]
fn a_file_system_that_cannot_be_idmapped_is_copied() {
    if !root_only() {
        return;
    }
    let dir = disk();
    let held = Held::new();
    let layers = layers(dir.path(), 2);
    std::os::unix::fs::chown(layers[0].path.join("only-0"), Some(33), Some(34)).unwrap();
    // A whiteout over what the layer beneath has.
    let dev = rustix::fs::makedev(0, 0);
    let kind = rustix::fs::FileType::CharacterDevice;
    fs::write(layers[0].path.join("gone"), "").unwrap();
    rustix::fs::mknodat(CWD, layers[1].path.join("gone"), kind, Mode::empty(), dev).unwrap();
    let lowers = lowers(&layers).unwrap();
    let base = dir.path().join("c");
    make_upper(&base, lowers.first().copied()).unwrap();
    let refusal = || RootfsError::NoIdmap {
        path: dir.path().to_owned(),
        fs: "nfs".to_owned(),
        source: io::Error::from_raw_os_error(libc::EINVAL),
    };
    let made = or_shifted(Err(refusal()), Some(held.userns()), |userns, refusal| {
        shifted::root(&lowers, &base, userns, refusal)
    })
    .unwrap();
    assert_eq!(owner(&made.mount, "only-0"), (BASE + 33, BASE + 34));
    assert_eq!(owner(&made.mount, "/"), (BASE, BASE));
    assert!(open_beneath(made.mount.as_fd(), "gone", OFlags::PATH).is_err());
    assert_eq!(read(&made.mount, "same"), "1");
    write_as(&made.mount, "new", BASE);
    assert!(made.warnings[0].contains("nfs"), "{:?}", made.warnings);
    let made = or_shifted(Err(refusal()), Some(held.userns()), |userns, refusal| {
        shifted::image(&lowers, &base.join("images/0"), userns, refusal)
    })
    .unwrap();
    assert_eq!(owner(&made.mount, "only-0"), (BASE + 33, BASE + 34));
    assert_eq!(made.warnings.len(), 1);
    assert!(matches!(
        or_shifted(Err(refusal()), None, |_, _| unreachable!()),
        Err(RootfsError::NoIdmap { .. })
    ));
}

#[test]
fn what_cannot_be_idmapped_is_named() {
    if !root_only() {
        return;
    }
    let held = Held::new();
    let error = idmap(Path::new("/proc"), held.userns(), Depth::One).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the file system proc of /proc cannot be idmapped for a pod with a user namespace"
    );
}

/// Looked at is one mount of the host's, not its whole table: other tests mount there meanwhile.
#[test]
fn a_threads_namespace_is_its_own() {
    if !root_only() {
        return;
    }
    let proc_file_system = || rustix::fs::statfs("/proc").unwrap().f_type == libc::PROC_SUPER_MAGIC;
    assert!(proc_file_system());
    on_thread(|| {
        own_namespace()?;
        rustix::mount::unmount("/proc", rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(!proc_file_system());
        Ok(())
    })
    .unwrap();
    assert!(proc_file_system());
}
