//! Tars, hostile and not, unpacked for real: each hazard one test.

use std::fs::{self, File, Metadata};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use proptest::prelude::*;
use tempfile::TempDir;

use super::{Layers, Source, UnpackError, Unpacked};
use crate::content::Digest;
use crate::settings::Limits;
use crate::tar::testing::{Raw, Tar};

/// A layer unpacked, in a directory of its own that has a neighbour to be attacked.
struct Layer {
    dir: TempDir,
    fs: PathBuf,
    unpacked: Unpacked,
}

impl Layer {
    fn stat(&self, path: &str) -> Metadata {
        fs::symlink_metadata(self.fs.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn has(&self, path: &str) -> bool {
        fs::symlink_metadata(self.fs.join(path)).is_ok()
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.fs.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn xattr(&self, path: &str, name: &str) -> Option<Vec<u8>> {
        let mut value = vec![0; 1024];
        let length = rustix::fs::lgetxattr(self.fs.join(path), name, &mut value).ok()?;
        value.truncate(length);
        Some(value)
    }

    fn is_whiteout(&self, path: &str) -> bool {
        let stat = self.stat(path);
        stat.file_type().is_char_device() && stat.rdev() == 0
    }

    fn is_opaque(&self, path: &str) -> bool {
        self.xattr(path, "trusted.overlay.opaque").as_deref() == Some(b"y")
    }
}

fn unpack_blob(blob: &[u8], diff_id: Digest, limits: &Limits) -> Result<Layer, UnpackError> {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("outside")).unwrap();
    fs::write(dir.path().join("outside/secret"), "untouched").unwrap();
    let path = dir.path().join("blob");
    fs::write(&path, blob).unwrap();
    let layers = Layers::open(dir.path()).unwrap();
    let stop = AtomicBool::new(false);
    let source = Source { file: File::open(path).unwrap(), diff_id, stop: &stop };
    let result = layers.unpack(source, limits);
    // Whatever came of it: nothing beside the layer, and nothing left of one that failed.
    let kept = dir.path().join("outside");
    assert_eq!(fs::read_dir(&kept).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(kept.join("secret")).unwrap(), "untouched");
    assert_eq!(fs::metadata(kept.join("secret")).unwrap().nlink(), 1);
    let mut beside: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    beside.sort();
    assert_eq!(beside, ["blob", "layers", "outside"]);
    assert_eq!(fs::read_dir(dir.path().join("layers")).unwrap().count(), usize::from(result.is_ok()));
    result.map(|(layer, unpacked)| Layer { fs: layer.path, unpacked, dir })
}

fn unpack(tar: Tar) -> Result<Layer, UnpackError> {
    let bytes = tar.end();
    unpack_blob(&bytes, Digest::of(&bytes), &Limits::default())
}

fn made(tar: Tar) -> Layer {
    unpack(tar).unwrap_or_else(|e| panic!("{}", crate::error::chain(&e)))
}

#[track_caller]
fn refused(tar: Tar, why: &str) {
    match unpack(tar) {
        Ok(layer) => panic!("not refused: {:?}", layer.dir),
        Err(error) => {
            let text = crate::error::chain(&error);
            assert!(text.contains(why), "{text:?} does not say {why:?}");
        }
    }
}

#[test]
fn plain_entries_are_as_the_tar_says() {
    let layer = made(
        Tar::default()
            .raw(&Raw { path: b"./", kind: b'5', mode: 0o711, uid: 7, mtime: 5, ..Raw::default() }, b"")
            .raw(
                &Raw { path: b"bin/", kind: b'5', mode: 0o2750, uid: 1, gid: 2, mtime: 77, ..Raw::default() },
                b"",
            )
            .raw(&Raw { path: b"bin/su", mode: 0o4755, uid: 10, gid: 20, size: 3, ..Raw::default() }, b"abc")
            .raw(
                &Raw { path: b"bin/sh", kind: b'2', link: b"/bin/su", uid: 3_000_000_000, ..Raw::default() },
                b"",
            )
            .hard_link("bin/again", "bin/su")
            .raw(&Raw { path: b"pipe", kind: b'6', mode: 0o622, ..Raw::default() }, b"")
            .file("implied/parents/file", b""),
    );
    let su = layer.stat("bin/su");
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.mtime()), (0o4755, 10, 20, 1_000_000_000));
    assert_eq!(layer.stat("bin/again").ino(), su.ino());
    let bin = layer.stat("bin");
    assert_eq!((bin.mode() & 0o7777, bin.uid(), bin.gid(), bin.mtime()), (0o2750, 1, 2, 77));
    let sh = layer.stat("bin/sh");
    assert_eq!((sh.uid(), sh.mtime()), (3_000_000_000, 1_000_000_000));
    assert_eq!(fs::read_link(layer.fs.join("bin/sh")).unwrap(), Path::new("/bin/su"));
    assert_eq!((layer.stat("").mode() & 0o7777, layer.stat("").uid(), layer.stat("").mtime()), (0o711, 7, 5));
    let pipe = layer.stat("pipe");
    assert!(pipe.file_type().is_fifo() && pipe.mode() & 0o777 == 0o622);
    assert_eq!(layer.stat("implied").mode() & 0o7777, 0o755);
    assert_eq!((layer.unpacked.max_uid, layer.unpacked.max_gid), (3_000_000_000, 20));
    // bin, su, sh, pipe, implied, parents, file; the layer, its root and layer.json.
    assert_eq!(layer.unpacked.inodes, 7 + 3);
}

