//! The user of a container: names looked up in the passwd and group files of its own root file system.
//!
//! Those files are the image's: opened beneath the root whatever their links say, and read up to a bound.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::rootfs::open_beneath;
use super::spec::{GroupsPolicy, RunAs, Security};
use crate::pod::spec::IdMappings;
use crate::runtime::spec::User;

/// Longest passwd or group file that is read.
const FILE_MAX: u64 = 16 << 20;
/// `NGROUPS_MAX`, setgroups(2).
const GROUPS_MAX: usize = 65_536;

/// Why a container's user cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("the image has no user {name:?} in /etc/passwd: use a uid, or a user that the image has")]
    NoUser { name: String },
    #[error("the image has no group {name:?} in /etc/group: use a gid, or a group that the image has")]
    NoGroup { name: String },
    #[error("the image's {file} has more than {FILE_MAX} bytes: shorten it, or use numbers for the user")]
    TooLong { file: &'static str },
    #[error("user {user:?} is in more than {GROUPS_MAX} groups")]
    TooManyGroups { user: String },
    #[error("{what} {id} is not mapped in the pod's user namespace, whose ids end at {last}")]
    Unmapped { what: &'static str, id: u32, last: u32 },
    #[error("reading {file} of the image")]
    Io {
        file: &'static str,
        #[source]
        source: io::Error,
    },
}

/// The user of a container in the root file system `root`. `image` is the image's own, "user[:group]".
///
/// # Errors
/// [`UserError`].
pub fn resolve(
    security: &Security,
    image: &str,
    root: BorrowedFd<'_>,
    maps: Option<&IdMappings>,
) -> Result<User, UserError> {
    let (image_user, image_group) = image.split_once(':').map_or((image, None), |(u, g)| (u, Some(g)));
    let passwd = Passwd(read(root, "/etc/passwd")?);
    let groups = Groups(read(root, "/etc/group")?);
    let (name, group) = match &security.user {
        RunAs::Uid(uid) => (uid.to_string(), None),
        RunAs::Name(name) => (name.clone(), None),
        RunAs::Image if image_user.is_empty() => ("0".to_owned(), image_group),
        RunAs::Image => (image_user.to_owned(), image_group),
    };
    let (entry, uid) = match (&security.user, passwd.find(&name), id(&name)) {
        // The request's number is a number, even where a user has it for a name.
        (RunAs::Uid(uid), ..) => (passwd.by_uid(*uid), *uid),
        (_, Some(entry), _) => {
            let uid = entry.uid;
            (Some(entry), uid)
        }
        (_, None, Some(uid)) => (None, uid),
        (_, None, None) => return Err(UserError::NoUser { name }),
    };
    let gid = match (security.run_as_group, group.filter(|group| !group.is_empty())) {
        (Some(gid), _) => gid,
        (None, Some(group)) => {
            let gid = groups.find(group).or_else(|| id(group));
            gid.ok_or_else(|| UserError::NoGroup { name: group.to_owned() })?
        }
        (None, None) => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    // The primary one is among them, so that a file that excludes its group excludes this user.
    let mut all = vec![gid];
    if security.groups_policy == GroupsPolicy::Merge
        && let Some(entry) = &entry
    {
        all.extend(groups.of(&entry.name));
    }
    all.extend(&security.supplemental_groups);
    let mut seen = std::collections::HashSet::new();
    all.retain(|gid| seen.insert(*gid));
    if all.len() > GROUPS_MAX {
        return Err(UserError::TooManyGroups { user: name });
    }
    if let Some(maps) = maps {
        let last = |maps: &[crate::pod::spec::IdMap]| {
            maps.iter().map(|m| m.container_id + (m.length - 1)).max().unwrap_or(0)
        };
        if maps.host_uid(uid).is_none() {
            return Err(UserError::Unmapped { what: "uid", id: uid, last: last(&maps.uids) });
        }
        if let Some(gid) = all.iter().find(|gid| maps.host_gid(**gid).is_none()) {
            return Err(UserError::Unmapped { what: "gid", id: *gid, last: last(&maps.gids) });
        }
    }
    let home = entry.map(|entry| entry.home).filter(|home| home.starts_with('/') && !home.contains('\0'));
    Ok(User { uid, gid, groups: all, home: Some(home.unwrap_or_else(|| "/".to_owned())) })
}

/// A number that may be a uid or gid.
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|id| *id != u32::MAX)
}

