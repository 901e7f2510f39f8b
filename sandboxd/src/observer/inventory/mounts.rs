//! Pins: bind mounts of nsfs, from the mount table of each mount namespace, each read once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::pins::PinOf;
use super::processes::{self, Table};
use super::{Hold, Limits, Missing, Pin, Process, Sighting, Sightings, Way};
use crate::pod::model::{NsInode, NsKind};

/// What the kernel appends to the path of a mount whose mount point is gone.
const DELETED: &str = "//deleted";

/// Reads the tables and adds the pins to what was seen.
pub(super) fn look(tables: &[Table], seen: &mut Sightings, limits: &Limits, missing: &mut Vec<Missing>) {
    let (mut unread, mut cut) = (0, false);
    for table in tables {
        let read = table.places.iter().find_map(|place| {
            let file = File::open(place.dir.join("mountinfo")).ok()?;
            let mut reader = BufReader::with_capacity(64 << 10, file.take(limits.mountinfo_bytes));
            let pins = pins(&mut reader).ok()?;
            cut |= reader.get_ref().limit() == 0;
            Some((place, pins))
        });
        let Some((place, pins)) = read else {
            unread += 1;
            continue;
        };
        if pins.is_empty() {
            continue;
        }
        let comm = processes::comm(&place.dir);
        let witness = Process { pid: place.pid, comm, role: String::new() };
        for (kind, inode, path) in pins {
            if seen.len() >= limits.namespaces && !seen.contains_key(&inode) {
                continue;
            }
            let sighting = seen.entry(inode).or_insert_with(|| Sighting::new(kind));
            let (path, deleted) = match path.as_os_str().as_encoded_bytes().strip_suffix(DELETED.as_bytes()) {
                Some(bytes) => (PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec())), true),
                None => (path, false),
            };
            if !deleted {
                sighting.way(|| Way::Pin { root: place.dir.join("root"), path: path.clone() });
            }
            sighting.hold(|| {
                let of = PinOf::of(&path, kind);
                let (mntns, witness) = (table.mntns, witness.clone());
                Hold::Pin(Pin { path, deleted, mntns, witness, here: table.own, of })
            });
        }
    }
    if unread > 0 {
        missing.push(Missing::MountTables { count: unread });
    }
    if cut {
        missing.push(Missing::TooMany { what: "bytes of a mount table", limit: limits.mountinfo_bytes });
    }
}

type Pinned = (NsKind, NsInode, PathBuf);

/// The nsfs mounts of a table; of several on one path the topmost is the one that matters, all hold.
fn pins(table: &mut impl std::io::BufRead) -> std::io::Result<Vec<Pinned>> {
    let mut found: HashMap<(NsInode, PathBuf), NsKind> = HashMap::new();
    let mut order = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if table.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let Some((kind, inode, path)) = pin(&line) else { continue };
        if found.insert((inode, path.clone()), kind).is_none() {
            order.push((kind, inode, path));
        }
    }
    Ok(order)
}

/// `ID PARENT MAJ:MIN ROOT POINT OPTIONS [TAGS] - TYPE SOURCE SUPER` of an nsfs mount.
fn pin(line: &[u8]) -> Option<Pinned> {
    let mut fields = line.split(|b| *b == b' ');
    let root = fields.nth(3)?;
    let point = fields.next()?;
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1)?;
    if fs_type != b"nsfs" {
        return None;
    }
    let (kind, inode) = processes::namespace(root)?;
    Some((kind, inode, unescape(point)))
}

/// Mount tables write space, tab, newline and backslash as `\ooo`.
fn unescape(text: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let code = || {
            let digits = after.get(..3).filter(|_| first == b'\\')?;
            u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
        };
        match code() {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    Path::new(&std::ffi::OsString::from_vec(out)).to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_read_from_the_table_without_opening_anything() {
        let table = b"27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
            46 27 0:4 net:[4026532182] /run/netns/a\\040b rw shared:7 master:2 - nsfs nsfs rw\n\
            47 27 0:4 net:[4026532182] /run/netns/a\\040b rw - nsfs nsfs rw\n\
            48 27 0:4 user:[4026532183] /run/x//deleted rw - nsfs nsfs rw\n\
            49 27 0:4 /net:[1] /run/net:[4026532182] rw - tmpfs nsfs rw\n\
            50 27 broken\n";
        let found = pins(&mut &table[..]).unwrap();
        assert_eq!(
            found,
            [
                (NsKind::Net, NsInode(4_026_532_182), "/run/netns/a b".into()),
                (NsKind::User, NsInode(4_026_532_183), "/run/x//deleted".into()),
            ]
        );
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(unescape(b"/a\\04"), PathBuf::from("/a\\04"));
        assert_eq!(unescape(b"/a\\999\\134"), PathBuf::from("/a\\999\\"));
    }
}
