use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use super::*;
use crate::pod::spec::IdMap;

fn tree(from: &Path, to: &Path, options: Options<'_>) -> Result<Copied, CopyError> {
    let (from, to) = (fs::File::open(from).unwrap(), fs::File::open(to).unwrap());
    copy(from.as_fd(), to.as_fd(), options)
}

fn pair() -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    (dir, from, to)
}

#[test]
fn everything_that_belongs_to_a_file_comes_along() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: changing owners needs root");
        return;
    }
    let (_dir, from, to) = pair();
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::write(from.join("a/b/file"), "text").unwrap();
    fs::set_permissions(from.join("a/b/file"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(from.join("a/b/file"), Some(33), Some(34)).unwrap();
    fs::set_permissions(from.join("a/b/file"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(from.join("a/b/file"), from.join("a/again")).unwrap();
    fs::hard_link(from.join("a/b/file"), from.join("third")).unwrap();
    symlink("/etc/passwd", from.join("link")).unwrap();
    std::os::unix::fs::lchown(from.join("link"), Some(7), Some(8)).unwrap();
    rustix::fs::setxattr(from.join("a"), c"user.of", b"directory", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(from.join("a/b/file"), c"user.of", b"file", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(from.join("a"), c"trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    let fifo = from.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    fs::hard_link(from.join("socket"), from.join("socket2")).unwrap();
    let sparse = fs::File::create(from.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"middle", 32 << 20).unwrap();
    fs::set_permissions(&from, fs::Permissions::from_mode(0o1777)).unwrap();
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::open(from.join("a")).unwrap().set_modified(long_ago).unwrap();

    let copied = tree(&from, &to, Options::default()).unwrap();
    assert_eq!(copied.entries, 10);
    assert!(!to.join("socket").exists());
    let file = fs::metadata(to.join("a/b/file")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (33, 34, 0o4755));
    assert_eq!(file.nlink(), 3);
    assert_eq!(fs::metadata(to.join("third")).unwrap().ino(), file.ino());
    assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::symlink_metadata(to.join("link")).unwrap().uid(), 7);
    let value = |path: &str, name: &CStr| sized(|buffer| rustix::fs::getxattr(to.join(path), name, buffer));
    assert_eq!(value("a", c"user.of").unwrap(), b"directory");
    assert_eq!(value("a/b/file", c"user.of").unwrap(), b"file");
    assert_eq!(value("a", c"trusted.overlay.opaque").unwrap_err(), Errno::NODATA);
    assert!(fs::metadata(to.join("fifo")).unwrap().file_type().is_fifo());
    let sparse = fs::metadata(to.join("sparse")).unwrap();
    assert_eq!(sparse.len(), 64 << 20);
    assert!(sparse.blocks() * 512 < 1 << 20, "{} blocks", sparse.blocks());
    assert_eq!(&fs::read(to.join("sparse")).unwrap()[32 << 20..][..6], b"middle");
    assert_eq!(fs::metadata(&to).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(to.join("a")).unwrap().modified().unwrap(), long_ago);
}

#[test]
fn ids_are_shifted_and_whiteouts_kept_on_request() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: changing owners needs root");
        return;
    }
    let (_dir, from, to) = pair();
    fs::write(from.join("f"), "").unwrap();
    std::os::unix::fs::chown(from.join("f"), Some(5), Some(70_000)).unwrap();
    let gone = from.join("gone");
    let kind = FileType::CharacterDevice;
    rustix::fs::mknodat(rustix::fs::CWD, &gone, kind, Mode::empty(), rustix::fs::makedev(0, 0)).unwrap();
    let map = vec![IdMap { container_id: 0, host_id: 100_000, length: 65_536 }];
    let maps = IdMappings { uids: map.clone(), gids: map };
    tree(&from, &to, Options { shift: Some(&maps), overlay: true }).unwrap();
    let meta = fs::metadata(to.join("f")).unwrap();
    assert_eq!((meta.uid(), meta.gid()), (100_005, 70_000));
    assert!(fs::metadata(to.join("gone")).unwrap().file_type().is_char_device());
    assert_eq!(fs::metadata(&to).unwrap().uid(), 100_000);
}

#[test]
fn what_is_in_the_way_is_named() {
    let (_dir, from, to) = pair();
    fs::create_dir(from.join("a")).unwrap();
    fs::write(from.join("a/f"), "").unwrap();
    fs::create_dir(to.join("a")).unwrap();
    assert_eq!(tree(&from, &to, Options::default()).unwrap_err().to_string(), "copying \"a\"");
}