#[test]
fn the_umask_has_no_say() {
    // Of the process: no other test looks at modes that it could change in between.
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let layer = made(
        Tar::default()
            .file("a/b", b"")
            .raw(&Raw { path: b"n", kind: b'6', mode: 0o666, ..Raw::default() }, b""),
    );
    rustix::process::umask(before);
    assert_eq!(layer.stat("a").mode() & 0o7777, 0o755);
    assert_eq!(layer.stat("n").mode() & 0o7777, 0o666);
    assert_eq!(layer.stat("").mode() & 0o7777, 0o755);
}

#[test]
fn absolute_paths_begin_at_the_layer() {
    let layer = made(Tar::default().file("/etc/absolute", b"x").file("//etc//./twice", b"y"));
    assert_eq!(layer.read("etc/absolute"), b"x");
    assert_eq!(layer.read("etc/twice"), b"y");
}

#[test]
fn paths_upwards_are_refused() {
    for path in ["../outside/secret", "a/../../outside/secret", "a/..", "..", "/../x"] {
        refused(Tar::default().file(path, b"bad"), "has a .. in it");
    }
    refused(
        Tar::default().file("ok", b"").hard_link("x", "../../outside/secret"),
        "which this layer does not have",
    );
}

#[test]
fn a_path_through_a_link_of_the_same_tar_stays_inside() {
    let layer = made(
        Tar::default()
            .symlink("up", "../../../outside")
            .file("up/secret", b"inside")
            .symlink("abs", "/real")
            .file("abs/file", b"y")
            .dir("real/")
            .symlink("real/loop", "..")
            .file("real/loop/real/loop/real/deep", b"z"),
    );
    assert_eq!(layer.read("outside/secret"), b"inside");
    assert_eq!(layer.read("real/file"), b"y");
    assert_eq!(layer.read("real/deep"), b"z");
    assert!(layer.stat("up").is_symlink());
}