/// A file of the image, or nothing where it has none.
fn read(root: BorrowedFd<'_>, file: &'static str) -> Result<String, UserError> {
    let failed = |errno: Errno| UserError::Io { file, source: errno.into() };
    // NONBLOCK: it may be a FIFO.
    let opened = match open_beneath(root, file, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        other => other.map_err(failed)?,
    };
    let stat = rustix::fs::fstat(opened.as_fd()).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        let source = io::Error::other("not a regular file");
        return Err(UserError::Io { file, source });
    }
    let mut text = Vec::new();
    std::fs::File::from(opened)
        .take(FILE_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|source| UserError::Io { file, source })?;
    if text.len() as u64 > FILE_MAX {
        return Err(UserError::TooLong { file });
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Passwd(String);

impl Passwd {
    /// Lines that are none are passed over, as by the C library.
    fn entries(&self) -> impl Iterator<Item = Entry> {
        self.0.lines().filter_map(entry)
    }

    fn by_uid(&self, uid: u32) -> Option<Entry> {
        self.entries().find(|entry| entry.uid == uid)
    }

    /// By name, and a number also by uid.
    fn find(&self, name: &str) -> Option<Entry> {
        let by_name = self.entries().find(|entry| entry.name == name);
        by_name.or_else(|| id(name).and_then(|uid| self.by_uid(uid)))
    }
}

fn entry(line: &str) -> Option<Entry> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let (uid, gid) = (id(fields.nth(1)?)?, id(fields.next()?)?);
    let home = fields.nth(1).unwrap_or_default().to_owned();
    Some(Entry { name, uid, gid, home })
}

struct Groups(String);

