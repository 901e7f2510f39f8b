//! Mounts of a container's OCI spec as the shim makes them: what lies on the host becomes a detached mount.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, Mount as OciMount};
use rustix::io::Errno;
use sandboxd_shim::plan::container::{Mount, MountAttrs, Propagation, Source};

use super::cgroups::{self, Cgroup};
use super::container::Descriptors;
use super::plan::{detached, text, unsupported};
use crate::runtime::RuntimeError;

/// What the pod's shared memory is called in a spec.
pub const POD_SHM: &str = "pod:shm";

/// What mounts are made from.
#[derive(Debug)]
pub struct Context<'a> {
    pub cgroups: &'a [Cgroup],
    /// The pod's user namespace, and its mappings.
    pub user: Option<(OwnedFd, Maps<'a>)>,
    /// `linux.mountLabel`.
    pub label: Option<&'a str>,
}

/// Mappings of user and group ids.
pub type Maps<'a> = (&'a [LinuxIdMapping], &'a [LinuxIdMapping]);

/// What the options of a mount say.
#[derive(Debug, Default)]
struct Options {
    attrs: MountAttrs,
    propagation: Propagation,
    recursive: bool,
    idmap: bool,
    idmap_recursive: bool,
    /// For the file system.
    data: Vec<(String, Option<String>)>,
}

/// One mount; `given` is a source that is no path of the host.
pub fn mount(
    oci: &OciMount,
    given: Option<OwnedFd>,
    context: &Context<'_>,
    fds: &mut Descriptors,
) -> Result<Mount, RuntimeError> {
    let destination = text(oci.destination())?;
    if !destination.starts_with('/') || destination.trim_matches('/').is_empty() {
        return Err(unsupported(format_args!("a mount on {destination:?}: give a path beneath /")));
    }
    let mut options = parse(oci.options().iter().flatten(), &destination)?;
    let source = oci.source().as_deref().unwrap_or(Path::new(""));
    let fs = oci.typ().as_deref().unwrap_or("bind");
    let bind = given.is_some() || matches!(fs, "bind" | "none" | "");
    let mapped = oci.uid_mappings().is_some() || oci.gid_mappings().is_some();
    if !bind && (mapped || options.idmap) {
        return Err(unsupported(format_args!("an idmapped {fs} on {destination}: only binds are mapped")));
    }
    let source = if source == Path::new(POD_SHM) {
        Source::PodShm
    } else if bind {
        if let Some((key, _)) = options.data.first() {
            return Err(unsupported(format_args!("the option {key:?} of the bind on {destination}")));
        }
        let tree = match given {
            Some(given) => given,
            None => detached(source, options.recursive)?,
        };
        if mapped || options.idmap {
            let maps = (oci.uid_mappings().as_deref(), oci.gid_mappings().as_deref());
            idmap(&tree, maps, options.idmap_recursive, context, source)?;
        }
        Source::Detached(fds.push(tree)?)
    } else if fs == "cgroup" || fs == "cgroup2" {
        match cgroups::mounts(context.cgroups)? {
            cgroups::Mounts::Unified(dir) => Source::Detached(fds.push(dir)?),
            cgroups::Mounts::Split { dirs, links } => {
                let dirs = dirs.into_iter().map(|(name, dir)| Ok((name, fds.push(dir)?)));
                Source::Cgroups { dirs: dirs.collect::<Result<_, RuntimeError>>()?, links }
            }
        }
    } else {
        if let (Some(label), "tmpfs" | "devpts" | "mqueue") = (context.label, fs) {
            options.data.push(("context".into(), Some(label.to_owned())));
        }
        Source::New { fs: fs.to_owned(), options: options.data }
    };
    Ok(Mount { destination, source, attrs: options.attrs, propagation: options.propagation })
}

fn parse<'a>(words: impl Iterator<Item = &'a String>, destination: &str) -> Result<Options, RuntimeError> {
    let mut options = Options::default();
    for word in words {
        match word.as_str() {
            "bind" | "defaults" => {}
            "rbind" => options.recursive = true,
            "private" | "rprivate" => options.propagation = Propagation::Private,
            "slave" | "rslave" => options.propagation = Propagation::Slave,
            "shared" | "rshared" => options.propagation = Propagation::Shared,
            "idmap" => options.idmap = true,
            "ridmap" => (options.idmap, options.idmap_recursive) = (true, true),
            "unbindable" | "runbindable" | "remount" | "tmpcopyup" => {
                return Err(unsupported(format_args!("the mount option {word:?} on {destination}")));
            }
            other => {
                let attrs = &mut options.attrs;
                if let Some((set, clear)) = flag(other) {
                    attrs.set = attrs.set & !clear | set;
                    attrs.clear |= clear;
                } else if let Some((set, clear)) = other.strip_prefix('r').and_then(flag) {
                    attrs.recursive_set = attrs.recursive_set & !clear | set;
                    attrs.recursive_clear |= clear;
                } else if let Some((key, value)) = other.split_once('=') {
                    options.data.push((key.to_owned(), Some(value.to_owned())));
                } else {
                    options.data.push((other.to_owned(), None));
                }
            }
        }
    }
    Ok(options)
}