#[test]
fn a_link_of_links_ends() {
    refused(Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", b""), "reach its directory");
    // Each link twice the next: 2^40 steps if one took them.
    let mut tar = Tar::default().dir("d0");
    for n in 1..40 {
        let target = format!("d{0}/../d{0}", n - 1);
        tar = tar.symlink(&format!("d{n}"), &target);
    }
    refused(tar.file("d39/x", b""), "reach its directory");
}

#[test]
fn a_file_replaces_a_link_and_does_not_follow_it() {
    let outside = "../../../outside/secret";
    let layer = made(Tar::default().symlink("x", outside).file("x", b"mine"));
    assert!(layer.stat("x").is_file());
    assert_eq!(layer.read("x"), b"mine");
}

#[test]
fn a_directory_replaces_a_link_and_does_not_follow_it() {
    let layer = made(Tar::default().symlink("x", "../../../outside").dir("x/").file("x/secret", b"mine"));
    assert!(layer.stat("x").is_dir());
}

#[test]
fn a_hard_link_to_a_link_is_to_the_link() {
    let layer = made(Tar::default().symlink("s", "../../../outside/secret").hard_link("h", "s"));
    assert!(layer.stat("h").is_symlink());
    // And writing to the name replaces it.
    let layer =
        made(Tar::default().symlink("s", "../../../outside/secret").hard_link("h", "s").file("h", b"x"));
    assert!(layer.stat("h").is_file());
}

#[test]
fn a_hard_link_through_a_link_stays_inside() {
    refused(
        Tar::default().symlink("out", "../../../outside").hard_link("h", "out/secret"),
        "\"out/secret\", which this layer does not have",
    );
}

#[test]
fn a_hard_link_before_its_target() {
    let layer = made(Tar::default().hard_link("a", "b").file("b", b"later"));
    assert_eq!(layer.stat("a").ino(), layer.stat("b").ino());
    refused(Tar::default().hard_link("a", "b"), "hard link \"a\" points at \"b\"");
    refused(Tar::default().dir("d").hard_link("a", "d"), "is a hard link to a directory");
    // A later entry of its name counts.
    let layer = made(Tar::default().hard_link("a", "b").file("a", b"own").file("b", b"later"));
    assert_eq!(layer.read("a"), b"own");
}

#[test]
fn a_hard_link_to_itself() {
    let layer =
        made(Tar::default().file("a", b"x").hard_link("a", "a").hard_link("b", "a").hard_link("b", "a"));
    assert_eq!(layer.read("a"), b"x");
    assert_eq!(layer.stat("a").nlink(), 2);
}

#[test]
fn a_file_written_again_leaves_its_hard_links_alone() {
    let layer = made(Tar::default().file("a", b"old").hard_link("b", "a").file("a", b"new"));
    assert_eq!((layer.read("a"), layer.read("b")), (b"new".to_vec(), b"old".to_vec()));
}

#[test]
fn the_last_of_the_same_name_wins() {
    let layer = made(
        Tar::default()
            .file("x", b"first")
            .file("x", b"second")
            .dir("d/")
            .file("d/in", b"")
            .file("d", b"file now")
            .dir("e/")
            .file("e/kept", b"")
            .raw(&Raw { path: b"e/", kind: b'5', mode: 0o700, ..Raw::default() }, b""),
    );
    assert_eq!(layer.read("x"), b"second");
    assert_eq!(layer.read("d"), b"file now");
    assert!(layer.has("e/kept"));
    assert_eq!(layer.stat("e").mode() & 0o777, 0o700);
    refused(Tar::default().file("f", b"").file("f/x", b""), "reach its directory");
}

#[test]
fn devices_are_made_as_asked() {
    let raw = |path, kind, device| Raw { path, kind, device, mode: 0o660, uid: 5, ..Raw::default() };
    let layer =
        made(Tar::default().raw(&raw(b"null", b'3', (1, 3)), b"").raw(&raw(b"disk", b'4', (8, 300)), b""));
    let (null, disk) = (layer.stat("null"), layer.stat("disk"));
    assert!(null.file_type().is_char_device() && disk.file_type().is_block_device());
    assert_eq!(null.rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(disk.rdev(), rustix::fs::makedev(8, 300));
    assert_eq!((null.mode() & 0o777, null.uid()), (0o660, 5));
}

#[test]
fn whiteouts_in_overlay_form() {
    let layer = made(
        Tar::default()
            .file("dir/.wh.gone", b"")
            .file("opaque/.wh..wh..opq", b"")
            .file("opaque/new", b"")
            .file(".wh..wh.plnk", b"")
            .file(".wh..wh.aufs", b""),
    );
    assert!(layer.is_whiteout("dir/gone") && !layer.has("dir/.wh.gone"));
    assert!(layer.is_opaque("opaque") && !layer.is_opaque("dir"));
    assert!(layer.has("opaque/new") && !layer.has("opaque/.wh..wh..opq"));
    assert_eq!(fs::read_dir(&layer.fs).unwrap().count(), 2);
}

#[test]
fn a_whiteout_hides_lower_layers_only() {
    let layer = made(
        Tar::default()
            .file("file", b"stays")
            .file(".wh.file", b"")
            .dir("dir/")
            .file("dir/in", b"stays")
            .file(".wh.dir", b"")
            .file(".wh.later", b"")
            .dir("later/")
            .file(".wh.parent", b"")
            .file("parent/in", b"")
            .file(".wh.again", b"")
            .file("again", b"a file"),
    );
    assert_eq!(layer.read("file"), b"stays");
    assert_eq!(layer.read("dir/in"), b"stays");
    for dir in ["dir", "later", "parent"] {
        assert!(layer.is_opaque(dir), "{dir}");
    }
    assert_eq!(layer.read("again"), b"a file");
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for path in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        refused(Tar::default().file(path, b""), "is a whiteout of no name");
    }
}

#[test]
fn a_whiteout_through_a_link_stays_inside() {
    let layer = made(Tar::default().symlink("out", "../../../outside").file("out/.wh.secret", b""));
    assert!(layer.is_whiteout("outside/secret"));
}

#[test]
fn attributes_are_kept_or_left_out() {
    let capability = b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let layer = made(
        Tar::default()
            .pax(&[
                ("SCHILY.xattr.security.capability", &capability[..]),
                ("SCHILY.xattr.user.note", b"hello"),
                ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.trusted.x", b"y"),
                ("SCHILY.xattr.security.selinux", b"system_u:object_r:etc_t:s0"),
            ])
            .file("ping", b"x")
            .pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")])
            .dir("dir/"),
    );
    assert_eq!(layer.xattr("ping", "security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(layer.xattr("ping", "user.note").as_deref(), Some(&b"hello"[..]));
    for name in ["trusted.overlay.redirect", "user.overlay.opaque", "trusted.x"] {
        assert_eq!(layer.xattr("ping", name), None, "{name}");
    }
    assert!(!layer.is_opaque("dir"));
}

#[test]
fn a_capability_that_is_none_is_refused() {
    refused(
        Tar::default().pax(&[("SCHILY.xattr.security.capability", b"junk")]).file("x", b""),
        "set its extended attribute",
    );
}

#[test]
fn long_names_of_pax_and_gnu() {
    let long = format!("{}/{}/file", "d".repeat(200), "e".repeat(200));
    let target = "t".repeat(500);
    let gnu = |kind, text: &str| {
        let data = format!("{text}\0");
        (Raw { path: b"././@LongLink", kind, size: data.len() as u64, ..Raw::default() }, data)
    };
    let (path, path_data) = gnu(b'L', &format!("{long}2"));
    let (link, link_data) = gnu(b'K', &target);
    let layer = made(
        Tar::default()
            .pax(&[("path", long.as_bytes()), ("mtime", b"12.5"), ("uid", b"4000000000"), ("gid", b"9")])
            .file("short", b"pax")
            .raw(&link, link_data.as_bytes())
            .raw(&path, path_data.as_bytes())
            .symlink("short", "x"),
    );
    assert_eq!(layer.read(&long), b"pax");
    let stat = layer.stat(&long);
    assert_eq!(
        (stat.mtime(), stat.mtime_nsec(), stat.uid(), stat.gid()),
        (12, 500_000_000, 4_000_000_000, 9)
    );
    assert_eq!(fs::read_link(layer.fs.join(format!("{long}2"))).unwrap(), Path::new(&target));
    refused(
        Tar::default().pax(&[("path", "n".repeat(256).as_bytes())]).file("x", b""),
        "longer than 255 bytes",
    );
    refused(
        Tar::default().pax(&[("path", "n/".repeat(2100).as_bytes())]).file("x", b""),
        "longer than 4095 bytes",
    );
    refused(
        Tar::default().pax(&[("path", "n/".repeat(300).as_bytes())]).file("x", b""),
        "256 directories deep",
    );
    refused(Tar::default().pax(&[("linkpath", "n/".repeat(2100).as_bytes())]).symlink("x", "y"), "make it");
}

#[test]
fn links_do_not_make_it_deeper() {
    // Each link leads to the end of the last path.
    let path = "n/".repeat(200);
    let tar = Tar::default()
        .pax(&[("path", path.as_bytes())])
        .dir("x")
        .pax(&[("linkpath", path.as_bytes())])
        .symlink("l", "x")
        .pax(&[("path", format!("l/{path}").as_bytes())])
        .dir("x");
    refused(tar, "more than 256 directories deep");
}

#[test]
fn ids_beyond_all_are_refused() {
    refused(Tar::default().pax(&[("uid", b"4294967295")]).file("x", b""), "uid");
    refused(Tar::default().pax(&[("gid", b"99999999999")]).file("x", b""), "gid");
    refused(Tar::default().raw(&Raw { path: b"x", uid: u32::MAX, ..Raw::default() }, b""), "uid");
}

#[test]
fn sparse_files_of_all_kinds() {
    let data = [vec![b'a'; 512], vec![b'b'; 512]].concat();
    let pieces: &[(u64, u64)] = &[(4096, 512), (1 << 20, 512)];
    let real = (1u64 << 20) + 8192;
    let text = real.to_string();
    let map = "4096,512,1048576,512";
    let in_data = [format!("{:\0<512}", "2\n4096\n512\n1048576\n512\n").into_bytes(), data.clone()].concat();
    let mut gnu = Raw { path: b"gnu", kind: b'S', size: 1024, ..Raw::default() }.block();
    gnu[257..265].copy_from_slice(b"ustar  \0");
    gnu[329..].fill(0);
    for (n, &(offset, length)) in pieces.iter().enumerate() {
        gnu[386 + n * 24..][..12].copy_from_slice(format!("{offset:011o}\0").as_bytes());
        gnu[398 + n * 24..][..12].copy_from_slice(format!("{length:011o}\0").as_bytes());
    }
    gnu[483..495].copy_from_slice(format!("{real:011o}\0").as_bytes());
    gnu[148..156].fill(b' ');
    let sum: u32 = gnu.iter().map(|&b| u32::from(b)).sum();
    gnu[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut tar = Tar::default()
        .pax(&[
            ("GNU.sparse.size", text.as_bytes()),
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.name", b"p01"),
        ])
        .file("x", &data)
        .pax(&[
            ("GNU.sparse.size", text.as_bytes()),
            ("GNU.sparse.offset", b"4096"),
            ("GNU.sparse.numbytes", b"512"),
            ("GNU.sparse.offset", b"1048576"),
            ("GNU.sparse.numbytes", b"512"),
        ])
        .file("p00", &data)
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"p10"),
            ("GNU.sparse.realsize", text.as_bytes()),
        ])
        .file("x", &in_data);
    tar.0.extend_from_slice(&gnu);
    tar.0.extend_from_slice(&data);
    let layer = made(tar.file("after", b"read on"));
    for name in ["gnu", "p00", "p01", "p10"] {
        let content = layer.read(name);
        assert_eq!(content.len() as u64, real, "{name}");
        assert!(content[4096..4608].iter().all(|&b| b == b'a'), "{name}");
        assert!(content[1 << 20..][..512].iter().all(|&b| b == b'b'), "{name}");
        assert_eq!(content.iter().filter(|&&b| b != 0).count(), 1024, "{name}");
        assert!(layer.stat(name).blocks() * 512 < 65536, "{name} has holes");
    }
    assert_eq!(layer.read("after"), b"read on");
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let sparse = |map: &str, size: &str, data: &[u8]| {
        Tar::default()
            .pax(&[("GNU.sparse.size", size.as_bytes()), ("GNU.sparse.map", map.as_bytes())])
            .file("x", data)
    };
    refused(sparse("0,4,2,4", "100", b"12345678"), "overlap");
    refused(sparse("0,4", "2", b"1234"), "beyond the end");
    refused(sparse("0,8", "100", b"1234"), "more or fewer bytes");
    refused(sparse("0,4,8", "100", b"1234"), "offset without a length");
    refused(sparse("18446744073709551615,4", "100", b"1234"), "beyond any file");
    let terabytes = (1u64 << 50).to_string();
    refused(sparse("0,4", &terabytes, b"1234"), "the size of its files exceeds the limit");
}

#[test]
fn a_huge_declared_size_takes_nothing() {
    for size in [1 << 40, u64::MAX >> 2] {
        refused(Tar::default().raw(&Raw { path: b"x", size, ..Raw::default() }, b"few"), "");
    }
    refused(Tar::default().pax(&[("size", b"18446744073709551615")]).file("x", b"few"), "");
    refused(
        Tar::default().raw(&Raw { path: b"x", kind: b'x', size: 1 << 40, ..Raw::default() }, b""),
        "1 MiB",
    );
    refused(
        Tar::default().raw(&Raw { path: b"x", kind: b'L', size: 1 << 40, ..Raw::default() }, b""),
        "1 MiB",
    );
}

#[test]
fn too_many_entries() {
    let bytes = (0..11).fold(Tar::default(), |tar, n| tar.file(&format!("f{n}"), b"")).end();
    let limits = Limits { max_entries: 10, ..Limits::default() };
    let error = unpack_blob(&bytes, Digest::of(&bytes), &limits).err().unwrap();
    assert_eq!(error.to_string(), "its number of entries exceeds the limit of 10");
}

#[test]
fn a_decompression_bomb_ends_at_the_limit() {
    let limits = Limits { max_layer: 1 << 18, ..Limits::default() };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&Tar::default().file("x", b"").end()).unwrap();
    gzip.write_all(&vec![0; 4 << 20]).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&vec![0; 4 << 20][..], 1).unwrap();
    for bomb in [gzip, zstd] {
        let error = unpack_blob(&bomb, Digest::of(b""), &limits).err().unwrap();
        assert_eq!(error.to_string(), "its uncompressed tar exceeds the limit of 262144");
    }
}

