//! A tree of files in memory, written as an initramfs (a cpio archive in the "newc" format,
//! Documentation/driver-api/early-userspace/buffer-format.rst) or as a disk with ext4.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::run;

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// A tree of files, by path without the leading slash.
#[derive(Debug, Default)]
pub struct Tree {
    entries: BTreeMap<String, (u32, Vec<u8>)>,
    /// Programs whose libraries are in already.
    linked: BTreeSet<PathBuf>,
}

impl Tree {
    /// A directory, with those above it.
    pub fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            self.entries.entry(path[..end].to_owned()).or_insert((DIRECTORY | 0o755, Vec::new()));
        }
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, mode: u32, data: Vec<u8>) {
        let path = path.trim_start_matches('/');
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.directory(dir);
        }
        self.entries.insert(path.to_owned(), (FILE | mode, data));
    }

    /// A symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        let path = path.trim_start_matches('/');
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.directory(dir);
        }
        self.entries.insert(path.to_owned(), (LINK | 0o777, target.as_bytes().to_vec()));
    }

    /// A file of this machine.
    pub fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        let data = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        let mode = fs::metadata(from)?.permissions().mode() & 0o777;
        self.file(to, mode, data);
        Ok(())
    }

    /// A directory of this machine, without what `keep` refuses.
    pub fn copy_tree(&mut self, from: &Path, to: &str, keep: &dyn Fn(&Path) -> bool) -> Result<()> {
        self.directory(to);
        for entry in fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let to = format!("{to}/{name}");
            if path.is_symlink() {
                self.link(&to, &fs::read_link(&path)?.to_string_lossy());
            } else if path.is_dir() {
                self.copy_tree(&path, &to, keep)?;
            } else if keep(&path) {
                self.copy(&path, &to)?;
            }
        }
        Ok(())
    }

    /// A program of this machine with the libraries it is linked to.
    pub fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        self.copy(from, to)?;
        if !self.linked.insert(from.to_path_buf()) {
            return Ok(());
        }
        // A static program has none: ldd says so with a failure.
        let libraries = run::output(Command::new("ldd").arg(from)).unwrap_or_default();
        for word in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let library = Path::new(word);
            if self.linked.insert(library.to_path_buf()) {
                self.copy(library, word)?;
            }
        }
        Ok(())
    }

    /// A program found on the PATH, at the same place.
    pub fn tool(&mut self, name: &str) -> Result<()> {
        let path = run::on_path(name).with_context(|| format!("{name} is not on the PATH"))?;
        self.program(&path, &path.to_string_lossy())
    }

    /// Writes an ext4 file system with room for `size` ("1G"), by way of a directory beside it.
    pub fn write_disk(&self, path: &Path, size: &str) -> Result<()> {
        let dir = path.with_extension("tree");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        for (name, (mode, data)) in &self.entries {
            let to = dir.join(name);
            match mode & 0o170_000 {
                DIRECTORY => fs::create_dir_all(&to)?,
                LINK => std::os::unix::fs::symlink(String::from_utf8_lossy(data).as_ref(), &to)?,
                _ => {
                    fs::write(&to, data)?;
                    fs::set_permissions(&to, fs::Permissions::from_mode(mode & 0o7777))?;
                }
            }
        }
        if path.exists() {
            fs::remove_file(path)?;
        }
        let mut mke2fs = Command::new(run::on_path("mke2fs").context("mke2fs is not on the PATH")?);
        mke2fs.args(["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d"]).arg(&dir).arg(path).arg(size);
        run::run(&mut mke2fs)?;
        fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))
    }

    /// Writes the cpio archive.
    pub fn write_cpio(&self, path: &Path) -> Result<()> {
        let mut out = Vec::new();
        for (inode, (name, (mode, data))) in self.entries.iter().enumerate() {
            append(&mut out, inode + 1, name, *mode, data)?;
        }
        append(&mut out, 0, "TRAILER!!!", 0, &[])?;
        fs::write(path, out).with_context(|| format!("writing {}", path.display()))
    }
}

fn append(out: &mut Vec<u8>, inode: usize, name: &str, mode: u32, data: &[u8]) -> Result<()> {
    ensure!(u32::try_from(data.len()).is_ok(), "{name} is too large for a cpio archive");
    let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
    // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check.
    let fields = [inode, mode as usize, 0, 0, links, 0, data.len(), 0, 0, 0, 0, name.len() + 1, 0]
        .map(|n| format!("{n:08x}"));
    out.extend_from_slice(b"070701");
    out.extend_from_slice(fields.concat().as_bytes());
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(data);
    pad(out);
    Ok(())
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_names_and_data_are_aligned_to_four() {
        let mut tree = Tree::default();
        tree.file("/a/b", 0o644, b"hello".to_vec());
        let path = std::env::temp_dir().join(format!("xtask-cpio-{}", std::process::id()));
        tree.write_cpio(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(bytes.len().is_multiple_of(4));
        // The directory, the file, the trailer.
        let heads: Vec<_> =
            bytes.windows(6).enumerate().filter(|(_, w)| w == b"070701").map(|(at, _)| at).collect();
        assert_eq!(heads.len(), 3);
        assert!(heads.iter().all(|at| at.is_multiple_of(4)));
        assert_eq!(&bytes[heads[1] + 110..heads[1] + 114], b"a/b\0");
    }
}