/// MOUNT_ATTR_ flags that an option sets, and those it clears.
fn flag(word: &str) -> Option<(u64, u64)> {
    const ATIME: u64 = libc::MOUNT_ATTR__ATIME;
    Some(match word {
        "ro" => (libc::MOUNT_ATTR_RDONLY, 0),
        "rw" => (0, libc::MOUNT_ATTR_RDONLY),
        "nosuid" => (libc::MOUNT_ATTR_NOSUID, 0),
        "suid" => (0, libc::MOUNT_ATTR_NOSUID),
        "nodev" => (libc::MOUNT_ATTR_NODEV, 0),
        "dev" => (0, libc::MOUNT_ATTR_NODEV),
        "noexec" => (libc::MOUNT_ATTR_NOEXEC, 0),
        "exec" => (0, libc::MOUNT_ATTR_NOEXEC),
        "nosymfollow" => (libc::MOUNT_ATTR_NOSYMFOLLOW, 0),
        "symfollow" => (0, libc::MOUNT_ATTR_NOSYMFOLLOW),
        "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0),
        "diratime" => (0, libc::MOUNT_ATTR_NODIRATIME),
        // One field of its own: it is cleared as a whole.
        "noatime" => (libc::MOUNT_ATTR_NOATIME, ATIME),
        "strictatime" => (libc::MOUNT_ATTR_STRICTATIME, ATIME),
        "relatime" | "atime" | "norelatime" | "nostrictatime" => (libc::MOUNT_ATTR_RELATIME, ATIME),
        _ => return None,
    })
}

/// Maps the ids of a detached mount as the pod's user namespace does.
fn idmap(
    tree: &OwnedFd,
    maps: (Option<&[LinuxIdMapping]>, Option<&[LinuxIdMapping]>),
    recursive: bool,
    context: &Context<'_>,
    source: &Path,
) -> Result<(), RuntimeError> {
    let Some((user, own)) = &context.user else {
        let what =
            format_args!("an idmapped mount of {} in a pod without a user namespace", source.display());
        return Err(unsupported(what));
    };
    let same = |asked: Option<&[LinuxIdMapping]>, own| asked.is_none_or(|asked| asked == own);
    if !same(maps.0, own.0) || !same(maps.1, own.1) {
        let what = format_args!(
            "mappings on the mount of {} that are not those of the pod's user namespace",
            source.display()
        );
        return Err(unsupported(what));
    }
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(user.as_raw_fd()).unwrap_or_default(),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: path and attr outlive the call, which reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let source_error = std::io::Error::last_os_error();
    let fs = file_system(tree);
    if source_error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) {
        return Err(RuntimeError::Unsupported {
            what: format!(
                "{} is on {fs}, whose mounts cannot be idmapped for a user namespace: use a volume on another file \
                 system, or hostUsers: true",
                source.display()
            ),
        });
    }
    Err(RuntimeError::Io {
        action: format!("idmapping the mount of {} ({fs})", source.display()),
        source: source_error,
    })
}

/// What a file system is called, as far as its magic number is known.
fn file_system(tree: &OwnedFd) -> String {
    let Ok(stat) = rustix::fs::fstatfs(tree.as_fd()) else { return "an unknown file system".into() };
    match u32::try_from(stat.f_type).unwrap_or_default() {
        0x6969 => "nfs".into(),
        0xff53_4d42 | 0xfe53_4d42 => "cifs".into(),
        0x6573_5546 => "fuse".into(),
        0x0102_1997 => "9p".into(),
        0x794c_7630 => "overlay".into(),
        0x00c3_6400 => "ceph".into(),
        0x9fa0 => "proc".into(),
        0x6265_6572 => "sysfs".into(),
        0x6a65_6a63 => "virtiofs".into(),
        other => format!("a file system with magic {other:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Options, RuntimeError> {
        parse(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>().iter(), "/x")
    }

    #[test]
    fn options_are_told_apart() {
        let options =
            parsed(&["rbind", "ro", "rnosuid", "rslave", "noatime", "size=1k", "newinstance"]).unwrap();
        assert_eq!(options.attrs.set, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME);
        assert_eq!(options.attrs.clear, libc::MOUNT_ATTR__ATIME);
        assert_eq!(options.attrs.recursive_set, libc::MOUNT_ATTR_NOSUID);
        assert_eq!((options.propagation, options.recursive), (Propagation::Slave, true));
        let data = vec![("size".to_owned(), Some("1k".to_owned())), ("newinstance".to_owned(), None)];
        assert_eq!(options.data, data);
    }

    #[test]
    fn the_later_of_two_opposites_counts() {
        let options = parsed(&["ro", "rw"]).unwrap();
        assert_eq!((options.attrs.set, options.attrs.clear), (0, libc::MOUNT_ATTR_RDONLY));
        assert_eq!(parsed(&["rro"]).unwrap().attrs.recursive_set, libc::MOUNT_ATTR_RDONLY);
        assert!(parsed(&["tmpcopyup"]).unwrap_err().to_string().contains("tmpcopyup"));
    }
}