#[test]
fn gzip_zstd_and_plain() {
    let tar = Tar::default().file("x", &vec![b'x'; 1 << 20]).end();
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let (head, tail) = tar.split_at(1000);
    let members = [gzip(head), gzip(tail)].concat();
    let frames = [zstd::encode_all(head, 1).unwrap(), zstd::encode_all(tail, 1).unwrap()].concat();
    for blob in [tar.clone(), gzip(&tar), members, frames] {
        let layer = unpack_blob(&blob, Digest::of(&tar), &Limits::default()).unwrap();
        assert_eq!(layer.read("x").len(), 1 << 20);
        assert_eq!(layer.unpacked.tar_size, tar.len() as u64);
    }
    let error = unpack_blob(b"BZh91AY", Digest::of(b""), &Limits::default()).err().unwrap();
    assert!(error.to_string().contains("bzip2"), "{error}");
    // Torn anywhere.
    for whole in [gzip(&tar), zstd::encode_all(&tar[..], 1).unwrap(), tar.clone()] {
        for end in [1, whole.len() / 2, whole.len() - 1] {
            assert!(unpack_blob(&whole[..end], Digest::of(&tar), &Limits::default()).is_err(), "{end}");
        }
    }
}

#[test]
fn another_diff_id_is_refused() {
    let bytes = Tar::default().file("x", b"").end();
    let error = unpack_blob(&bytes, Digest::of(b"other"), &Limits::default()).err().unwrap();
    assert!(matches!(error, UnpackError::DiffId { .. }), "{error}");
    // What follows the end of the tar counts too.
    let longer = [&bytes[..], b"trailer"].concat();
    assert!(unpack_blob(&longer, Digest::of(&bytes), &Limits::default()).is_err());
    assert!(unpack_blob(&longer, Digest::of(&longer), &Limits::default()).is_ok());
}