impl Groups {
    fn lines(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.0.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = id(fields.nth(1)?)?;
            Some((name, gid, fields.next().unwrap_or_default()))
        })
    }

    fn find(&self, name: &str) -> Option<u32> {
        self.lines().find(|(known, ..)| *known == name).map(|(_, gid, _)| gid)
    }

    fn of(&self, user: &str) -> Vec<u32> {
        let member = |members: &str| members.split(',').any(|member| member.trim() == user);
        self.lines().filter(|(.., members)| member(members)).map(|(_, gid, _)| gid).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::container::spec::PidMode;
    use crate::pod::spec::{IdMap, Seccomp};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken:x:y:z\n\napp:x:1000:1001:App:/home/app:/bin/sh\n\
         1000:x:7:7::/seven:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\nstaff:x:50: app ,x\napp:x:1001:\nbad:x:\n";

    fn security(user: RunAs) -> Security {
        Security {
            privileged: false,
            add_capabilities: 0,
            drop_capabilities: 0,
            add_ambient_capabilities: 0,
            pid: PidMode::Pod,
            user,
            run_as_group: None,
            supplemental_groups: Vec::new(),
            groups_policy: GroupsPolicy::Merge,
            readonly_rootfs: false,
            no_new_privs: false,
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            seccomp: Seccomp::Unconfined,
            apparmor: None,
            selinux: None,
        }
    }

    fn image() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/passwd"), PASSWD).unwrap();
        std::fs::write(dir.path().join("etc/group"), GROUP).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap().into();
        (dir, root)
    }

    fn ids(user: &User) -> (u32, u32, &[u32], &str) {
        (user.uid, user.gid, &user.groups, user.home.as_deref().unwrap())
    }

    #[test]
    fn names_numbers_and_groups() {
        let (_dir, root) = image();
        let resolve = |run: RunAs, image: &str| {
            resolve(&security(run), image, root.as_fd(), None).map_err(|e| e.to_string())
        };
        let user = |run, image: &str| resolve(run, image).unwrap();
        assert_eq!(ids(&user(RunAs::Image, "")), (0, 0, &[0, 10][..], "/root"));
        assert_eq!(ids(&user(RunAs::Image, "app")), (1000, 1001, &[1001, 10, 50][..], "/home/app"));
        assert_eq!(ids(&user(RunAs::Image, "app:staff")), (1000, 50, &[50, 10][..], "/home/app"));
        assert_eq!(ids(&user(RunAs::Image, "4711:4712")), (4711, 4712, &[4712][..], "/"));
        assert_eq!(ids(&user(RunAs::Uid(4711), "app")), (4711, 0, &[0][..], "/"));
        assert_eq!(ids(&user(RunAs::Name("app".into()), "")), (1000, 1001, &[1001, 10, 50][..], "/home/app"));
        // A name that is a number is a name first.
        assert_eq!(ids(&user(RunAs::Image, "1000")), (7, 7, &[7][..], "/seven"));
        assert!(resolve(RunAs::Name("nobody".into()), "").unwrap_err().contains("\"nobody\""));
        assert!(resolve(RunAs::Image, "app:nogroup").unwrap_err().contains("\"nogroup\""));
        assert!(resolve(RunAs::Image, "4294967295").is_err());
    }

    #[test]
    fn a_uid_of_the_request_is_a_number_and_nothing_else() {
        let (_dir, root) = image();
        let user = resolve(&security(RunAs::Uid(1000)), "", root.as_fd(), None).unwrap();
        assert_eq!(user.uid, 1000);
    }

    #[test]
    fn the_policy_decides_about_the_images_groups() {
        let (_dir, root) = image();
        let mut asked = security(RunAs::Name("app".into()));
        (asked.run_as_group, asked.supplemental_groups) = (Some(5), vec![6, 10, 6]);
        let groups = |asked: &Security| resolve(asked, "", root.as_fd(), None).unwrap().groups;
        assert_eq!(groups(&asked), [5, 10, 50, 6]);
        asked.groups_policy = GroupsPolicy::Strict;
        assert_eq!(groups(&asked), [5, 6, 10]);
    }

    #[test]
    fn what_the_pod_does_not_map_is_named() {
        let (_dir, root) = image();
        let map = vec![IdMap { container_id: 0, host_id: 100_000, length: 1001 }];
        let maps = IdMappings { uids: map.clone(), gids: map };
        let error = resolve(&security(RunAs::Image), "app", root.as_fd(), Some(&maps)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "gid 1001 is not mapped in the pod's user namespace, whose ids end at 1000"
        );
    }

    #[test]
    fn hostile_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), "evil:x:66:66::/:\n").unwrap();
        let passwd = dir.path().join("etc/passwd");
        let root = std::fs::File::open(dir.path()).unwrap();
        let find = |name: &str| {
            resolve(&security(RunAs::Name(name.into())), "", root.as_fd(), None).map_err(|e| e.to_string())
        };
        // Out of the root, by an absolute link and by a relative one: both stay inside and find nothing.
        std::os::unix::fs::symlink(secret.path(), &passwd).unwrap();
        assert!(find("evil").unwrap_err().contains("no user"));
        std::fs::remove_file(&passwd).unwrap();
        let up = format!("{}{}", "../".repeat(40), secret.path().display());
        std::os::unix::fs::symlink(up, &passwd).unwrap();
        assert!(find("evil").unwrap_err().contains("no user"));
        std::fs::remove_file(&passwd).unwrap();
        // Nobody will ever write to it.
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &passwd,
            FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(find("evil").unwrap_err().contains("/etc/passwd"));
        std::fs::remove_file(&passwd).unwrap();
        std::fs::File::create(&passwd).unwrap().set_len(FILE_MAX + 1).unwrap();
        assert!(find("evil").unwrap_err().contains("bytes"));
    }
}