#[test]
fn empty_layers() {
    for bytes in [Vec::new(), vec![0; 1024], vec![0; 10240]] {
        let layer = unpack_blob(&bytes, Digest::of(&bytes), &Limits::default()).unwrap();
        assert_eq!(fs::read_dir(&layer.fs).unwrap().count(), 0);
    }
}

#[test]
fn what_is_no_tar() {
    refused(Tar(vec![b'x'; 4096]), "no tar header at byte 0");
    refused(Tar::default().raw(&Raw { path: b"x", kind: b'Z', ..Raw::default() }, b""), "type 'Z'");
    refused(Tar::default().symlink("x", ""), "symbolic link to nothing");
    refused(Tar::default().file("./", b"root as a file"), "is the layer's root and no directory");
}

#[test]
fn work_that_is_called_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blob");
    let bytes = Tar::default().file("x", b"").end();
    fs::write(&path, &bytes).unwrap();
    let layers = Layers::open(dir.path()).unwrap();
    let stop = AtomicBool::new(true);
    let source = Source { file: File::open(path).unwrap(), diff_id: Digest::of(&bytes), stop: &stop };
    assert!(matches!(layers.unpack(source, &Limits::default()), Err(UnpackError::Stopped)));
    assert_eq!(fs::read_dir(layers.dir()).unwrap().count(), 0);
}

/// Entries at random, with names so few that they meet.
fn entries() -> impl Strategy<Value = Vec<(u8, String, String)>> {
    let path =
        prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("c"), Just(".wh.a"), Just("..")], 1..5);
    let path = path.prop_map(|parts| parts.join("/"));
    let target = (
        any::<bool>(),
        prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just(".."), Just(".")], 1..6),
    )
        .prop_map(|(absolute, parts)| format!("{}{}", if absolute { "/" } else { "" }, parts.join("/")));
    prop::collection::vec((0..5u8, path, target), 1..24)
}

fn tar_of(entries: &[(u8, String, String)]) -> Tar {
    entries.iter().enumerate().fold(Tar::default(), |tar, (n, (kind, path, target))| match kind {
        0 => tar.dir(path),
        1 | 2 => tar.symlink(path, target),
        3 => tar.hard_link(path, target),
        _ => tar.file(path, n.to_string().as_bytes()),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whatever the links, nothing lands outside (`unpack_blob` looks), and what was unpacked last is found
    /// where the kernel, confined to the layer, resolves its path to.
    #[test]
    fn paths_are_resolved_as_a_container_would(entries in entries()) {
        // Each entry that is refused would end the unpacking: take them out one by one.
        let mut taken: Vec<(u8, String, String)> = Vec::new();
        for entry in entries {
            taken.push(entry);
            if unpack(tar_of(&taken)).is_err() {
                taken.pop();
            }
        }
        let Ok(layer) = unpack(tar_of(&taken)) else { return Err(TestCaseError::fail("not twice the same")) };
        if let Some((4, path, _)) = taken.last() && !path.contains(".wh.") {
            let root = File::open(&layer.fs).unwrap();
            let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
            let none = rustix::fs::Mode::empty();
            let parent =
                match rustix::fs::openat2(&root, parent, flags, none, rustix::fs::ResolveFlags::IN_ROOT) {
                    // It took the place of a link in its own path.
                    Err(rustix::io::Errno::NOTDIR) => return Ok(()),
                    parent => parent.unwrap(),
                };
            let file = rustix::fs::openat(&parent, name, rustix::fs::OFlags::NOFOLLOW, none).unwrap();
            let text = std::io::read_to_string(File::from(file)).unwrap();
            prop_assert_eq!(text, (taken.len() - 1).to_string());
        }
    }

    /// Headers with any bytes in them, checksums right: refused or unpacked, nothing else.
    #[test]
    fn no_header_does_harm(changes in prop::collection::vec((0..6usize, 0..512usize, any::<u8>()), 1..12)) {
        let tar = Tar::default()
            .pax(&[("path", b"some/where"), ("mtime", b"1.5"), ("GNU.sparse.map", b"0,1")])
            .file("file", b"content")
            .symlink("link", "../../..")
            .hard_link("hard", "file");
        let mut bytes = tar.end();
        let blocks = bytes.len() / 512;
        for (block, at, byte) in changes {
            let header = &mut bytes[block % blocks * 512..][..512];
            header[at] = byte;
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&b| u32::from(b)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        let limits = Limits { max_layer: 1 << 20, ..Limits::default() };
        let _ = unpack_blob(&bytes, Digest::of(&bytes), &limits);
    }
}
